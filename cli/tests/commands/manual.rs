//! The commands of the README and the pages, run as they stand there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::servers::eventually;
use crate::support::{SOON, Stage};

/// Commands that go on until Ctrl-C.
const ENDLESS: [&str; 3] = ["watch", "connect", "web"];

/// The lines of code that call the program.
fn commands(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    lines.filter(|line| line.starts_with("presencectl ")).map(str::to_owned).collect()
}

/// In a shell, as a person would.
fn shell(stage: &Stage, line: &str) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_presencectl")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", stage.home.path())
        .env("NATS_URL", stage.server.url())
        .args(["-c", &format!("exec {line}")])
        .current_dir(stage.home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run_all(page: &str) {
    let stage = Stage::start().await;
    eventually("all hear", SOON, async || {
        let daemons = stage.lines(&["daemons"]).await;
        daemons.iter().all(|daemon| daemon["deaf"] == false).then_some(())
    })
    .await;
    // The pages speak of him.
    stage.ok(&["set", "john"]).await;
    let commands = commands(page);
    assert!(!commands.is_empty(), "{page}");
    let mut running = Vec::new();
    for line in &commands {
        let name = line.split(' ').nth(1).unwrap();
        if ENDLESS.contains(&name) {
            let mut process = shell(&stage, line).spawn().unwrap();
            if name == "connect" {
                eventually("john is online", SOON, async || {
                    let john = stage.run(&["who", "-o", "ids"]).await.stdout;
                    john.contains("john").then_some(())
                })
                .await;
            }
            let ended = tokio::time::timeout(Duration::from_millis(300), process.wait()).await;
            assert!(ended.is_err(), "{page}: {line} goes on");
            running.push(process);
        } else {
            let output = tokio::time::timeout(SOON, shell(&stage, line).output()).await;
            let output = output.unwrap_or_else(|_| panic!("{page}: {line} does not end")).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: {line}: {said}");
        }
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_work() {
    run_all("README.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_presencectl_work() {
    run_all("docs/presencectl.md").await;
}

#[tokio::test]
async fn the_commands_for_people_on_call_work() {
    run_all("docs/operations.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_security_work() {
    run_all("docs/security.md").await;
}
