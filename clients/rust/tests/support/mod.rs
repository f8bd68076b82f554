//! Real servers and daemons for the tests, on loopback, each with a store of its own.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::{self, File};
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub const START: Duration = Duration::from_secs(20);

/// Waits until `check` gives something.
pub async fn eventually<T>(
    what: &str,
    bound: Duration,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(begun.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A nats-server with JetStream.
pub struct Server {
    process: Option<Process>,
    port: u16,
    config: String,
    folder: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    pub async fn start_with(config: &str) -> Self {
        let port = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self { process: None, port, config: config.to_owned(), folder };
        server.appear().await;
        server
    }

    fn write(&self) {
        let store = self.folder.path().join("jetstream");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {store:?} }}\n{}",
            self.port, self.config
        );
        let settings = self.folder.path().join("nats.conf");
        fs::write(settings, text).unwrap();
    }

    /// Has the server read other settings.
    pub async fn reload(&mut self, config: &str) {
        config.clone_into(&mut self.config);
        self.write();
        let log = || fs::read_to_string(self.folder.path().join("nats.log")).unwrap();
        let before = log().matches("Reloaded server configuration").count();
        let Some(process) = &self.process else { return };
        let pid = process.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        eventually("the settings are read", START, async || {
            (log().matches("Reloaded server configuration").count() > before).then_some(())
        })
        .await;
    }

    /// Starts the server, on what it had stored.
    pub async fn appear(&mut self) {
        self.write();
        let settings = self.folder.path().join("nats.conf");
        let log = File::create(self.folder.path().join("nats.log")).unwrap();
        let child = Command::new(nats_server())
            .arg("-c")
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Process(child));
        eventually("nats-server is ready", START, async || {
            let log = fs::read_to_string(self.folder.path().join("nats.log")).unwrap();
            log.contains("Server is ready").then_some(())
        })
        .await;
    }

    /// Has the server send its clients away, and end.
    pub fn drain(&self) {
        let Some(process) = &self.process else { return };
        let pid = process.0.id().to_string();
        assert!(Command::new("kill").args(["-USR2", &pid]).status().unwrap().success());
    }

    /// Kills the server; what it stored stays.
    pub fn vanish(&mut self) {
        self.process = None;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }
}

fn nats_server() -> PathBuf {
    if let Ok(path) = std::env::var("NATS_SERVER") {
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The daemon's program: `PRESENCED`, or what cargo builds of the workspace.
fn presenced() -> PathBuf {
    if let Ok(path) = std::env::var("PRESENCED") {
        return path.into();
    }
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--bin", "presenced"])
            .current_dir(root)
            .status()
            .unwrap();
        assert!(cargo.success());
        // The test lies in `<target>/debug/deps`.
        let test = std::env::current_exe().unwrap();
        test.parent().unwrap().parent().unwrap().join("presenced")
    };
    BUILT.get_or_init(build).clone()
}

/// A daemon with a lease of 3 s and heartbeats each second.
pub struct Daemon {
    process: Process,
    folder: TempDir,
}

impl Daemon {
    pub async fn start(url: &str) -> Self {
        Self::start_with(url, &[]).await
    }

    pub async fn start_with(url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let config = folder.path().join("presenced.toml");
        fs::write(&config, "").unwrap();
        let child = Command::new(presenced())
            .env_clear()
            .args(["run", "--config"])
            .arg(&config)
            .env("PRESENCED_NATS__URL", url)
            .env("PRESENCED_LIVENESS__LEASE", "3s")
            .env("PRESENCED_LIVENESS__HEARTBEAT_INTERVAL", "1s")
            .env("PRESENCED_LIVENESS__OFFLINE_GRACE", "500ms")
            .envs(settings.iter().map(|(key, value)| (format!("PRESENCED_{key}"), value)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { process: Process(child), folder };
        eventually("the daemon is ready", START, async || {
            let log = daemon.log();
            log.lines().any(|line| line.contains(" ready")).then_some(())
        })
        .await;
        daemon
    }

    /// Stops the process as it is: it hears nothing and answers nothing.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets the process go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Bytes are swallowed.
    Hole,
    /// Connections are closed, and none is taken.
    Closed,
}

/// A TCP proxy whose connections can be cut, or swallow all bytes.
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    cuts: watch::Sender<u64>,
    dropped: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (way, ways) = watch::channel(Way::Open);
        let (cuts, cut) = watch::channel(0);
        let dropped = Arc::new(AtomicBool::new(false));
        let ended = dropped.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                if *ways.borrow() != Way::Closed {
                    tokio::spawn(carry(client, port, ways.clone(), cut.clone()));
                }
            }
        });
        Self { port: own, way, cuts, dropped }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Closes the connections of now; new ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Swallows all bytes of the connections of now; new ones are taken as usual.
    pub fn black_hole(&self) {
        self.way.send_replace(Way::Hole);
    }

    pub fn close(&self) {
        self.way.send_replace(Way::Closed);
        self.cut();
    }

    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

async fn carry(
    client: TcpStream,
    port: u16,
    ways: watch::Receiver<Way>,
    mut cut: watch::Receiver<u64>,
) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    cut.mark_unchanged();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, ways.clone()) => {}
        () = copy(from_server, to_client, ways) => {}
        _ = cut.changed() => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    ways: watch::Receiver<Way>,
) {
    let mut bytes = vec![0; 65536];
    let mut swallowed = false;
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        // A stream that lost bytes never goes on.
        swallowed |= *ways.borrow() == Way::Hole;
        if !swallowed && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
