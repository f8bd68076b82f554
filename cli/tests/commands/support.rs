//! `presencectl` against real servers and daemons.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::servers::{Daemon, Server};

pub const SOON: Duration = Duration::from_secs(20);

/// A server and two daemons.
pub struct Stage {
    pub server: Server,
    pub daemons: Vec<Daemon>,
    pub home: tempfile::TempDir,
}

impl Stage {
    pub async fn start() -> Self {
        let server = Server::start().await;
        Self::on(server, &[]).await
    }

    /// Two daemons with these settings.
    pub async fn on(server: Server, settings: &[(&str, &str)]) -> Self {
        let mut daemons = Vec::new();
        for _ in 0..2 {
            daemons.push(Daemon::start_with(&server.url(), settings).await);
        }
        Self { server, daemons, home: tempfile::tempdir().unwrap() }
    }

    /// The program, in an environment of its own, on this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(&self.home.path().to_owned(), arguments);
        command.env("NATS_URL", self.server.url());
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments)).await
    }

    /// The output of a command that must succeed.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).await;
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        done.stdout
    }

    /// The JSON lines of a command that must succeed.
    pub async fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.ok(arguments).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A command that goes on.
    pub fn follow(&self, arguments: &[&str]) -> Following {
        Following::of(self.command(arguments))
    }
}

/// The program without anything of this machine's user.
pub fn bare(home: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presencectl"));
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TZ", "UTC")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub async fn of(mut command: Command) -> Self {
        let run = tokio::time::timeout(Duration::from_secs(40), command.output());
        let Output { status, stdout, stderr } =
            run.await.unwrap_or_else(|_| panic!("does not end: {command:?}")).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs a command that fails with `code`, says `said`, and prints no data.
    pub fn fails(&self, code: i32, said: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(said), "{said:?} is not in {self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// A command that runs, and the JSON lines that it prints.
pub struct Following {
    pub process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    pub fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    pub async fn line(&mut self) -> String {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await;
        line.expect("a line comes").unwrap().expect("it goes on")
    }

    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// Ctrl-C, and the exit code.
    pub async fn interrupt(mut self) -> i32 {
        let pid = self.process.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
        assert!(kill.success());
        self.ends().await
    }

    pub async fn ends(&mut self) -> i32 {
        let status = tokio::time::timeout(SOON, self.process.wait()).await;
        status.expect("it ends").unwrap().code().unwrap_or(-1)
    }
}
