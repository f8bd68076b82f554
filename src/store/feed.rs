//! The feed: one ordered consumer through which the replica follows the bucket.
//!
//! The consumer is read by hand rather than through the client's own: what is needed of it (its
//! own sequence, what is pending, which bucket it follows) decides when an answer is fresh.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::Store;
use super::bucket::{BucketError, Shape};
use crate::presence::channel::Channels;
use crate::presence::entity::Entity;
use crate::presence::user::Users;
use crate::watchdog::WatchdogTap;

/// How often the server says that it is there while nothing is stored.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(1);
/// After so much silence the consumer is taken for lost.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(3500);
/// How often the feed looks around.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is checked that the bucket is still the same.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A bucket that has been missing for so long is made again.
const GAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a consumer is given up.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("messages were lost on the way")]
    Gap,
    #[error("nothing was heard of the consumer for {SILENCE_TIMEOUT:?}")]
    Silence,
    #[error("the server that feeds us is behind the leader of the bucket")]
    Behind,
    #[error("the bucket was replaced")]
    Replaced,
    #[error("the subscription ended")]
    Ended,
}

/// Follows the bucket for as long as the daemon lives.
pub(super) async fn run(store: Store, shape: Shape, tap: WatchdogTap) {
    let mut feed = Feed { store, bucket: None, position: 0, gap: false, tap };
    let mut missing_since: Option<Instant> = None;
    let mut said = None;
    loop {
        let lost = feed.follow(&mut said).await;
        match &lost {
            FeedError::Bucket(BucketError::Missing) => {
                let since = *missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= GAP_TIMEOUT {
                    tracing::warn!("the bucket is gone; making it again, empty");
                    let bucket = feed.store.context.bucket.clone();
                    if let Err(error) = feed.asking(bucket.create(shape)).await {
                        tracing::warn!(%error, "the bucket could not be made");
                    }
                }
            }
            _ => missing_since = None,
        }
        let text = lost.to_string();
        if said.as_ref() != Some(&text) {
            tracing::warn!(reason = text, "the replica lost its feed; it resumes");
            said = Some(text);
        }
        feed.asking(tokio::time::sleep(Duration::from_millis(100))).await;
    }
}

struct Feed {
    store: Store,
    /// The creation time of the bucket that is followed.
    bucket: Option<String>,
    /// All entries up to here were applied.
    position: u64,
    /// Whether sequences are missing since the replica was last known to be whole. An entry that a
    /// later one superseded before it was delivered is missing, and the later one comes in its own
    /// time: until then the replica shows something older than what was stored at `position`.
    gap: bool,
    tap: WatchdogTap,
}

impl Feed {
    /// Waits for something that has a bound of its own, such as a question to JetStream.
    async fn asking<T>(&mut self, question: impl Future<Output = T>) -> T {
        self.tap.during(|| true, question).await
    }

