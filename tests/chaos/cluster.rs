//! A cluster of real NATS servers on the loopback interface.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::process::Process;
use crate::support::server::{program, stream};

const START: Duration = Duration::from_secs(30);

pub struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    process: Option<Process>,
    command: Command,
    port: u16,
    folder: TempDir,
}

impl Cluster {
    /// Starts that many nodes, and waits until JetStream has a leader.
    pub async fn start(size: usize) -> Self {
        // All are held until the last is known, so that no two are the same.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<_> = (0..2 * size).map(|_| free()).collect();
        let ports: Vec<_> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let (clients, routes) = ports.split_at(size);
        let nodes = (0..size).map(|n| Node::new(n, clients[n], routes)).collect();
        let mut cluster = Self { nodes };
        for n in 0..size {
            cluster.restart(n).await;
        }
        cluster
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The addresses of all nodes, with commas between them.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = (0..self.size()).map(|n| self.url(n)).collect();
        urls.join(",")
    }

    pub fn url(&self, node: usize) -> String {
        format!("nats://127.0.0.1:{}", self.nodes[node].port)
    }

    /// A connection to whichever node is there.
    pub async fn connect(&self) -> async_nats::Client {
        connect(&self.urls()).await
    }

    /// Kills a node; what it stored stays.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// Starts a node on what it had stored.
    pub async fn restart(&mut self, node: usize) {
        let log = self.nodes[node].folder.path().join("nats.log");
        // This start is to be told from the one before.
        let _ = fs::remove_file(&log);
        let process = Process::start("nats-server", &mut self.nodes[node].command, log);
        let process = self.nodes[node].process.insert(process);
        eventually("nats-server is ready", START, async || {
            assert!(process.ended().is_none(), "nats-server ended: {}", process.log());
            process.log().contains("Server is ready").then_some(())
        })
        .await;
    }

    /// The node that leads the stream of the bucket.
    pub async fn leader(&self, nats: &async_nats::Client) -> usize {
        if self.size() == 1 {
            return 0;
        }
        eventually("the stream has a leader", START, async || {
            let leader = stream(nats, "presence").await["cluster"]["leader"].clone();
            leader.as_str()?.strip_prefix("node-")?.parse().ok()
        })
        .await
    }
}

pub async fn connect(urls: &str) -> async_nats::Client {
    let urls: Vec<&str> = urls.split(',').collect();
    eventually("NATS lets us in", START, async || {
        let options = async_nats::ConnectOptions::new()
            .subscription_capacity(1 << 17)
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        options.connect(&urls[..]).await.ok()
    })
    .await
}

impl Node {
    fn new(n: usize, port: u16, routes: &[u16]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jetstream");
        let mut config = format!(
            "server_name: \"node-{n}\"\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?} }}\n"
        );
        if routes.len() > 1 {
            let urls: Vec<_> =
                routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            config += &format!(
                "cluster {{ name: chaos, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                routes[n],
                urls.join(", ")
            );
        }
        let settings = folder.path().join("nats.conf");
        fs::write(&settings, config).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(&settings);
        Self { process: None, command, port, folder }
    }
}
