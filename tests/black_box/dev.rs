//! `presenced dev`: everything on one machine, with one command.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// A running `presenced dev`, and what it prints.
struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
    /// The folder of the data.
    dir: PathBuf,
}

impl Dev {
    async fn start(dir: &Path) -> Self {
        Self::spawn(&mut dev(&["--dir", dir.to_str().unwrap()])).await
    }

    async fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(OUTPUT_TIMEOUT, lines.next_line()).await.unwrap().unwrap().unwrap();
        let url = first.split(' ').find(|word| word.starts_with("nats://")).unwrap().to_owned();
        let dir = first.split_once("(data in ").unwrap().1.trim_end_matches(')').into();
        Self { child, lines, url, dir }
    }

    /// The next line with that in it.
    async fn prints(&mut self, what: &str) -> String {
        loop {
            let line = timeout(OUTPUT_TIMEOUT, self.lines.next_line()).await.unwrap().unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended before it printed {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    async fn ask(&self, operation: &str, body: Value) -> Value {
        let client = async_nats::connect(&self.url).await.unwrap();
        let subject = format!("presence.v1.{operation}");
        let answer = client.request(subject, body.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// Ctrl-C; it must end well.
    async fn interrupt(mut self) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let status = timeout(OUTPUT_TIMEOUT, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn dev(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presenced"));
    command
        .args(["dev", "--config", "/dev/null", "--port", "0"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn it_serves_follows_the_changes_and_keeps_the_data_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path()).await;
    dev.prints("kept there for the next start").await;
    dev.prints("presence.v1.connect").await;
    let page = format!("presencectl --server {} --prefix presence", dev.url);
    assert!(dev.prints(&page).await.ends_with("web --write --demo --open"));
    dev.prints("Ctrl-C").await;
    let john = json!({"user": {"id": "john", "status": "Eating..."}, "connection_id": "c1"});
    assert_eq!(dev.ask("connect", john).await["me"]["online"], true);
    assert!(dev.prints("john").await.ends_with(r#"john  online  "Eating...""#));
    dev.interrupt().await;

    let dev = Dev::start(dir.path()).await;
    let query = json!({"filter": {"id": "john"}, "presence": true});
    assert_eq!(dev.ask("query_users", query).await["users"][0]["status"], "Eating...");
    dev.interrupt().await;
}

#[tokio::test]
async fn it_runs_on_the_threads_that_are_set() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let mut dev = Dev::spawn(dev(&["--dir", &folder]).args(["--set", "runtime.threads=20"])).await;
    dev.prints("Ctrl-C").await;
    let tasks = format!("/proc/{}/task", dev.child.id().unwrap());
    let tasks = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path().join("comm"));
    let names = tasks.map(|comm| std::fs::read_to_string(comm).unwrap_or_default());
    let workers = names.filter(|name| name.starts_with("tokio")).count();
    assert!(workers >= 20, "{workers}");
    dev.interrupt().await;
}

#[tokio::test]
async fn settings_that_cannot_be_used_start_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let wrong =
        dev(&["--dir", &folder]).args(["--set", "runtime.threads=many"]).output().await.unwrap();
    assert_eq!(wrong.status.code(), Some(78), "{wrong:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "{wrong:?}");
}

#[tokio::test]
async fn an_ephemeral_one_says_that_it_keeps_nothing_and_removes_its_folder() {
    let mut dev = Dev::spawn(&mut dev(&["--ephemeral"])).await;
    dev.prints("Nothing is kept: users, channels and the log of nats-server are removed").await;
    dev.prints("Ctrl-C").await;
    let dir = dev.dir.clone();
    assert!(dir.join("nats-server.log").exists(), "{}", dir.display());
    dev.interrupt().await;
    assert!(!dir.exists(), "{}", dir.display());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refusal = async |flag: &str, value: String| {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = dev(&["--dir", dir.path().to_str().unwrap(), flag, &value]);
        let output = timeout(OUTPUT_TIMEOUT, dev.output()).await;
        let output = output.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refusal("--set", format!("metrics.listen={address}")).await;
    assert_eq!(error.matches("Address already in use").count(), 1, "{error}");
    assert_eq!(error.matches(&address.to_string()).count(), 1, "{error}");
}

#[tokio::test]
async fn two_of_them_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Dev::start(dir.path()).await;
    let mut second = dev(&["--dir", dir.path().to_str().unwrap()]);
    let second = timeout(OUTPUT_TIMEOUT, second.output()).await.unwrap().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another nats-server"));
    first.interrupt().await;
}
