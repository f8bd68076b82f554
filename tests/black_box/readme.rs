//! The programs of the README and of the page on clients, run as they stand there.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::support::Stage;
use crate::support::stage::NO_GRACE;
use crate::support::wait::within;

/// How long a program may take to say something, an interpreter's start included.
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
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watcher {
    fn start(command: Command, stage: &Stage) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.env("NATS_URL", stage.server.url()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, lines }
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
    let nats_py = Command::new(in_project("scripts/nats-py")).output().unwrap();
    let nats_py = String::from_utf8(nats_py.stdout).unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", format!("{}:{}", nats_py.trim(), in_project("clients/python/src")));
    python.arg("-c").arg(program(page, "python"));
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
