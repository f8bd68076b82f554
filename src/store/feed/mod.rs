//! The feed: an ordered consumer through which the replica follows the bucket.
//!
//! The client's own ordered consumer hides what decides whether an answer is fresh: the consumer's
//! sequence, the number of pending entries, and which bucket is followed. So the feed creates and
//! reads its consumer itself.

mod consumer;
mod doubt;
mod loss;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::Store;
use super::bucket::{BucketError, RawEntry, Shape};
use super::known_stream::{KnownStream, Loss, Witness};
use super::markers::Kind;
use super::{floor, told_lease, wire};
use crate::presence::channel::Channels;
use crate::presence::entity::Entity;
use crate::presence::user::Users;
use crate::watchdog::WatchdogTap;
use consumer::{Consumer, Info, Meta};
use doubt::{Doubt, doubt};

/// The period of the server's idle heartbeats while nothing is stored.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(1);
/// The time after which the server removes a consumer without a subscriber.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// A consumer without a message for this long is lost.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(3500);
/// The maximum wait for a message before other work is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The period of the checks that the bucket is still the same.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A bucket that has been missing for this long is created again.
const MISSING_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of messages applied before other work is checked.
const MAX_PER_TURN: usize = 256;

/// The key under which a stream that cannot be followed is reported.
const FEED_KEY: &str = "feed";

/// The pause before the feed follows a new consumer.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The reason why a consumer is lost.
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
    #[error("the stream seems to be another than before")]
    Suspect,
    #[error("the leader of the stream has no majority")]
    NoMajority,
    #[error("the subscription ended")]
    Ended,
}

/// Follows the bucket for as long as the daemon lives.
pub(super) async fn run(store: Store, shape: Shape, tap: WatchdogTap) {
    let mut feed = Feed {
        store,
        bucket: None,
        position: 0,
        gap: false,
        known_stream: KnownStream::new(None),
        others: HashMap::new(),
        loss: None,
        unusable: None,
        stream_ms: 0,
        logged: None,
        tap,
    };
    let mut missing_since: Option<Instant> = None;
    loop {
        let Err(error) = feed.follow().await;
        if matches!(error, FeedError::Bucket(BucketError::Missing)) {
            let since = *missing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= MISSING_TIMEOUT {
                feed.create_bucket(shape).await;
            }
        } else {
            missing_since = None;
        }
        if !matches!(error, FeedError::Suspect) {
            feed.log_once(&error);
        }
        if let FeedError::Bucket(error @ BucketError::Refused { .. }) = &error {
            let problem = format!("the bucket cannot be followed: {error}");
            feed.store.context.health.report(FEED_KEY, problem);
        }
        feed.bounded(tokio::time::sleep(RETRY_INTERVAL)).await;
    }
}

struct Feed {
    store: Store,
    /// The creation time of the followed bucket.
    bucket: Option<String>,
    /// All entries up to this sequence were applied.
    position: u64,
    /// Whether sequences are missing since the replica was last known to be complete. An entry that
    /// was superseded before its delivery is missing, and the later entry comes in its own time.
    /// Until then the replica shows an older state than that at `position`.
    gap: bool,
    /// The known state of the stream, to tell whether it still is that stream.
    known_stream: KnownStream,
    /// The newest revisions of the keys that are no records of users or channels.
    others: HashMap<String, u64>,
    /// The loss that was found, if any.
    loss: Option<Loss>,
    /// The reason why the bucket cannot be used as its stream is set at present.
    unusable: Option<String>,
    /// The stream's clock at the last check, in milliseconds since 1970.
    stream_ms: i64,
    /// The last error that was logged, until a consumer is created again.
    logged: Option<String>,
    tap: WatchdogTap,
}

