//! A program under test: its log is kept, and it dies with the test, however that ends.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::wait::eventually;

/// The number of the log's lines that are shown when a test fails.
const SHOWN: usize = 60;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that writes its log to standard error.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that the program has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).unwrap();
    }

    /// Stops the program in the middle of what it does; it stands still when this returns.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(Pid::from_child(&self.child)), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{} has ended", self.name);
    }

    /// The exit status of the program, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the program to end by itself.
    pub async fn end(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, bound, async || self.child.try_wait().unwrap()).await
    }

    /// Ends the program at once.
    pub fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().filter(|line| !line.contains("[INF]")).collect();
            let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!("--- the end of the log of {}:\n{shown}\n---", self.name);
        }
    }
}
