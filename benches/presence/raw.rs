//! The raw operations on NATS that presence is made of, and what a service would do by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer, kv};
use async_nats::{Client, HeaderMap};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::json;

use crate::measure::{Measurement, Processes};

/// Writes that the pipelined writer has under way. The client library waits at 5000.
const WINDOW: usize = 4096;

/// As long as the record of a user with one connection and a status of 26 letters.
pub fn record(n: usize) -> String {
    json!({"v": 1, "created_at": 1_700_000_000_000_u64, "updated_at": 1_700_000_000_000_u64,
        "last_active": 1_700_000_000_000_u64, "version": 1_700_000_000_000_u64,
        "changed_by": "0123456789abcdef", "status": "in a meeting until Tuesday",
        "connections": [{"id": format!("c{n}"), "connects": 1}]})
    .to_string()
}

/// As long as the event of such a user.
pub fn event(n: usize) -> String {
    json!({"type": "user.presence.changed", "user": {"id": format!("user{n}"), "online": true,
        "availability": "active", "devices": [], "status": "in a meeting until Tuesday",
        "last_active": "2026-01-01T12:00:00.000Z", "created_at": "2026-01-01T12:00:00.000Z",
        "updated_at": "2026-01-01T12:00:00.000Z", "version": 1_700_000_000_000_u64}})
    .to_string()
}

/// A bucket, with history of one value.
pub struct Raw {
    nats: Client,
    js: jetstream::Context,
    bucket: kv::Store,
}

impl Raw {
    pub async fn create(nats: &Client, bucket: String) -> Result<Self> {
        let js = jetstream::new(nats.clone());
        let config = kv::Config { bucket, history: 1, ..kv::Config::default() };
        let bucket = js.create_key_value(config).await?;
        Ok(Self { nats: nats.clone(), js, bucket })
    }

    pub async fn put(&self, n: usize) -> Result<()> {
        self.bucket.put(format!("user.raw{n}"), record(n).into()).await?;
        Ok(())
    }

    /// The work of a service without the daemon: read, compare and set, announce.
    pub async fn do_it_yourself(&self, n: usize) -> Result<()> {
        let key = format!("user.raw{n}");
        let revision = self.bucket.entry(key.as_str()).await?.map_or(0, |entry| entry.revision);
        self.bucket.update(&key, record(n).into(), revision).await?;
        self.nats.publish(format!("raw.changed.{n}"), event(n).into()).await?;
        Ok(())
    }

    /// One pipelined compare-and-set writer, with an event for each write that one subscriber
    /// hears, and a consumer that follows the bucket: the bound for every design with a replica.
    pub async fn replicated(&self, processes: Processes, count: usize) -> Result<Measurement> {
        let events = self.nats.subscribe("raw.replicated.>").await?;
        let stream = self.js.get_stream(&self.bucket.stream_name).await?;
        let config = consumer::push::OrderedConfig {
            deliver_subject: self.nats.new_inbox(),
            deliver_policy: consumer::DeliverPolicy::New,
            ..Default::default()
        };
        let entries = stream.create_consumer(config).await?.messages().await?;
        let stopwatch = processes.start()?;
        let heard = tokio::spawn(async move { events.take(count).count().await });
        let followed = tokio::spawn(async move { entries.take(count).count().await });
        let mut acks = FuturesUnordered::new();
        for n in 0..count {
            if acks.len() >= WINDOW {
                self.announce(acks.next().await).await?;
            }
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
            headers.insert("Presence-Writer", "0123456789abcdef");
            headers.insert("Presence-Version", "1700000000000");
            let subject = format!("$KV.{}.user.r{n}", self.bucket.name);
            let sent = self.js.publish_with_headers(subject, headers, record(n).into()).await?;
            acks.push(async move { sent.await.map(|_| n) });
        }
        while !acks.is_empty() {
            self.announce(acks.next().await).await?;
        }
        let (heard, followed) = tokio::try_join!(heard, followed)?;
        anyhow::ensure!(heard == count && followed == count, "messages were lost");
        stopwatch.stop(count)
    }

    async fn announce<E: std::error::Error + Send + Sync + 'static>(
        &self,
        stored: Option<Result<usize, E>>,
    ) -> Result<()> {
        let n = stored.context("no write is under way")??;
        let mut headers = HeaderMap::new();
        headers.insert("Presence-Version", "1700000000000");
        let subject = format!("raw.replicated.{n}");
        Ok(self.nats.publish_with_headers(subject, headers, event(n).into()).await?)
    }
}

/// Answers requests on `echo` with what they ask, for as long as the client is connected.
pub async fn answer_echo(nats: &Client) -> Result<()> {
    let (mut asked, answering) = (nats.subscribe("echo").await?, nats.clone());
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            if let Some(reply) = message.reply {
                let _ = answering.publish(reply, message.payload).await;
            }
        }
    });
    Ok(())
}

pub async fn echo(nats: &Client) -> Result<()> {
    nats.request("echo", vec![b'x'; 200].into()).await?;
    Ok(())
}

/// Messages published to one subscriber.
pub async fn publish(
    nats: &Client,
    processes: Processes,
    bodies: &[bytes::Bytes],
    each: usize,
) -> Result<Measurement> {
    let mut heard = nats.subscribe("raw.heartbeat").await?;
    nats.flush().await?;
    let stopwatch = processes.start()?;
    for body in bodies {
        nats.publish("raw.heartbeat", body.clone()).await?;
    }
    for _ in bodies {
        heard.next().await.context("the subscription ended")?;
    }
    stopwatch.stop(bodies.len() * each)
}

/// Measures the time to read the whole bucket of the daemons, as a start has to.
pub async fn replay(nats: &Client) -> Result<Duration> {
    let stream = jetstream::new(nats.clone()).get_stream("KV_presence").await?;
    let start = Instant::now();
    let config = consumer::push::OrderedConfig {
        deliver_subject: nats.new_inbox(),
        deliver_policy: consumer::DeliverPolicy::LastPerSubject,
        filter_subject: "$KV.presence.>".to_owned(),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        if message?.info().map_err(anyhow::Error::from_boxed)?.pending == 0 {
            break;
        }
    }
    Ok(start.elapsed())
}