impl Feed {
    /// Awaits a future with a time bound of its own, and answers the watchdog meanwhile.
    async fn bounded<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.tap.during(|| true, future).await
    }

    async fn create_bucket(&mut self, shape: Shape) {
        tracing::warn!("the bucket is gone; creating it again, empty");
        let bucket = self.store.context.bucket.clone();
        if let Err(error) = self.bounded(bucket.create(shape)).await {
            tracing::warn!(%error, "the bucket could not be created");
        }
    }

    fn log_once(&mut self, error: &FeedError) {
        let reason = error.to_string();
        if self.logged.as_ref() != Some(&reason) {
            tracing::warn!(reason, "the replica lost its feed; it resumes");
            self.logged = Some(reason);
        }
    }

    /// Follows one consumer until it is lost.
    async fn follow(&mut self) -> Result<Infallible, FeedError> {
        let bucket = self.store.context.bucket.clone();
        let info = self.ask_info().await?;
        if let Some(loss) = self.find_loss(&info).await? {
            self.begin_again(&loss);
        }
        self.bucket.get_or_insert_with(|| info.created.clone());
        if self.position == 0 {
            self.read_floor(&info.created).await?;
        }
        self.store.set_certain();
        self.store.context.barrier.follow(&info.created);
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
            "inactive_threshold": INACTIVE_THRESHOLD.as_nanos() as u64,
            "mem_storage": true,
            "num_replicas": 1,
        }});
        let create = format!("CONSUMER.CREATE.{}.{name}", bucket.stream());
        self.bounded(bucket.ask::<serde_json::Value>(&create, &consumer)).await?;
        self.logged = None;
        self.store.context.health.clear(FEED_KEY);
        let mut consumer = Consumer { name, delivered: 0 };
        let until = info.state.last_seq;
        let result = self.listen(&mut messages, &mut consumer, until).await;
        let _ = messages.unsubscribe().await;
        let delete = format!("CONSUMER.DELETE.{}.{}", bucket.stream(), consumer.name);
        let deleted = bucket.ask::<serde_json::Value>(&delete, &serde_json::Value::Null);
        let _ = self.bounded(deleted).await;
        result
    }

    /// Reads the floor, which stands behind the records that it tells of.
    async fn read_floor(&mut self, created: &str) -> Result<(), FeedError> {
        let context = Arc::clone(&self.store.context);
        context.floor.begin(created);
        let subject = format!("{}{}", context.bucket.prefix(), floor::KEY);
        match self.bounded(context.bucket.last(&subject)).await {
            Ok(RawEntry { seq, stored_ms, payload, .. }) => {
                context.floor.on_stored(seq, stored_ms, &payload);
            }
            Err(BucketError::NoKey) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Applies the entries that a consumer delivers. The replica is complete for the first time
    /// when it has come to `until`.
    async fn listen(
        &mut self,
        messages: &mut Subscriber,
        consumer: &mut Consumer,
        until: u64,
    ) -> Result<Infallible, FeedError> {
        let (mut heard, mut checked) = (Instant::now(), Instant::now());
        // Since when there is a waiter and no entry comes.
        let mut waiting: Option<Instant> = None;
        loop {
            let next = tokio::select! {
                ping = self.tap.next() => {
                    ping.answer();
                    continue;
                }
                next = timeout(POLL_INTERVAL, messages.next()) => next,
                doubt = doubt(&self.store.context) => {
                    self.on_doubt(&doubt)?;
                    checked = Instant::now();
                    self.check_bucket().await?;
                    continue;
                }
            };
            match next {
                Ok(None) => return Err(FeedError::Ended),
                Ok(Some(message)) => {
                    heard = Instant::now();
                    if self.take_ready(message, messages, consumer).await? {
                        waiting = None;
                    }
                }
                Err(_) if heard.elapsed() >= SILENCE_TIMEOUT => return Err(FeedError::Silence),
                Err(_) => {}
            }
            if self.position >= until && !self.gap && self.store.is_replaying() {
                self.complete_replay();
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                self.check_bucket().await?;
            }
            self.check_progress(consumer, until, &mut waiting).await?;
        }
    }

    /// Fails if a check of the bucket is not enough.
    fn on_doubt(&mut self, doubt: &Doubt) -> Result<(), FeedError> {
        match doubt {
            Doubt::Replaced => Ok(()),
            Doubt::Older => {
                self.loss = Some(Loss::Older);
                Err(FeedError::Suspect)
            }
            Doubt::Reconnected => Err(FeedError::Suspect),
        }
    }

    /// Takes a message, and those that are there behind it. Returns whether an entry was among them.
    async fn take_ready(
        &mut self,
        first: Message,
        messages: &mut Subscriber,
        consumer: &mut Consumer,
    ) -> Result<bool, FeedError> {
        let (mut next, mut has_entry) = (Some(first), false);
        for left in (0..MAX_PER_TURN).rev() {
            let Some(message) = next.take() else { break };
            has_entry = has_entry || message.status.is_none();
            self.take(message, consumer).await?;
            if left > 0 {
                next = messages.next().now_or_never().flatten();
            }
        }
        Ok(has_entry)
    }

    /// Detects that what is awaited does not come. `waiting` is the time since when there is a
    /// waiter and no entry comes.
    async fn check_progress(
        &mut self,
        consumer: &Consumer,
        until: u64,
        waiting: &mut Option<Instant>,
    ) -> Result<(), FeedError> {
        let awaited = match self.store.is_replaying() {
            true => Some(until),
            false => self.store.context.barrier.awaited(),
        };
        let Some(awaited) = awaited else {
            *waiting = None;
            return Ok(());
        };
        let waited = waiting.get_or_insert_with(Instant::now).elapsed();
        if waited >= POLL_INTERVAL && self.has_all(consumer).await? {
            // The last entries were markers that have expired: nothing is to be delivered.
            self.gap = false;
            self.advance(awaited);
        } else if waited >= SILENCE_TIMEOUT {
            return Err(FeedError::Behind);
        }
        Ok(())
    }

    /// The replica is complete.
    fn complete_replay(&mut self) {
        self.store.complete_replay();
        self.advance(self.position);
    }

    /// Returns whether all that was stored before has been delivered. The consumer delivers all
    /// that its server knows, but that server may itself be behind, so the leader is queried as
    /// well.
    async fn has_all(&mut self, consumer: &Consumer) -> Result<bool, FeedError> {
        let bucket = self.store.context.bucket.clone();
        let subject = format!("CONSUMER.INFO.{}.{}", bucket.stream(), consumer.name);
        let info = self.bounded(bucket.ask::<Info>(&subject, &serde_json::Value::Null)).await;
        let delivered = info.map(|info| consumer.has_delivered_all(&info));
        let next = self.position + 1;
        let has_all = match delivered {
            Ok(true) => self.bounded(bucket.first_from(next)).await.map(|first| first.is_none()),
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
        self.compare()
    }

    /// Answers flow control, and detects messages lost before an idle heartbeat.
    async fn keep_alive(&self, message: &Message, consumer: &Consumer) -> Result<(), FeedError> {
        let header =
            |name: &str| message.headers.as_ref()?.get(name).map(|v| v.as_str().to_owned());
        let flow_control = message.reply.as_ref().map(|r| r.to_string());
        if let Some(subject) = flow_control.or_else(|| header("Nats-Consumer-Stalled")) {
            let client = self.store.context.bucket.client();
            let _ = timeout(SILENCE_TIMEOUT, client.publish(subject, bytes::Bytes::new())).await;
        }
        match header("Nats-Last-Consumer").and_then(|seq| seq.parse::<u64>().ok()) {
            Some(delivered) if delivered != consumer.delivered => Err(FeedError::Gap),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, message: &Message, meta: &Meta) {
        let (subject, seq) = (message.subject.as_str(), meta.stream_seq);
        let (time_ns, stored_ms) = (meta.time_ns, meta.time_ns / 1_000_000);
        let context = Arc::clone(&self.store.context);
        let key = context.bucket.key_of(subject);
        let before = match key.split_once('.') {
            Some((Users::KIND, tokens)) => self.store.users.feed(tokens, message, seq),
            Some((Channels::KIND, tokens)) => self.store.channels.feed(tokens, message, seq),
            _ => None,
        };
        let is_record = before.is_some();
        let before = before.unwrap_or_else(|| {
            match key {
                told_lease::KEY => {
                    context.told_lease.on_fed(seq, &message.payload, context.clock.now())
                }
                floor::KEY => context.floor.on_stored(seq, stored_ms, &message.payload),
                _ => self.store.report_foreign(key),
            }
            self.others.insert(key.to_owned(), seq).unwrap_or(0)
        });
        let headers = message.headers.as_ref();
        let kind = match wire::marker_kind(headers) {
            None if is_record && seq < context.floor.seq() => Some(Kind::Unsafe),
            kind => kind,
        };
        context.markers().on_message(seq, subject, stored_ms, kind, before);
        let expires_ms = wire::ttl_ms(headers).map(|ttl_ms| stored_ms.saturating_add(ttl_ms));
        let subject = subject.to_owned();
        self.known_stream.on_message(Witness { seq, time_ns, subject, expires_ms }, before);
    }

    fn advance(&mut self, position: u64) {
        self.position = self.position.max(position);
        // A replica that is replayed again is complete at its end, and not before.
        if !self.gap && !self.store.is_replaying() {
            self.store.context.barrier.advance(self.position);
        }
    }
}
