//! Commands that go on: `watch`, `wait`, `connect`.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use presenced_client::{Patch, Service};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::servers::eventually;
use crate::support::{SOON, Stage};

#[tokio::test]
async fn a_watch_prints_each_change_as_a_line_of_json() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john", "--status", "one"]).await;
    let mut watch = stage.follow(&["watch", "john", "jack"]);
    let mut first = [watch.json().await, watch.json().await];
    first.sort_by_key(|change| change["id"].to_string());
    let [jack, john] = first;
    assert_eq!((&jack["id"], &jack["kind"]), (&json!("jack"), &json!("gone")), "{jack}");
    assert_eq!((&john["kind"], &john["now"]["status"]), (&json!("first"), &json!("one")));
    stage.ok(&["set", "john", "--status", "two"]).await;
    let change = watch.json().await;
    assert_eq!((&change["kind"], &change["before"]["status"]), (&json!("status"), &json!("one")));
    let mut connected = stage.follow(&["connect", "john"]);
    assert_eq!(watch.json().await["kind"], "came");
    assert_eq!(connected.json().await["state"], "online");
    assert_eq!(connected.interrupt().await, 130);
    assert_eq!(watch.json().await["kind"], "left");
    assert_eq!(watch.interrupt().await, 130);
}

#[tokio::test]
async fn a_watch_runs_a_command_for_each_change() {
    let stage = Stage::start().await;
    stage.ok(&["channel", "create", "team:red", "john"]).await;
    let file = stage.home.path().join("changes");
    let command = format!("cat >> {}", file.display());
    let _watch = stage.follow(&["watch", "--channel", "team:red", "--exec", &command]);
    let changes = async || std::fs::read_to_string(&file).ok();
    eventually("the first picture", SOON, async || {
        changes().await.filter(|text| text.contains("john"))
    })
    .await;
    stage.ok(&["set", "john", "--status", "it's `here`"]).await;
    eventually("the change", SOON, async || {
        changes().await.filter(|text| text.contains("it's `here`"))
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_is_slower_than_the_changes_says_what_it_leaves_out() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john", "-f", "n=0"]).await;
    let gate = stage.home.path().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let mut watch = stage.follow(&["watch", "--all", "--exec", &wait]);
    assert_eq!(watch.json().await["kind"], "first");
    let service = Service::new(stage.server.connect().await);
    for n in 1..=5 {
        let change = Patch::new().status(n.to_string().as_str()).of("john").unwrap();
        service.upsert([change]).await.unwrap();
    }
    let mut said = BufReader::new(watch.process.stderr.take().unwrap()).lines();
    fs::write(&gate, "").unwrap();
    while watch.json().await["now"]["status"] != "5" {}
    let told = tokio::time::timeout(SOON, said.next_line()).await.unwrap().unwrap().unwrap();
    assert!(told.contains("steps are left out"), "{told}");
    assert_eq!(watch.interrupt().await, 130);
}

#[tokio::test]
async fn a_wait_returns_when_it_is_so_or_says_that_it_is_not() {
    let stage = Stage::start().await;
    stage.ok(&["set", "jack", "--status", "ready"]).await;
    let found = stage.lines(&["wait", "jack", "--status", "ready", "--for", "20s"]).await;
    assert_eq!(found[0]["id"], "jack");
    stage.ok(&["wait", "jack", "nobody", "--offline", "--for", "20s"]).await;
    stage.run(&["wait", "jack", "--for", "300ms"]).await.fails(3, "not so within 300ms");

    let mut all = stage.follow(&["wait", "john", "jack"]);
    let mut any = stage.follow(&["wait", "john", "jack", "--any"]);
    let mut john = stage.follow(&["connect", "john"]);
    john.json().await;
    assert_eq!(any.json().await["id"], "john");
    assert_eq!(any.ends().await, 0);
    let mut jack = stage.follow(&["connect", "jack"]);
    jack.json().await;
    assert_eq!(
        (&all.json().await["id"], &all.json().await["id"]),
        (&json!("john"), &json!("jack"))
    );
    assert_eq!(all.ends().await, 0);
}

#[tokio::test]
async fn a_connection_ends_with_its_time_and_the_user_is_offline() {
    let stage = Stage::start().await;
    let states =
        stage.lines(&["connect", "john", "--invisible", "-f", "n=1", "--for", "200ms"]).await;
    let states: Vec<_> = states.iter().map(|state| state["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["online", "closed"]);
    let me = stage.lines(&["--as", "john", "get", "john"]).await;
    assert_eq!(
        (&me[0]["online"], &me[0]["invisible"], &me[0]["n"]),
        (&json!(false), &json!(true), &json!(1))
    );
}

#[tokio::test]
async fn a_watch_finds_its_users_by_itself() {
    let stage = Stage::start().await;
    let mut red = stage.follow(&["watch", "--where", "team=red"]);
    let mut all = stage.follow(&["watch", "--all"]);
    stage.ok(&["set", "john", "-f", "team=red"]).await;
    let mut john = stage.follow(&["connect", "john"]);
    john.json().await;
    let comes = async |watch: &mut crate::support::Following| {
        while watch.json().await["now"]["online"] != true {}
    };
    comes(&mut all).await;
    comes(&mut red).await;
    assert_eq!((red.interrupt().await, all.interrupt().await), (130, 130));
}

#[tokio::test]
async fn a_reader_that_does_not_read_keeps_no_command_from_its_end() {
    let stage = Stage::start().await;
    // More than a pipe holds.
    let file = stage.home.path().join("users.jsonl");
    let status = "x".repeat(500);
    let users =
        (0..300).map(|n| json!({"id": format!("u{n}"), "status": status}).to_string() + "\n");
    fs::write(&file, users.collect::<String>()).unwrap();
    stage.ok(&["import", file.to_str().unwrap()]).await;
    let mut command = stage.command(&["watch", "--all"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = watch.id().unwrap().to_string();
    let interrupt = async || {
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    };
    // A pipe holds 64 KiB; the line that does not fit is not counted.
    const PIPE_BYTES: u64 = 60_000;
    let written = format!("/proc/{pid}/io");
    eventually("the pipe is full", SOON, async || {
        let io = fs::read_to_string(&written).unwrap();
        let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: "))?;
        (bytes.parse::<u64>().unwrap() >= PIPE_BYTES).then_some(())
    })
    .await;
    interrupt().await;
    let code = eventually("it ends at the second Ctrl-C", SOON, async || {
        let ended = tokio::time::timeout(Duration::from_millis(200), watch.wait()).await;
        if ended.is_err() {
            interrupt().await;
        }
        ended.ok()
    })
    .await;
    assert_eq!(code.unwrap().code(), Some(130));
}

#[tokio::test]
async fn a_wait_of_no_time_is_one_look_and_a_stranger_is_named() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john"]).await;
    let offline = stage.run(&["wait", "john", "--offline", "--for", "0s"]).await;
    assert_eq!((offline.code, offline.stderr.as_str()), (0, ""), "{offline:?}");
    stage.run(&["wait", "john", "--for", "0s"]).await.fails(3, "not so within 0s");
    let stranger = stage.run(&["wait", "nobody", "--offline"]).await;
    assert_eq!((stranger.code, stranger.stdout.as_str()), (0, ""), "{stranger:?}");
    assert!(stranger.stderr.contains("there is no user nobody"), "{stranger:?}");
    let mut watched = stage.command(&["watch", "john", "nobody"]);
    watched.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut watched = watched.spawn().unwrap();
    let mut lines = BufReader::new(watched.stderr.take().unwrap()).lines();
    let line = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("there is no user nobody"), "{line}");
}
