//! From a change to its watcher, one change at a time.

use std::time::Instant;

use anyhow::{Context, Result};
use async_nats::Client;
use futures_util::StreamExt;
use serde_json::json;

use crate::measure::{Latency, Measurement, Processes};

/// A client changes a status; another one, on its own connection, hears of it.
pub async fn change_to_watcher(
    nats: &Client,
    watcher: &Client,
    processes: Processes,
    user: &str,
    count: usize,
) -> Result<Measurement> {
    let mut events = watcher.subscribe(format!("user.presence.changed.{user}")).await?;
    watcher.flush().await?;
    let stopwatch = processes.start()?;
    let mut took = Vec::with_capacity(count);
    for n in 0..count {
        let body = json!({"users": [{"id": user, "status": format!("change {n}")}]});
        let start = Instant::now();
        nats.publish("presence.v1.upsert_users", body.to_string().into()).await?;
        events.next().await.context("the subscription ended")?;
        took.push(start.elapsed());
    }
    let mut measurement = stopwatch.stop(count)?;
    measurement.latency = Some(Latency::of(took));
    Ok(measurement)
}
