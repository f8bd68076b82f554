//! A `nats-server` for `presenced dev`: found, started, stopped.

use std::env;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// The time that the server may take to listen, and to stop.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running server. It is killed if it is dropped without being stopped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    url: String,
    /// Held locked: two servers in one folder would destroy each other's data. The server inherits
    /// the open file, so the lock lasts as long as either process.
    _lock: OwnedFd,
}

impl NatsServer {
    /// Starts `binary` on a port of the loopback interface (0 for any that is free), with JetStream
    /// in `dir`.
    pub async fn start(binary: &Path, dir: &Path, port: u16) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let port = if port == 0 { free_port()? } else { port };
        let lock = lock(dir)?;
        let log = dir.join("nats-server.log");
        let child = Command::new(binary)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream"])
            .arg("--store_dir")
            .arg(dir)
            .arg("--ports_file_dir")
            .arg(dir)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C on the terminal is for this process, which needs the server while it leaves.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let url = format!("nats://127.0.0.1:{port}");
        let mut server = Self { child, url, _lock: lock };
        server.listens(dir, &log).await?;
        Ok(server)
    }

    /// The address of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process of the server; `None` once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for an end that was not requested.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("nats-server has ended ({status})"),
            Err(error) => anyhow::Error::new(error).context("nats-server is out of reach"),
        }
    }

    /// Stops the server, which then has everything on disk.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("cannot stop nats-server")?;
        }
        timeout(START_TIMEOUT, self.child.wait()).await.context("nats-server does not stop")??;
        Ok(())
    }

    /// Waits for the file that the server writes when it listens. A connection would prove less, as
    /// another server may have the port.
    async fn listens(&mut self, dir: &Path, log: &Path) -> Result<()> {
        let pid = self.child.id().unwrap_or_default();
        let ports = dir.join(format!("nats-server_{pid}.ports"));
        let waited = timeout(START_TIMEOUT, async {
            loop {
                if ports.exists() {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!(
                        "nats-server ended at once ({status}); is the port of {} in use? Its log \
                         is {}",
                        self.url,
                        log.display()
                    );
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        waited
            .await
            .with_context(|| format!("nats-server does not listen; its log is {}", log.display()))?
    }
}

/// Finds a `nats-server`: the one that is named, `NATS_SERVER`, or one on `PATH`.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Some(named) = env::var_os("NATS_SERVER").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&path).map(|dir| dir.join("nats-server"));
    on_path.find(|candidate| candidate.is_file()).context(
        "there is no nats-server: name one with --nats-server or NATS_SERVER, or put one on PATH",
    )
}

/// Locks the folder for as long as someone has the returned file open.
fn lock(dir: &Path) -> Result<OwnedFd> {
    let path = dir.join("lock");
    // Without `CLOEXEC`: the server inherits it.
    let flags = OFlags::CREATE | OFlags::RDWR;
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "{} is in use by another nats-server; name another folder with --dir",
            dir.display()
        )
    })?;
    Ok(file)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port")?;
    Ok(listener.local_addr()?.port())
}
