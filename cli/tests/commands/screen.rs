//! Commands on a terminal, as a person sees them: in tmux, 80 columns wide.

use std::process::Command;

use crate::servers::eventually;
use crate::support::{SOON, Stage};

/// A terminal with a shell of its own; it ends with its owner.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn start(stage: &Stage, command: &str) -> Self {
        let socket = stage.home.path().join(format!("tmux-{:08x}", fastrand::u32(..)));
        let socket = socket.display().to_string();
        let program = env!("CARGO_BIN_EXE_presencectl");
        let line =
            format!("NATS_URL={} {program} {command}; echo \"exit $?\"; cat", stage.server.url());
        let started = Command::new("tmux")
            .args([
                "-f",
                "/dev/null",
                "-S",
                &socket,
                "new-session",
                "-d",
                "-x",
                "80",
                "-y",
                "24",
                &line,
            ])
            .env("LC_ALL", "C.UTF-8")
            .status();
        assert!(started.unwrap().success(), "tmux starts");
        Self { socket }
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("tmux").args(["-S", &self.socket]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    async fn shows(&self, parts: &[&str]) -> String {
        let what = format!("{parts:?} on the screen");
        eventually(&what, SOON, async || {
            let screen = self.tmux(&["capture-pane", "-p"]);
            parts.iter().all(|part| screen.contains(part)).then_some(screen)
        })
        .await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[tokio::test]
async fn top_shows_who_is_online_the_daemons_and_the_changes() {
    let mut stage = Stage::start().await;
    let mut john = stage.follow(&["connect", "john", "--status", "eating"]);
    john.json().await;
    let terminal = Terminal::start(&stage, "top");
    terminal.shows(&["1 online of 1", "DAEMON", "0.1.0"]).await;
    stage.ok(&["set", "john", "--status", "a\u{1b}[31mb"]).await;
    let screen = terminal.shows(&["john", "a\u{FFFD}[31mb"]).await;
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    stage.daemons.clear();
    terminal.shows(&["? online of ? · ? channels", "no daemon serves", "--prefix"]).await;
    terminal.tmux(&["send-keys", "q"]);
    terminal.shows(&["exit 0"]).await;
    let terminal = Terminal::start(&stage, "top");
    terminal.shows(&["no daemon serves presence.v1", "exit 69"]).await;
}

#[tokio::test]
async fn a_watch_on_a_terminal_shows_a_table_and_then_what_changes() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john", "--status", "one"]).await;
    let terminal = Terminal::start(&stage, "watch john");
    terminal.shows(&["USER", "john", "one"]).await;
    stage.ok(&["set", "john", "--status", "two"]).await;
    terminal.shows(&["john has a status  two"]).await;
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.shows(&["exit 130"]).await;
}

#[tokio::test]
async fn a_deletion_is_asked_about_on_a_terminal() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john"]).await;
    let terminal = Terminal::start(&stage, "delete john");
    terminal.shows(&["Delete john? [y/N]"]).await;
    terminal.tmux(&["send-keys", "n", "Enter"]);
    terminal.shows(&["nothing was deleted", "exit 3"]).await;
    stage.ok(&["get", "john"]).await;
}

#[tokio::test]
async fn headings_have_the_colour_of_the_context() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john"]).await;
    let context = stage.home.path().join("red.json");
    std::fs::write(&context, r#"{"color_scheme": "red"}"#).unwrap();
    let context = context.display();
    let terminal = Terminal::start(&stage, &format!("--context {context} who john"));
    terminal.shows(&["exit 0"]).await;
    let painted = terminal.tmux(&["capture-pane", "-p", "-e"]);
    assert!(painted.starts_with("\u{1b}[38;5;9m   USER"), "{painted:?}");
}

#[tokio::test]
async fn top_needs_a_terminal() {
    let stage = Stage::start().await;
    stage.run(&["top"]).await.fails(2, "needs a terminal");
}