    /// Follows one consumer until it is lost.
    async fn follow(&mut self, said: &mut Option<String>) -> FeedError {
        match self.follow_one(said).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn follow_one(
        &mut self,
        said: &mut Option<String>,
    ) -> Result<std::convert::Infallible, FeedError> {
        let bucket = self.store.context.bucket.clone();
        let info = self.asking(bucket.info()).await?;
        self.begin(&info.created);
        let client = bucket.client();
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.map_err(|_| FeedError::Ended)?;
        let name = format!("presenced_{}_{}", self.store.context.daemon, fastrand::u32(..));
        let consumer = json!({ "stream_name": bucket.stream(), "config": {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.position + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": true,
            "idle_heartbeat": IDLE_HEARTBEAT.as_nanos() as u64,
            "inactive_threshold": 30_000_000_000_u64,
            "mem_storage": true,
            "num_replicas": 1,
        }});
        let create = format!("CONSUMER.CREATE.{}.{name}", bucket.stream());
        self.asking(bucket.ask::<serde_json::Value>(&create, &consumer)).await?;
        *said = None;
        let mut consumer = Consumer { name, delivered: 0 };
        let until = info.state.last_seq;
        let result = self.listen(&mut messages, &mut consumer, until).await;
        let _ = messages.unsubscribe().await;
        let delete = format!("CONSUMER.DELETE.{}.{}", bucket.stream(), consumer.name);
        let deleted = bucket.ask::<serde_json::Value>(&delete, &serde_json::Value::Null);
        let _ = self.asking(deleted).await;
        result
    }

    async fn listen(
        &mut self,
        messages: &mut Subscriber,
        consumer: &mut Consumer,
        until: u64,
    ) -> Result<std::convert::Infallible, FeedError> {
        let (mut heard, mut checked) = (Instant::now(), Instant::now());
        // Since when someone has waited without an entry coming.
        let mut waiting: Option<Instant> = None;
        loop {
            let next = tokio::select! {
                ping = self.tap.next() => {
                    ping.answer();
                    continue;
                }
                next = timeout(POLL_INTERVAL, messages.next()) => next,
                () = self.store.context.barrier.replaced.notified() => {
                    checked = Instant::now();
                    self.check_bucket().await?;
                    continue;
                }
            };
            match next {
                Ok(None) => return Err(FeedError::Ended),
                Ok(Some(message)) => {
                    heard = Instant::now();
                    if message.status.is_none() {
                        waiting = None;
                    }
                    self.take(message, consumer).await?;
                }
                Err(_) if heard.elapsed() >= SILENCE_TIMEOUT => return Err(FeedError::Silence),
                Err(_) => {}
            }
            if self.position >= until && !self.store.replayed.is_cancelled() {
                self.store.set_replayed();
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                self.check_bucket().await?;
            }
            let wanted = if self.store.replayed.is_cancelled() {
                self.store.context.barrier.awaited()
            } else {
                Some(until)
            };
            let Some(wanted) = wanted else {
                waiting = None;
                continue;
            };
            let waited = waiting.get_or_insert_with(Instant::now).elapsed();
            if waited >= POLL_INTERVAL && self.has_all(consumer).await? {
                // The last entries were markers that have expired: there is nothing to deliver.
                self.gap = false;
                self.advance(wanted);
            } else if waited >= SILENCE_TIMEOUT {
                return Err(FeedError::Behind);
            }
        }
    }

    /// Begins with the bucket that was made at `created`.
    fn begin(&mut self, created: &str) {
        if self.bucket.as_deref() == Some(created) {
            return;
        }
        if self.bucket.is_some() {
            tracing::warn!("the bucket was deleted and made again: all users are absent");
            self.store.users.reset();
            self.store.channels.reset();
        }
        self.bucket = Some(created.to_owned());
        self.position = 0;
        self.gap = false;
        self.store.context.barrier.follow(created);
    }

    async fn check_bucket(&mut self) -> Result<(), FeedError> {
        let bucket = self.store.context.bucket.clone();
        match self.asking(bucket.info()).await {
            Ok(info) if Some(&info.created) == self.bucket.as_ref() => Ok(()),
            Ok(_) | Err(BucketError::Missing) => Err(FeedError::Replaced),
            // The next look will tell; the silence of the consumer is watched as well.
            Err(_) => Ok(()),
        }
    }

    /// Whether nothing more is to come of what was stored before. The consumer has delivered all that
    /// its server knows; but that server may itself be behind, so the leader is asked as well.
    async fn has_all(&mut self, consumer: &Consumer) -> Result<bool, FeedError> {
        #[derive(Deserialize)]
        struct Info {
            num_pending: u64,
            delivered: Delivered,
        }
        #[derive(Deserialize)]
        struct Delivered {
            consumer_seq: u64,
        }
        let bucket = self.store.context.bucket.clone();
        let subject = format!("CONSUMER.INFO.{}.{}", bucket.stream(), consumer.name);
        let delivered = self.asking(bucket.ask::<Info>(&subject, &serde_json::Value::Null)).await;
        let delivered = delivered
            .map(|info| info.num_pending == 0 && info.delivered.consumer_seq == consumer.delivered);
        let next = self.position + 1;
        let has_all = match delivered {
            Ok(true) => self.asking(bucket.holds_from(next)).await.map(|more| !more),
            other => other,
        };
        match has_all {
            Err(BucketError::Timeout(_) | BucketError::Disconnected(_)) => Ok(false),
            other => other.map_err(FeedError::from),
        }
    }

    async fn take(&mut self, message: Message, consumer: &mut Consumer) -> Result<(), FeedError> {
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            return self.keep_alive(&message, consumer).await;
        }
        if message.status.is_some() {
            return Err(FeedError::Gap);
        }
        let meta = message.reply.as_deref().and_then(Meta::parse).ok_or(FeedError::Gap)?;
        if meta.consumer_seq != consumer.delivered + 1 {
            return Err(FeedError::Gap);
        }
        consumer.delivered = meta.consumer_seq;
        self.apply(&message, &meta);
        self.gap = meta.pending > 0 && (self.gap || meta.stream_seq != self.position + 1);
        self.advance(meta.stream_seq);
        Ok(())
    }

    /// Answers flow control, and notices what was lost before a heartbeat.
    async fn keep_alive(&self, message: &Message, consumer: &Consumer) -> Result<(), FeedError> {
        let header =
            |name: &str| message.headers.as_ref()?.get(name).map(|v| v.as_str().to_owned());
        let answer_to = message.reply.as_ref().map(|r| r.to_string());
        if let Some(subject) = answer_to.or_else(|| header("Nats-Consumer-Stalled")) {
            let client = self.store.context.bucket.client();
            let _ = timeout(SILENCE_TIMEOUT, client.publish(subject, bytes::Bytes::new())).await;
        }
        match header("Nats-Last-Consumer").and_then(|seq| seq.parse::<u64>().ok()) {
            Some(delivered) if delivered != consumer.delivered => Err(FeedError::Gap),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, message: &Message, meta: &Meta) {
        let prefix_len = self.store.context.bucket.prefix().len();
        let Some(key) = message.subject.as_str().get(prefix_len..) else { return };
        let known = match key.split_once('.') {
            Some((Users::KIND, tokens)) => {
                self.store.users.feed(tokens, message, meta.stream_seq).map(|_| ())
            }
            Some((Channels::KIND, tokens)) => {
                self.store.channels.feed(tokens, message, meta.stream_seq).map(|_| ())
            }
            _ => None,
        };
        if known.is_none() {
            self.store.foreign(key);
        }
    }

    fn advance(&mut self, position: u64) {
        self.position = self.position.max(position);
        if !self.gap {
            self.store.context.barrier.advance(self.position);
        }
    }
}

struct Consumer {
    name: String,
    /// How many messages it delivered to us.
    delivered: u64,
}

/// What the reply subject of a delivered message says.
struct Meta {
    stream_seq: u64,
    consumer_seq: u64,
    /// How many more entries there were to deliver when this one was.
    pending: u64,
}

impl Meta {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>`, in newer servers
    /// with a domain and an account before the stream, and perhaps a token at the end.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let from = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        Some(Self {
            stream_seq: tokens.get(from)?.parse().ok()?,
            consumer_seq: tokens.get(from + 1)?.parse().ok()?,
            pending: tokens.get(from + 3)?.parse().ok()?,
        })
    }
}
