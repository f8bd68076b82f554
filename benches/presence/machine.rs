//! A server, a daemon, and what processes use of the machine.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions};
use presenced::dev::server::{self, NatsServer};
use rustix::param::clock_ticks_per_second;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Messages that a subscription of the client holds.
const CAPACITY: usize = 1 << 20;

/// No user lapses and no request is late while others are measured.
pub const LONG_LEASE: &str = "[liveness]\nlease = \"1day\"\nheartbeat_interval = \"1h\"\n\
     [limits]\nrequest_timeout = \"30s\"\n";

/// A nats-server with a folder of its own.
pub struct Machine {
    pub server: NatsServer,
    pub folder: TempDir,
}

/// A daemon, with its metrics on HTTP.
pub struct Daemon {
    child: Child,
    metrics: String,
}

impl Machine {
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = std::env::var_os("NATS_SERVER").map(PathBuf::from);
        let program = server::find(program.as_deref())?;
        let server = NatsServer::start(&program, &folder.path().join("js"), 0).await?;
        Ok(Self { server, folder })
    }

    pub async fn client(&self) -> Result<Client> {
        let options = ConnectOptions::new().subscription_capacity(CAPACITY);
        Ok(options.connect(self.server.url()).await?)
    }

    /// Starts a daemon with these settings, and waits until it serves.
    pub async fn serve(&self, settings: &str) -> Result<Daemon> {
        let daemon = self.spawn(settings)?;
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Starts a daemon with these settings.
    pub fn spawn(&self, settings: &str) -> Result<Daemon> {
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let path = self.folder.path().join(format!("presenced-{metrics}.toml"));
        fs::write(&path, format!("[metrics]\nlisten = \"{metrics}\"\n{settings}"))?;
        let program = std::env::var_os("PRESENCED");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_presenced").into());
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(path).kill_on_drop(true);
        command.env("PRESENCED_NATS__URL", self.server.url()).env("PRESENCED_LOG__LEVEL", "error");
        let child = command.spawn().context("cannot start the daemon")?;
        Ok(Daemon { child, metrics })
    }
}

impl Daemon {
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the daemon ended")
    }

    pub async fn ready(&self) -> Result<()> {
        while !self.get("/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            self.id()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// The value of a metric; 0 if there is none yet.
    pub async fn metric(&self, series: &str) -> Result<u64> {
        let page = self.get("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or(" 0");
        Ok(value.trim().parse()?)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok(page)
    }
}

pub async fn ask(nats: &Client, subject: &str, body: &Value) -> Result<Value> {
    let answer = nats.request(subject.to_owned(), body.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    anyhow::ensure!(answer.get("error").is_none(), "{subject} {body}: {answer}");
    Ok(answer)
}

/// The memory of a process, in bytes.
pub fn memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("no number")? * 1024)
}

/// The processor time that a process has used, also by threads that have ended.
pub fn cpu(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program may hold blanks.
    let (_, fields) = stat.rsplit_once(')').context("no name of the program")?;
    let mut ticks = 0;
    for used in fields.split_whitespace().skip(11).take(2) {
        ticks += used.parse::<u64>().context("no number of ticks")?;
    }
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}
