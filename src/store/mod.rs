//! The store: every record of the bucket in memory, every change one compare-and-set write.
//!
//! [`stripe`] is the sans-IO core. Around it, `feed` and `acks` bring inputs from NATS,
//! [`keyspace`] carries out effects, [`barrier`] waits until the replica is fresh, and [`bucket`]
//! and [`open()`] query, create and check the bucket.

mod acks;
pub mod barrier;
pub mod bucket;
pub mod clock_skew;
pub mod context;
mod feed;
pub mod floor;
pub mod keyspace;
mod known_stream;
pub mod markers;
mod open;
pub mod outbox;
pub mod stream_clock;
pub mod stripe;
pub mod told_lease;
pub mod wire;
pub mod write_health;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Event, SubscribeError};
use futures_util::StreamExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::presence::channel::{self, Channels, CountIntervals};
use crate::presence::lease::Leases;
use crate::presence::time::Time;
use crate::presence::user::{Index, Periods, Rules, Users};
use crate::watchdog::{Watchdog, WatchdogTap};
use bucket::Shape;
use context::StoreContext;
use keyspace::{Keyspace, STRIPES};
use known_stream::Loss;
use markers::DueMarker;
use outbox::Outgoing;
use stripe::Timing;

pub use open::{UnusableBucket, check, open};

/// The period of the stripes' ticks.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// The number of keys repaired at a time.
const CONCURRENT_REPAIRS: usize = 256;

/// The key of the health under which a stream that is not what it was is reported.
const PROBLEM_KEY: &str = "bucket";

/// The progress of the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The feed delivers the stream from its beginning.
    Replaying,
    /// The store writes what others see of lost records.
    Repairing,
    /// The replica is what is stored.
    Whole,
}

/// The records of this daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub context: Arc<StoreContext>,
    pub users: Arc<Keyspace<Users>>,
    pub channels: Arc<Keyspace<Channels>>,
    /// Cancelled when the replica is complete for the first time.
    pub replayed: CancellationToken,
    phase: Arc<Mutex<Phase>>,
    /// Whether the stream was not compared since the connection was lost.
    uncertain: Arc<AtomicBool>,
    /// Whether the bucket was seen to hold keys that are no records.
    has_foreign_keys: Arc<AtomicBool>,
}

impl Store {
    pub fn new(
        context: StoreContext,
        rules: &Arc<Rules>,
        timing: Timing,
        periods: Periods,
        counted: &Arc<CountIntervals>,
    ) -> Self {
        let context = Arc::new(context);
        let counts = !counted.is_empty();
        let users = Keyspace::new(
            Arc::clone(&context),
            rules,
            timing,
            || if counts { Index::tracking_online(periods) } else { Index::new(periods) },
            Leases::new(periods.lease_ms),
        );
        let channels = Keyspace::new(
            Arc::clone(&context),
            &Arc::new(()),
            timing,
            || channel::Index::new(Arc::clone(counted)),
            (),
        );
        Self {
            users: Arc::new(users),
            channels: Arc::new(channels),
            context,
            replayed: CancellationToken::new(),
            uncertain: Arc::default(),
            phase: Arc::new(Mutex::new(Phase::Replaying)),
            has_foreign_keys: Arc::default(),
        }
    }

