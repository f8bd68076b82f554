//! What the benchmarks share: a server, a daemon, and what they use of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use presenced::dev::server::{self, NatsServer};
use serde_json::Value;
use tokio::process::{Child, Command};

pub async fn start_server(dir: &Path) -> Result<NatsServer> {
    let program = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    NatsServer::start(&server::find(program.as_deref())?, dir, 0).await
}

/// Starts a daemon with these settings.
pub fn serve(server: &NatsServer, dir: &Path, settings: &str) -> Result<Child> {
    let config = dir.join("presenced.toml");
    fs::write(&config, settings)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_presenced"));
    command.arg("run").arg("--config").arg(config).kill_on_drop(true);
    command.env("PRESENCED_NATS__URL", server.url()).env("PRESENCED_LOG__LEVEL", "error");
    command.spawn().context("cannot start the daemon")
}

pub async fn ready(nats: &Client) {
    while nats.request("$SRV.PING.presence", "".into()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn ask(nats: &Client, subject: &str, body: &Value) -> Result<Value> {
    let answer = nats.request(subject.to_owned(), body.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    anyhow::ensure!(answer.get("error").is_none(), "{subject} {body}: {answer}");
    Ok(answer)
}

/// The memory of the daemon, in kB.
pub fn memory(daemon: &Child) -> Result<u64> {
    let id = daemon.id().context("the daemon ended")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("no number")
}
