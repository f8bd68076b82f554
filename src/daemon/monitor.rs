//! Measures the daemon once a second: sizes, queues, peers and the lag of the replica, which is
//! reported in the health.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::api::transport::queue::QueueGauge;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::presence::user::Census;
use crate::service::Service;

/// The interval of the measurements.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A replica that lags by more makes the daemon not ready.
const FEED_LAG_LIMIT: Duration = Duration::from_secs(1);

/// The time for which one sample of the lag may wait before the next is taken, in milliseconds.
const LAG_SAMPLE_TIMEOUT_MS: u64 = 60_000;

/// The key under which a lagging replica is reported.
const PROBLEM_KEY: &str = "replica";

/// Measures one daemon.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub service: Service,
    pub gauge: QueueGauge,
    pub health: Health,
    pub metrics: Arc<Metrics>,
}

impl Monitor {
    /// Measures until the daemon ends.
    pub async fn run(self) {
        tokio::join!(self.take_census(), self.measure_lag());
    }

    async fn take_census(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let clock = self.service.store.context.clock;
        let mut last_ns = clock.elapsed_ns();
        loop {
            ticks.tick().await;
            let now_ns = clock.elapsed_ns();
            self.measure_once(Duration::from_nanos(
                now_ns - std::mem::replace(&mut last_ns, now_ns),
            ));
        }
    }

    fn measure_once(&self, since_last: Duration) {
        self.service.follow_peers();
        let (store, beacons) = (&self.service.store, &self.service.beacons);
        let (mut census, mut channels) = (Census::default(), 0);
        store.users.for_each_stripe(|stripe| census = census.plus(&stripe.index().census()));
        store.channels.for_each_stripe(|stripe| channels += stripe.index().count());
        self.metrics.set_census(&census, channels);
        self.metrics.set_daemons(beacons.peers().alive().count() + 1);
        let deaf = beacons.hearing().deaf(self.service.now().mono_ms).is_some();
        self.metrics.set_deaf(deaf, since_last);
        self.metrics.set_queue("execution", self.gauge.requests());
        self.metrics.set_queue("answers", self.service.pending());
        self.metrics.set_queue("commits", store.busy());
        self.metrics.set_queue("scans", self.service.scans());
    }

    /// Measures how long the replica takes to show all that is stored.
    async fn measure_lag(&self) {
        let context = &self.service.store.context;
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Since when the replica has not caught up.
        let mut waiting_ns = None;
        loop {
            ticks.tick().await;
            let since_ns = *waiting_ns.get_or_insert_with(|| context.clock.elapsed_ns());
            let lag = || Duration::from_nanos(context.clock.elapsed_ns() - since_ns);
            let deadline_ms = context.now().mono_ms + LAG_SAMPLE_TIMEOUT_MS;
            let mut all_stored = std::pin::pin!(context.barrier.all_stored(deadline_ms));
            let seen = loop {
                let answer = timeout(FEED_LAG_LIMIT / 4, &mut all_stored).await;
                self.metrics.set_replica_lag(lag());
                if lag() > FEED_LAG_LIMIT {
                    self.health
                        .report(PROBLEM_KEY, "has not caught up with the bucket for over a second");
                }
                if let Ok(seen) = answer {
                    break seen;
                }
            };
            if seen.is_ok() {
                waiting_ns = None;
            }
            if seen.is_ok() && lag() <= FEED_LAG_LIMIT {
                self.health.clear(PROBLEM_KEY);
            }
        }
    }
}
