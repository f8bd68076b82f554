//! The ways between the nodes of a cluster. Each leads through a relay, so that a node can be cut
//! off from the others while its clients stay with it.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct Links {
    /// By the node that calls, then by the one that is called.
    ports: Vec<Vec<u16>>,
    isolated: watch::Sender<Option<usize>>,
    relays: Vec<JoinHandle<()>>,
}

impl Links {
    /// Relays from each node to each other; `routes` are the ports where the nodes listen.
    pub async fn between(routes: &[u16]) -> Self {
        let mut links =
            Self { ports: Vec::new(), isolated: watch::Sender::new(None), relays: Vec::new() };
        for from in 0..routes.len() {
            let mut ports = Vec::new();
            for (to, port) in routes.iter().enumerate() {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ports.push(listener.local_addr().unwrap().port());
                let relay = relay(listener, *port, [from, to], links.isolated.subscribe());
                links.relays.push(tokio::spawn(relay));
            }
            links.ports.push(ports);
        }
        links
    }

    /// The ports at which a node reaches each of the others.
    pub fn from(&self, node: usize) -> impl Iterator<Item = u16> {
        let others = self.ports[node].iter().enumerate().filter(move |(to, _)| *to != node);
        others.map(|(_, port)| *port)
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: usize) {
        self.isolated.send_replace(Some(node));
    }

    /// All reach all again.
    pub fn heal(&self) {
        self.isolated.send_replace(None);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.relays.iter().for_each(JoinHandle::abort);
    }
}

async fn relay(
    listener: TcpListener,
    port: u16,
    ends: [usize; 2],
    isolated: watch::Receiver<Option<usize>>,
) {
    while let Ok((mut caller, _)) = listener.accept().await {
        let mut isolated = isolated.clone();
        let is_cut = move |node: &Option<usize>| node.is_some_and(|node| ends.contains(&node));
        if is_cut(&isolated.borrow()) {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut called) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut caller, &mut called) => {}
                _ = isolated.wait_for(is_cut) => {}
            }
        });
    }
}
