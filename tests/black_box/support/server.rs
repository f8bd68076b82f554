//! A real nats-server, on a port that is free, with a store of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use async_nats::jetstream::{self, message::StreamMessage};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::wait::eventually;

const START: Duration = Duration::from_secs(10);

pub struct Server {
    process: Option<Process>,
    port: u16,
    options: Options,
    folder: TempDir,
}

/// The options of a server.
pub struct Options {
    pub jetstream: bool,
    /// The interval at which JetStream syncs its files, and compacts them.
    pub sync_interval: &'static str,
    /// More text for its file of settings.
    pub config: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { jetstream: true, sync_interval: "2m", config: String::new() }
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        let mut server = Self::absent(options);
        server.appear().await;
        server
    }

    /// A server that is not there yet; its address is known.
    pub fn absent(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        Self { process: None, port, options, folder }
    }

    /// Starts the server, on what it had stored.
    pub async fn appear(&mut self) {
        let settings = self.folder.path().join("nats.conf");
        fs::write(&settings, self.settings()).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(&settings);
        let log = self.folder.path().join("nats.log");
        let mut process = Process::start("nats-server", &mut command, log);
        eventually("nats-server is ready", START, async || {
            assert!(process.ended().is_none(), "nats-server ended: {}", process.log());
            process.log().contains("Server is ready").then_some(())
        })
        .await;
        self.process = Some(process);
    }

    /// Changes the text in its file of settings, and waits until a server that runs has read it.
    pub async fn reload(&mut self, config: String) {
        self.options.config = config;
        fs::write(self.folder.path().join("nats.conf"), self.settings()).unwrap();
        let Some(process) = &self.process else { return };
        let reloads = || process.log().matches("Reloaded server configuration").count();
        let before = reloads();
        process.signal(Signal::HUP);
        eventually("the server reads its settings again", START, async || {
            (reloads() > before).then_some(())
        })
        .await;
    }

    /// Kills the server; what it stored stays.
    pub fn vanish(&mut self) {
        self.process = None;
        // Its next start is to be told from this one.
        fs::rename(self.folder.path().join("nats.log"), self.folder.path().join("nats.log.1"))
            .unwrap();
    }

    /// Copies what the server has stored.
    pub fn copy_store(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.folder.path().join("jetstream"), copy.path());
        copy
    }

    /// Puts a copy in place of what a server that is away had stored.
    pub fn put_back(&self, copy: &TempDir) {
        let store = self.folder.path().join("jetstream");
        fs::remove_dir_all(&store).unwrap();
        copy_files(copy.path(), &store);
    }

    /// Stops the server in the middle of what it does; its connections stay.
    pub fn pause(&self) {
        self.process.as_ref().unwrap().pause();
    }

    pub fn resume(&self) {
        self.process.as_ref().unwrap().signal(rustix::process::Signal::CONT);
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().subscription_capacity(1 << 17);
        options.connect(self.url()).await.unwrap()
    }

    fn settings(&self) -> String {
        let mut text = format!("listen: \"127.0.0.1:{}\"\n", self.port);
        if self.options.jetstream {
            let store = self.folder.path().join("jetstream");
            let sync_interval = self.options.sync_interval;
            let jetstream = format!("store_dir: {store:?}, sync_interval: {sync_interval:?}");
            writeln!(text, "jetstream {{ {jetstream} }}").unwrap();
        }
        text + &self.options.config
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The stream of the bucket, as JetStream tells of it.
pub async fn stream(nats: &async_nats::Client, bucket: &str) -> Value {
    let subject = format!("$JS.API.STREAM.INFO.KV_{bucket}");
    let reply = nats.request(subject, Vec::new().into()).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

/// The last sequence of the stream of the bucket: it moves with everything that is written.
pub async fn last_seq(nats: &async_nats::Client) -> u64 {
    let stream = stream(nats, "presence").await;
    stream["state"]["last_seq"].as_u64().unwrap_or_else(|| panic!("no last sequence: {stream}"))
}

/// The newest message of a key of the bucket.
pub async fn last(nats: &async_nats::Client, key: &str) -> Option<StreamMessage> {
    let stream = jetstream::new(nats.clone()).get_stream("KV_presence").await.unwrap();
    stream.get_last_raw_message_by_subject(&format!("$KV.presence.{key}")).await.ok()
}

/// A port that is free and stays so until someone listens on it. It lies below those that the
/// system gives to outgoing connections, of which the tests beside this one make many.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// The path of the server's program.
pub fn program() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Ok(path) = std::env::var("NATS_SERVER") {
            return path;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats-server");
        let output = Command::new(script).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}
