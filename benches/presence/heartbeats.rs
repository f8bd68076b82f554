//! Heartbeats until the daemon has heard them all, and the same messages to a subscriber.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::Client;
use bytes::Bytes;
use serde_json::json;

use crate::machine::Daemon;
use crate::measure::{Measurement, Processes};

const HEARD: &str = "presence_heartbeats_total{kind=\"connection\"}";

/// The number of connections that a message of the list form names.
pub const IN_LIST: usize = 1000;

/// Messages under way that fit the daemon's subscription; what does not fit is dropped.
const UNDER_WAY: usize = 8192;

/// One heartbeat each, for connections on leases of their own.
pub fn single(count: usize, users: &[String]) -> Vec<Bytes> {
    let body = |n: usize| json!({"user_id": users[n % users.len()], "connection_id": "c"});
    (0..count).map(|n| body(n).to_string().into()).collect()
}

/// The same in lists.
pub fn lists(count: usize, users: &[String]) -> Vec<Bytes> {
    let list = |first: usize| {
        let body = |n: usize| json!({"user_id": users[n % users.len()], "connection_id": "c"});
        let connections: Vec<_> = (first..first + IN_LIST).map(body).collect();
        json!({ "connections": connections }).to_string().into()
    };
    (0..count).step_by(IN_LIST).map(list).collect()
}

/// Publishes heartbeats, and waits until the daemon has counted them.
pub async fn publish(
    nats: &Client,
    daemon: &Daemon,
    processes: Processes,
    bodies: &[Bytes],
    each: usize,
) -> Result<Measurement> {
    let under_way = UNDER_WAY / each.min(128);
    let before = daemon.metric(HEARD).await?;
    let stopwatch = processes.start()?;
    let (start, mut sent) = (Instant::now(), 0);
    for portion in bodies.chunks(under_way / 4) {
        for body in portion {
            nats.publish("presence.v1.heartbeat", body.clone()).await?;
        }
        nats.flush().await?;
        sent += portion.len();
        // The last portions are waited for, too.
        let left = if sent == bodies.len() { 0 } else { under_way - under_way / 4 };
        let wanted = before + (sent.saturating_sub(left) * each) as u64;
        while daemon.metric(HEARD).await? < wanted {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(60), "heartbeats were dropped");
            // Asking all the time takes the processor away from what is measured.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    stopwatch.stop(bodies.len() * each)
}
