//! The bucket: every record in memory, every change one compare-and-set write.
//!
//! [`stripe`] is the machinery without IO; the rest is a thin shell around it: `feed` and
//! `acks` bring in what NATS says, [`keyspace`] carries out what the stripes want, [`barrier`]
//! says when the replica is fresh, [`bucket`] makes and checks the bucket.

mod acks;
pub mod barrier;
pub mod bucket;
mod feed;
pub mod keyspace;
pub mod outbox;
pub mod stripe;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::SubscribeError;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::presence::channel::Channels;
use crate::presence::lease::Leases;
use crate::presence::user::{Periods, Rules, Users};
use crate::watchdog::{Watchdog, WatchdogTap};
use bucket::{BucketError, Shape};
use keyspace::{Keyspace, StoreContext};
use outbox::Outgoing;
use stripe::Timing;

/// How often the stripes are told that time has passed.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// The records of this daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub context: Arc<StoreContext>,
    pub users: Arc<Keyspace<Users>>,
    pub channels: Arc<Keyspace<Channels>>,
    leases: Arc<Mutex<Leases>>,
    /// Cancelled when the replica is whole for the first time.
    pub replayed: CancellationToken,
    replay: Arc<Replay>,
}

/// What the replay of the bucket found beside the records.
#[derive(Debug, Default)]
struct Replay {
    foreign: AtomicBool,
}

impl Store {
    pub fn new(
        context: StoreContext,
        rules: &Arc<Rules>,
        timing: Timing,
        periods: Periods,
    ) -> Self {
        let context = Arc::new(context);
        let users = Keyspace::<Users>::new(Arc::clone(&context), rules, timing);
        let leases = Arc::new(Mutex::new(Leases::new(periods.lease_ms)));
        users.for_each_stripe(|stripe| {
            stripe.index_mut().share(Arc::clone(&leases));
            stripe.index_mut().own_leases.measure(periods);
        });
        Self {
            users: Arc::new(users),
            leases,
            channels: Arc::new(Keyspace::new(Arc::clone(&context), &Arc::new(()), timing)),
            context,
            replayed: CancellationToken::new(),
            replay: Arc::default(),
        }
    }

    /// Starts to follow the bucket, and to write what is committed. Ends with `stop`.
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
            stop.run_until_cancelled_owned(self.clone().keep_time(watchdog.register("stripes"))),
        );
        Ok(())
    }

    /// Visits every stripe, so it does not answer where one of them is held for good.
    async fn keep_time(self, mut tap: WatchdogTap) {
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

    /// Goes by other rules and times from the next decision on.
    pub fn adjust(&self, rules: &Arc<Rules>, request_timeout: Duration) {
        self.context.bucket.set_timeout(patience(request_timeout));
        self.users.for_each_stripe(|stripe| stripe.adjust(Arc::clone(rules), request_timeout));
        self.channels.for_each_stripe(|stripe| stripe.adjust(Arc::new(()), request_timeout));
    }

    /// The shared leases that hold connections.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many keys have unfinished business.
    pub fn busy(&self) -> usize {
        self.users.busy() + self.channels.busy()
    }

    /// The replica is whole.
    fn set_replayed(&self) {
        self.leases().listen();
        self.users.for_each_stripe(|stripe| stripe.index_mut().own_leases.listen());
        self.replayed.cancel();
    }

    /// A key that is no record of ours. It is left alone.
    fn foreign(&self, key: &str) {
        if !self.replay.foreign.swap(true, Ordering::Relaxed) {
            tracing::error!(
                bucket = self.context.bucket.name(),
                key,
                "the bucket holds a key that is no presence record; such keys are left alone. If the bucket belongs to something else, choose another `store.bucket`"
            );
        }
    }
}

/// How long JetStream's own answers are waited for: a request that needs one can still be answered.
pub fn patience(request_timeout: Duration) -> Duration {
    request_timeout / 2
}

/// Waits until the bucket is there, making it if it is missing. Says once in a while what it waits
/// for; an error says why the bucket cannot be used.
pub async fn open(bucket: &bucket::Bucket, shape: Shape, health: &Health) -> Result<(), String> {
    let mut said = String::new();
    let mut silent_for = 0_u32;
    health.starting(format!("the bucket {}", bucket.name()));
    loop {
        let opened = match bucket.info().await {
            Ok(info) => return bucket.check(&info),
            Err(BucketError::Missing) => bucket.create(shape).await,
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            let text = error.to_string();
            health.starting(format!("the bucket {}: {text}", bucket.name()));
            // What the daemon suffers from already has been told, and explains the silence.
            let is_told = matches!(error, BucketError::Timeout(_)) && health.has_problems();
            if !is_told && (said != text || silent_for >= 60) {
                tracing::error!(bucket = bucket.name(), reason = text, "waiting for the bucket");
                (said, silent_for) = (text, 0);
            }
            silent_for += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