    /// Starts the tasks that follow the bucket and write to it, until `stop`.
    pub async fn start(
        &self,
        writes: Outgoing,
        shape: Shape,
        stop: CancellationToken,
        watchdog: &mut Watchdog,
    ) -> Result<(), SubscribeError> {
        let client = self.context.bucket.client().clone();
        let acks = client.subscribe(format!("{}.>", self.context.ack_inbox)).await?;
        let tracker = &self.context.tracker;
        let (store, bucket) = (self.clone(), self.context.bucket.clone());
        let limit = self.context.payload_limit.clone();
        let (tap, context) = (watchdog.register("writes"), Arc::clone(&self.context));
        let on_write = move || context.write_health.on_sent(context.clock.now());
        let writes = writes.run(client, self.context.clock, limit, tap, on_write);
        tracker.spawn(stop.clone().run_until_cancelled_owned(writes));
        let acks = acks::run(self.clone(), acks, watchdog.register("acknowledgements"));
        tracker.spawn(stop.clone().run_until_cancelled_owned(acks));
        let feed = feed::run(self.clone(), shape, watchdog.register("feed"));
        tracker.spawn(stop.clone().run_until_cancelled_owned(feed));
        let tap = watchdog.register("barrier");
        tracker.spawn(stop.clone().run_until_cancelled_owned(async move {
            store.context.barrier.run(bucket, tap).await;
        }));
        tracker.spawn(stop.clone().run_until_cancelled_owned(self.clone().run_repairs()));
        tracker.spawn(
            stop.run_until_cancelled_owned(self.clone().run_ticks(watchdog.register("stripes"))),
        );
        Ok(())
    }

