//! A cluster of real NATS servers on the loopback interface.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::links::Links;
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::server::{free_port, program, stream};

const START: Duration = Duration::from_secs(30);

pub struct Cluster {
    nodes: Vec<Node>,
    links: Links,
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
        let mut ports = BTreeSet::new();
        while ports.len() < 2 * size {
            ports.insert(free_port());
        }
        let ports: Vec<_> = ports.into_iter().collect();
        let (clients, routes) = ports.split_at(size);
        let links = Links::between(routes).await;
        let nodes = (0..size).map(|n| Node::new(n, clients[n], routes[n], &links)).collect();
        let mut cluster = Self { nodes, links };
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

    /// Cuts a node off from the others; the clients of each stay with it.
    pub fn isolate(&self, node: usize) {
        self.links.isolate(node);
    }

    /// All nodes reach each other again.
    pub fn heal(&self) {
        self.links.heal();
    }

    /// Waits until a message sent at any node is heard at every other, and JetStream tells each of
    /// them who leads the bucket. JetStream may store again before it answers any question about
    /// it.
    pub async fn whole(&self) {
        let nodes = (0..self.size()).map(|n| async move { connect(&self.url(n)).await });
        let nodes = futures_util::future::join_all(nodes).await;
        for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to))) {
            let mut ear = to.subscribe("chaos.whole").await.unwrap();
            eventually("the nodes reach each other", START, async || {
                from.publish("chaos.whole", bytes::Bytes::new()).await.unwrap();
                timeout(Duration::from_millis(100), ear.next()).await.ok()
            })
            .await;
        }
        for node in &nodes {
            eventually("JetStream answers", START, async || {
                let asked = node.request("$JS.API.STREAM.INFO.KV_presence", bytes::Bytes::new());
                let reply = timeout(Duration::from_secs(1), asked).await.ok()?.ok()?;
                let info: serde_json::Value = serde_json::from_slice(&reply.payload).ok()?;
                info["cluster"]["leader"].is_string().then_some(())
            })
            .await;
        }
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
    fn new(n: usize, port: u16, route: u16, links: &Links) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jetstream");
        let mut config = format!(
            "server_name: \"node-{n}\"\nlisten: \"127.0.0.1:{port}\"\n\
             jetstream {{ store_dir: {store:?} }}\n"
        );
        let urls: Vec<_> =
            links.from(n).map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        if !urls.is_empty() {
            let urls = urls.join(", ");
            // The address that nodes advertise of a third one leads nowhere: they meet on the links
            // only.
            config += &format!(
                "cluster {{ name: chaos, listen: \"127.0.0.1:{route}\", \
                 advertise: \"127.0.0.1:9\", routes: [{urls}] }}\n"
            );
        }
        let settings = folder.path().join("nats.conf");
        fs::write(&settings, config).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(&settings);
        Self { process: None, command, port, folder }
    }
}
