//! The daemon as it is shipped: the program, with its settings in the environment.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::wait::eventually;
use super::{Server, Settings};

const START: Duration = Duration::from_secs(20);

/// The time that a daemon may take to leave.
pub const LEAVE: Duration = Duration::from_secs(5);

pub struct Daemon {
    process: Process,
    folder: TempDir,
}

impl Daemon {
    /// A daemon that serves.
    pub async fn spawn(server: &Server, settings: Settings<'_>) -> Self {
        let mut daemon = Self::launch(&server.url(), settings);
        daemon.ready(server).await;
        daemon
    }

    /// A daemon that was started, and may not serve yet.
    pub fn launch(url: &str, settings: Settings<'_>) -> Self {
        Self::launch_with_file(url, settings, "")
    }

    /// A daemon whose settings stand in a file, too.
    pub fn launch_with_file(url: &str, settings: Settings<'_>, file: &str) -> Self {
        Self::launch_program(Path::new(env!("CARGO_BIN_EXE_presenced")), url, settings, file)
    }

    /// The same, with more of an environment, as systemd makes it.
    pub fn launch_under(
        url: &str,
        settings: Settings<'_>,
        file: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_presenced"));
        Self::launch_as(program, url, settings, file, environment)
    }

    /// A daemon of that build.
    pub fn launch_program(program: &Path, url: &str, settings: Settings<'_>, file: &str) -> Self {
        Self::launch_as(program, url, settings, file, &[])
    }

    fn launch_as(
        program: &Path,
        url: &str,
        settings: Settings<'_>,
        file: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("presenced.toml");
        std::fs::write(&config, file).unwrap();
        let mut command = Command::new(program);
        command.env_clear().arg("run").arg("--config").arg(&config);
        command.env("PRESENCED_NATS__URL", url).env("PRESENCED_LOG__FORMAT", "json");
        command.envs(environment.iter().copied());
        for (key, value) in settings {
            command.env(format!("PRESENCED_{key}"), value);
        }
        let log = folder.path().join("presenced.log");
        Self { process: Process::start("presenced", &mut command, log), folder }
    }

    /// Other settings in the file; they count once it is read again.
    pub fn rewrite(&self, file: &str) {
        std::fs::write(self.folder.path().join("presenced.toml"), file).unwrap();
    }

    /// Asks the daemon to read its settings again.
    pub fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Waits until the daemon says that it is ready and the server knows of all that it listens to.
    pub async fn ready(&mut self, server: &Server) {
        let id = eventually("the daemon is ready", START, async || {
            assert!(self.process.ended().is_none(), "the daemon ended: {}", self.process.log());
            self.lines().into_iter().find(|line| line["message"] == "ready")
        })
        .await["daemon"]
            .as_str()
            .unwrap()
            .to_owned();
        let nats = server.connect().await;
        eventually("the daemon answers", START, async || {
            nats.request(format!("$SRV.PING.presence.{id}"), Vec::new().into()).await.ok()
        })
        .await;
    }

    /// The lines of the log.
    pub fn lines(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the log that contains `text`.
    pub async fn logs(&mut self, text: &str) -> Value {
        eventually(&format!("the daemon logs {text:?}"), START, async || {
            self.lines().into_iter().find(|line| line.to_string().contains(text))
        })
        .await
    }

    /// The exit status of the daemon, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits for the daemon to end by itself.
    pub async fn end(&mut self, bound: Duration) -> ExitStatus {
        self.process.end(bound).await
    }

    /// The memory that the daemon has in use.
    pub fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that the daemon has had in use.
    pub fn peak_memory_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The number of files and sockets that the daemon has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Asks the daemon to leave, and waits until it has.
    pub async fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.end(LEAVE).await.code(), Some(0));
    }

    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Ends the daemon with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the daemon in the middle of what it does.
    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}
