//! As much of HTTP as a probe needs.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Daemon, eventually};

/// Longer than a daemon takes to hear its peers.
const MEETS: Duration = Duration::from_secs(10);

/// The HTTP endpoints of a daemon.
pub struct Http {
    address: String,
}

/// One answer.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Http {
    /// A daemon that was started with `METRICS__LISTEN` at `127.0.0.1:0`.
    pub async fn of(daemon: &mut Daemon) -> Self {
        let line = daemon.logs("serving /metrics").await;
        Self { address: line["address"].as_str().unwrap().to_owned() }
    }

    /// A connection on which something was sent, such as a part of a request.
    pub async fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    pub async fn get(&self, path: &str) -> Page {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut stream = self.open(&request).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The value of one series, as it is written in the text format; 0 if there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Waits until each of two daemons has heard the other's beacons.
pub async fn have_met(daemons: &mut [Daemon; 2]) -> [Http; 2] {
    let [one, two] = daemons;
    let pages = [Http::of(one).await, Http::of(two).await];
    for page in &pages {
        eventually("two daemons are alive", MEETS, async || {
            (page.metric("presence_daemons").await == 2.0).then_some(())
        })
        .await;
    }
    pages
}