    /// Ticks every stripe. It answers no ping while the lock of a stripe is held.
    async fn run_ticks(self, mut tap: WatchdogTap) {
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                _ = ticks.tick() => {}
            }
            self.users.tick();
            self.channels.tick();
            let now = self.context.now();
            self.context.barrier.expire(now.mono_ms);
            self.context.write_health.on_tick(now);
        }
    }

    /// Replaces rules and times, from the next decision on.
    pub fn adjust(&self, rules: &Arc<Rules>, request_timeout: Duration) {
        self.context.bucket.set_timeout(bucket_timeout(request_timeout));
        self.users.for_each_stripe(|stripe| stripe.adjust(Arc::clone(rules), request_timeout));
        self.channels.for_each_stripe(|stripe| stripe.adjust(Arc::new(()), request_timeout));
    }

    /// Sets the largest value that the server takes, from the next decision on.
    pub fn set_max_value(&self, bytes: usize) {
        self.users.for_each_stripe(|stripe| stripe.set_max_value(bytes));
        self.channels.for_each_stripe(|stripe| stripe.set_max_value(bytes));
    }

    /// Returns whether there is any user.
    pub fn has_users(&self) -> bool {
        let mut has_users = false;
        self.users.for_each_stripe(|stripe| has_users |= stripe.records().next().is_some());
        has_users
    }

    /// The markers of deletions that are to be replaced, given how long one is kept.
    pub fn due_markers(&self, age_ms: u64) -> Vec<DueMarker> {
        let Some(stream_ms) = self.stream_ms() else { return Vec::new() };
        let floor = &self.context.floor;
        let floor = if floor.is_settled(stream_ms, age_ms) { floor.seq() } else { 0 };
        self.context.markers().due(stream_ms, age_ms, floor)
    }

    /// To where the floor is to be raised for markers to be replaced, and for how long they have
    /// waited for it, in milliseconds. It is raised once it has served the markers below it.
    pub fn floor_due(&self, age_ms: u64) -> Option<(u64, u64)> {
        let stream_ms = self.stream_ms()?;
        let floor = &self.context.floor;
        if !floor.is_settled(stream_ms, age_ms) {
            return None;
        }
        self.context.markers().floor_due(stream_ms, age_ms, floor.seq())
    }

    /// The subjects of records in a stripe that stand below sequence `floor`, at most `limit`;
    /// `None` if there is no such stripe.
    pub fn below(&self, stripe: usize, floor: u64, limit: usize) -> Option<Vec<String>> {
        let of_channels = |stripe| self.channels.below(stripe, floor, limit);
        let users = self.users.below(stripe, floor, limit);
        users.or_else(|| of_channels(stripe.checked_sub(STRIPES)?))
    }

    /// The time of JetStream's clock, once it is known.
    fn stream_ms(&self) -> Option<i64> {
        self.context.told_lease.stream_time(self.context.clock.now()).map(|Time(ms)| ms)
    }

    /// The shared leases that hold connections.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.users.shared()
    }

    /// The number of keys with unfinished work.
    pub fn busy(&self) -> usize {
        self.users.busy() + self.channels.busy()
    }

    /// Returns whether the replica is what is stored, as far as is known. Otherwise no request is
    /// served.
    pub fn is_whole(&self) -> bool {
        *self.phase() == Phase::Whole && !self.is_uncertain()
    }

    /// Returns whether the stream was not compared since the connection was lost.
    fn is_uncertain(&self) -> bool {
        self.uncertain.load(Ordering::Relaxed)
    }

    /// Takes in the events of the connection to the stream: the server of the next one may hold
    /// something else.
    pub async fn watch_connection(self, mut events: UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Disconnected => self.uncertain.store(true, Ordering::Relaxed),
                Event::Connected => self.context.reconnected.notify_one(),
                _ => {}
            }
        }
    }

    /// The stream was compared with what was known.
    fn set_certain(&self) {
        self.context.write_health.on_reconnected();
        self.uncertain.store(false, Ordering::Relaxed);
    }

    fn is_replaying(&self) -> bool {
        *self.phase() == Phase::Replaying
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream is not the one that was known, and the feed delivers it from its beginning.
    fn begin_replay(&self, loss: &Loss) {
        *self.phase() = Phase::Replaying;
        let problem = format!("it is not what it was: {loss}; reading it again");
        self.context.health.report(PROBLEM_KEY, problem);
        self.context.acked.store(0, Ordering::Relaxed);
        self.context.barrier.begin_again();
        self.context.told_lease.on_stream_lost();
        self.context.markers().clear();
        self.context.floor.begin("");
        self.users.on_stream_lost();
        self.channels.on_stream_lost();
    }

    /// The feed has delivered all that the stream held when it began.
    fn complete_replay(&self) {
        let is_first = !self.replayed.is_cancelled();
        if is_first {
            self.leases().on_replayed();
            self.users.for_each_stripe(|stripe| stripe.index_mut().agenda.on_replayed());
        }
        // The stream may have been lost during the first replay, too.
        self.users.on_replayed();
        self.channels.on_replayed();
        if is_first && !self.users.has_lost() {
            self.context.health.clear(PROBLEM_KEY);
            *self.phase() = Phase::Whole;
        } else {
            *self.phase() = Phase::Repairing;
        }
        self.context.repairs.notify_one();
        self.replayed.cancel();
    }

    /// Repairs what others see of records that the store lost.
    async fn run_repairs(self) {
        loop {
            self.context.repairs.notified().await;
            let mut users = 0;
            // What a replay finds lost is repaired when it is complete, as a whole.
            while !self.is_replaying() && self.users.has_lost() {
                let lost = self.users.take_lost();
                users += lost.len();
                let repairs = lost.into_iter().map(|(user, lost)| self.users.repair(user, lost));
                futures_util::stream::iter(repairs)
                    .for_each_concurrent(CONCURRENT_REPAIRS, |repair| repair)
                    .await;
            }
            let mut phase = self.phase();
            if *phase == Phase::Repairing && !self.users.has_lost() {
                *phase = Phase::Whole;
                self.context.health.clear(PROBLEM_KEY);
                tracing::info!(
                    users,
                    "the bucket was read again; users whose newest record is lost"
                );
            }
        }
    }

    /// Logs the first key that is no presence record.
    fn report_foreign(&self, key: &str) {
        if !self.has_foreign_keys.swap(true, Ordering::Relaxed) {
            tracing::error!(
                bucket = self.context.bucket.name(),
                key,
                "the bucket holds a key that is no presence record; such keys stay as they are. If \
                 the bucket belongs to something else, choose another `store.bucket`"
            );
        }
    }
}

/// The time-out of requests to JetStream. It leaves time to answer the request that needs one.
pub fn bucket_timeout(request_timeout: Duration) -> Duration {
    request_timeout / 2
}
