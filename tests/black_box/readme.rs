//! The programs of the README and of the page on clients, run as they stand there.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::support::stage::NO_GRACE;
use crate::support::wait::within;
use crate::support::{Client, Daemon, Stage};

/// The time that a program may take to say something, an interpreter's start included.
const BOUND: Duration = Duration::from_secs(20);

/// The code block of a page in a language.
fn program(page: &str, language: &str) -> String {
    let page = std::fs::read_to_string(in_project(page)).unwrap();
    let begin = format!("```{language}\n");
    let (_, rest) = page.split_once(&begin).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn in_project(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A program that watches, and the lines that it prints.
struct Watcher {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watcher {
    fn start(command: Command, stage: &Stage) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.env("NATS_URL", stage.server.url()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits for a line that contains all of `parts`.
    async fn prints(&mut self, parts: &[&str]) {
        let found = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if parts.iter().all(|part| line.contains(part)) {
                    return;
                }
            }
            panic!("the program ended");
        };
        within(&format!("{parts:?}"), BOUND, found).await;
    }
}

/// The program shows who is there, and follows what changes.
async fn follows(command: Command, offline: &str) -> Stage {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.get("connect", json!({"user": {"id": "john", "status": "here"}})).await;
    let mut watcher = Watcher::start(command, &stage);
    watcher.prints(&["here"]).await;
    stage.client.upsert(json!({"id": "john", "status": "there"})).await;
    watcher.prints(&["john", "there"]).await;
    stage.client.upsert(json!({"id": "john", "invisible": true})).await;
    watcher.prints(&["john", offline]).await;
    stage
}

/// Python with nats-py and our client at hand, to run the program of a page.
fn python(page: &str) -> Command {
    python_with("", page)
}

/// The same, behind a few lines of another program.
fn python_with(prelude: &str, page: &str) -> Command {
    let nats_py = Command::new(in_project("scripts/nats-py")).output().unwrap();
    let nats_py = String::from_utf8(nats_py.stdout).unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", format!("{}:{}", nats_py.trim(), in_project("clients/python/src")));
    python.arg("-c").arg(format!("{prelude}{}", program(page, "python")));
    python
}

#[tokio::test]
async fn the_program_in_python_follows_a_user() {
    follows(python("README.md"), "offline").await;
}

#[tokio::test]
async fn the_client_written_by_hand_follows_a_user_and_is_there() {
    let mut python = python("docs/writing-a-client.md");
    python.args(["ann", "john"]);
    let stage = follows(python, "offline").await;
    let ann = json!({"filter": {"id": "ann"}, "presence": true});
    let seen = stage.client.get("query_users", ann).await;
    assert_eq!(seen["users"][0]["online"], true, "{seen}");
}

/// Gives a subscription of nats-py room for this many messages.
const LITTLE_ROOM: &str = "
from nats.aio import client, subscription
room = lambda limit: 8 if limit == subscription.DEFAULT_SUB_PENDING_MSGS_LIMIT else limit
subscribe = client.Client.subscribe
subscribe.__defaults__ = tuple(room(each) for each in subscribe.__defaults__)
";

/// The last state of each user that a watcher shows.
#[derive(Default)]
struct Shown(BTreeMap<String, String>);

impl Shown {
    /// Reads on until what is shown is what a query says.
    async fn agrees(&mut self, watcher: &mut Watcher, client: &Client, users: &[&str]) {
        let agrees = async {
            loop {
                let query = json!({"filter": {"id": {"$in": users}}, "presence": true});
                let found = client.get("query_users", query).await["users"].take();
                let now = |user: &str| match found
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|each| each["id"] == user)
                {
                    None => "offline None".to_owned(),
                    Some(each) => {
                        let online = if each["online"] == true { "online" } else { "offline" };
                        format!("{online} {}", each["status"].as_str().unwrap_or("None"))
                    }
                };
                if users.iter().all(|user| self.0.get(*user) == Some(&now(user))) {
                    return;
                }
                let line = watcher.lines.next_line().await.unwrap().expect("the program runs");
                let (user, state) = line.split_once(' ').unwrap();
                self.0.insert(user.to_owned(), state.to_owned());
            }
        };
        within("what is shown agrees with a query", BOUND, agrees).await;
    }
}

#[tokio::test]
async fn the_client_written_by_hand_agrees_with_a_query_after_every_trouble() {
    const USERS: [&str; 4] = ["john", "jack", "jim", "eve"];
    let mut stage = Stage::start(NO_GRACE).await;
    for user in USERS {
        let connect = json!({"user": {"id": user, "status": "0"}, "connection_id": "c"});
        stage.client.get("connect", connect).await;
    }
    let mut command = python_with(LITTLE_ROOM, "docs/writing-a-client.md");
    command.arg("ann").args(USERS);
    let mut watcher = Watcher::start(command, &stage);
    let mut shown = Shown::default();
    shown.agrees(&mut watcher, &stage.client, &USERS).await;

    // Its subscriptions overflow.
    watcher.signal(Signal::STOP);
    for round in 1..=60 {
        for user in ["john", "jack"] {
            stage.client.upsert(json!({"id": user, "status": round.to_string()})).await;
        }
    }
    watcher.signal(Signal::CONT);
    shown.agrees(&mut watcher, &stage.client, &USERS).await;

    // The daemon is another one, and things happened meanwhile.
    stage.daemon.kill();
    stage.daemon = Daemon::spawn(&stage.server, NO_GRACE).await;
    stage.client.upsert(json!({"id": "jim", "status": "later"})).await;
    shown.agrees(&mut watcher, &stage.client, &USERS).await;

    // NATS is away, and so is a user when the watcher is back.
    watcher.signal(Signal::STOP);
    stage.server.vanish();
    stage.server.appear().await;
    stage.daemon.ready(&stage.server).await;
    stage.client = Client::connect(&stage.server).await;
    within("the daemon answers", BOUND, async {
        let gone = json!({"ids": ["eve"]});
        while !matches!(
            stage.client.attempt("delete_users", gone.clone(), Duration::from_secs(3)).await,
            Some(Ok(_))
        ) {}
    })
    .await;
    stage.client.upsert(json!({"id": "john", "status": "after"})).await;
    watcher.signal(Signal::CONT);
    shown.agrees(&mut watcher, &stage.client, &USERS).await;
    assert_eq!(shown.0["eve"], "offline None");
    let ann = stage.client.see("ann").await.unwrap_or(Value::Null);
    assert_eq!(ann["online"], true, "it is there itself");
}

#[tokio::test]
async fn the_program_in_rust_follows_a_user() {
    let example = std::fs::read_to_string(in_project("clients/rust/examples/watch.rs")).unwrap();
    assert_eq!(program("README.md", "rust"), example, "the README shows the client's example");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "presenced-client", "--example", "watch"]);
    assert!(build.current_dir(in_project("")).status().unwrap().success());
    let daemon = std::path::Path::new(env!("CARGO_BIN_EXE_presenced"));
    follows(Command::new(daemon.with_file_name("examples").join("watch")), "online false").await;
}
