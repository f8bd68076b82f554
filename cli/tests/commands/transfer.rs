//! `export` and `import`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use presenced_client::{Availability, Patch, Service};
use serde_json::{Value, json};

use crate::servers::{Daemon, Server, eventually};
use crate::support::{SOON, Stage};

#[tokio::test]
async fn users_move_from_one_service_to_another_without_their_connections() {
    let (stage, other) = (Stage::start().await, Stage::on(Server::start().await, &[]).await);
    let service = Service::new(stage.server.connect().await);
    for part in 0..3 {
        let users = (0..100).map(|n| {
            let id = format!("u{:03}", part * 100 + n);
            Patch::new().status("here").set("n", n).unwrap().of(id).unwrap()
        });
        service.upsert(users).await.unwrap();
    }
    let hidden = Patch::new().invisible(true).availability(Availability::Busy).of("u000").unwrap();
    service.upsert([hidden]).await.unwrap();
    let connection = service.connect("u001", Patch::new()).await.unwrap();

    let file = stage.home.path().join("users.jsonl");
    let name = file.to_str().unwrap();
    let done = stage.run(&["export", name]).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it says who is invisible");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 300);
    let first =
        json!({"id": "u000", "status": "here", "n": 0, "invisible": true, "availability": "busy"});
    assert_eq!((&lines[0], &lines[1]), (&first, &json!({"id": "u001", "status": "here", "n": 1})));
    stage.run(&["export", name]).await.fails(2, "exists");
    assert_eq!(stage.ok(&["export", "--where", "n=7"]).await.lines().count(), 3);

    assert_eq!(other.ok(&["import", name, "--dry-run"]).await, "{\"users\":300}\n");
    assert_eq!(other.ok(&["count"]).await, "{\"count\":0}\n");
    assert_eq!(other.ok(&["import", name]).await, "{\"imported\":300}\n");
    assert_eq!(other.ok(&["export"]).await, text, "what was imported is what was exported");
    assert_eq!(other.ok(&["who", "-o", "ids"]).await, "", "nobody is online by it");
    connection.close().await;
}

#[tokio::test]
async fn what_was_cut_off_goes_on() {
    let mut stage = Stage::start().await;
    let file = stage.home.path().join("users.jsonl");
    let name = file.to_str().unwrap().to_owned();
    let mut good = "\u{feff}{\"id\":\"u000\"}\n".to_owned();
    good.extend((1..150).map(|n| format!("{{\"id\":\"u{n:03}\"}}\n")));
    let long = json!({"id": "u150", "status": "x".repeat(2000)});
    fs::write(&file, format!("{good}{long}\n")).unwrap();
    let cut = stage.run(&["import", &name]).await;
    cut.fails(1, "too_large");
    assert!(cut.stderr.contains("users.jsonl, line 151:"), "{cut:?}");
    assert_eq!(stage.ok(&["count"]).await, "{\"count\":100}\n");
    // A change below the 100th line would never be sent.
    let other = good.replace("u007", "u00x");
    fs::write(&file, other).unwrap();
    stage.run(&["import", &name]).await.fails(2, "of another file");
    fs::write(&file, format!("{good}{{\"id\":\"u150\"}}\n\n")).unwrap();
    let rest = stage.run(&["import", &name]).await;
    assert_eq!((rest.code, rest.stdout.as_str()), (0, "{\"imported\":51}\n"), "{rest:?}");
    assert!(rest.stderr.contains("going on after line 100"), "{rest:?}");
    assert!(!stage.home.path().join("users.jsonl.progress").exists());

    fs::write(&file, "{\"id\":\"a\"}\n{\"team\":1}\n").unwrap();
    stage.run(&["import", &name]).await.fails(2, "line 2");
    stage.run(&["import", "-"]).await.fails(2, "- is no regular file");
    assert_eq!(stage.run(&["get", "a"]).await.code, 3, "nothing was sent");

    let target = stage.home.path().join("all.jsonl");
    let part = stage.home.path().join("all.jsonl.part");
    let export = ["export", target.to_str().unwrap()];
    stage.daemons.clear();
    stage.run(&export).await.fails(69, "no daemon");
    assert!(!part.exists(), "what cannot begin leaves no file");
    stage.daemons.push(Daemon::start_with(&stage.server.url(), &[]).await);
    let many: String = (0..1500).map(|n| format!("{{\"id\":\"u{n:04}\"}}\n")).collect();
    fs::write(&file, many).unwrap();
    stage.ok(&["import", &name]).await;
    let mut cut = stage.follow(&export);
    eventually("a part is written", SOON, async || {
        fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(())
    })
    .await;
    cut.process.kill().await.unwrap();
    fs::write(&part, "{\"id\":\"u148\"}\n{\"id\":\"u1").unwrap();
    let nobody = [&export[..], &["--where", "id=nobody"]].concat();
    stage.run(&nobody).await.fails(2, "all.jsonl.part is of an export from another server");
    let rest = stage.run(&export).await;
    assert!(rest.stderr.contains("going on after u148"), "{rest:?}");
    let exported = fs::read_to_string(&target).unwrap();
    assert!(exported.starts_with("{\"id\":\"u148\"}\n{\"id\":\"u1480\"}\n"), "{exported}");
    assert!(exported.ends_with("{\"id\":\"u150\"}\n"), "{exported}");
    assert!(!part.exists());
}
