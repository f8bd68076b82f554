//! The store: every record of the bucket in memory, every change one compare-and-set write.
//!
//! [`stripe`] is the sans-IO core. Around it, `feed` and `acks` bring inputs from NATS,
//! [`keyspace`] carries out effects, [`barrier`] waits until the replica is fresh, and [`bucket`]
//! and [`open()`] query, create and check the bucket.

mod acks;
pub mod barrier;
pub mod bucket;
mod feed;
pub mod keyspace;
mod open;
pub mod outbox;
pub mod stream_clock;
pub mod stripe;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use async_nats::SubscribeError;
use tokio_util::sync::CancellationToken;

use crate::presence::channel::{self, Channels};
use crate::presence::lease::Leases;
use crate::presence::user::{Index, Periods, Rules, Users};
use crate::watchdog::{Watchdog, WatchdogTap};
use bucket::Shape;
use keyspace::{Keyspace, StoreContext};
use outbox::Outgoing;
use stripe::Timing;

pub use open::{UnusableBucket, check, open};

/// The period of the stripes' ticks.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// The records of this daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub context: Arc<StoreContext>,
    pub users: Arc<Keyspace<Users>>,
    pub channels: Arc<Keyspace<Channels>>,
    /// Cancelled when the replica is complete for the first time.
    pub replayed: CancellationToken,
    /// Whether the bucket was seen to hold keys that are no records.
    has_foreign_keys: Arc<AtomicBool>,
}

impl Store {
    pub fn new(
        context: StoreContext,
        rules: &Arc<Rules>,
        timing: Timing,
        periods: Periods,
    ) -> Self {
        let context = Arc::new(context);
        let users = Keyspace::new(
            Arc::clone(&context),
            rules,
            timing,
            || Index::new(periods),
            Leases::new(periods.lease_ms),
        );
        let channels =
            Keyspace::new(Arc::clone(&context), &Arc::new(()), timing, channel::Index::default, ());
        Self {
            users: Arc::new(users),
            channels: Arc::new(channels),
            context,
            replayed: CancellationToken::new(),
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
        let writes = writes.run(client, self.context.clock, watchdog.register("writes"));
        tracker.spawn(stop.clone().run_until_cancelled_owned(writes));
        let acks = acks::run(self.clone(), acks, watchdog.register("acknowledgements"));
        tracker.spawn(stop.clone().run_until_cancelled_owned(acks));
        let feed = feed::run(self.clone(), shape, watchdog.register("feed"));
        tracker.spawn(stop.clone().run_until_cancelled_owned(feed));
        let tap = watchdog.register("barrier");
        tracker.spawn(stop.clone().run_until_cancelled_owned(async move {
            store.context.barrier.run(bucket, tap).await;
        }));
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
            self.context.barrier.expire(self.context.clock.now().mono_ms);
        }
    }

    /// Replaces rules and times, from the next decision on.
    pub fn adjust(&self, rules: &Arc<Rules>, request_timeout: Duration) {
        self.context.bucket.set_timeout(bucket_timeout(request_timeout));
        self.users.for_each_stripe(|stripe| stripe.adjust(Arc::clone(rules), request_timeout));
        self.channels.for_each_stripe(|stripe| stripe.adjust(Arc::new(()), request_timeout));
    }

    /// The shared leases that hold connections.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.users.shared()
    }

    /// The number of keys with unfinished work.
    pub fn busy(&self) -> usize {
        self.users.busy() + self.channels.busy()
    }

    /// The replica is complete.
    fn set_replayed(&self) {
        self.leases().listen();
        self.users.for_each_stripe(|stripe| stripe.index_mut().agenda.listen());
        self.replayed.cancel();
    }

    /// Logs the first key that is no presence record.
    fn report_foreign(&self, key: &str) {
        if !self.has_foreign_keys.swap(true, Ordering::Relaxed) {
            tracing::error!(
                bucket = self.context.bucket.name(),
                key,
                "the bucket holds a key that is no presence record; such keys stay as they are. If the bucket belongs to something else, choose another `store.bucket`"
            );
        }
    }
}

/// The time-out of requests to JetStream. It leaves time to answer the request that needs one.
pub fn bucket_timeout(request_timeout: Duration) -> Duration {
    request_timeout / 2
}
