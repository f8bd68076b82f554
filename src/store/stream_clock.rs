//! JetStream's clock, as far as this daemon knows it: the wall clocks of daemons may differ, and
//! what they must agree on goes by the one of the stream.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::bucket::Bucket;
use crate::clock::Clock;
use crate::presence::time::{Now, Time};

/// How often the clocks are compared.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// How often they are compared until there is a first answer.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// An answer that took longer says too little about the time, in milliseconds.
const MAX_ROUND_TRIP_MS: u64 = 1000;

/// How far JetStream's clock is ahead of this daemon's wall clock.
#[derive(Debug, Default)]
pub struct StreamClock {
    ahead_ms: AtomicI64,
    known: AtomicBool,
}

impl StreamClock {
    /// A reading of both clocks, with JetStream's in place of the wall clock; `None` until it is
    /// known.
    pub fn at(&self, now: Now) -> Option<Now> {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let wall = Time(now.wall.0.saturating_add(ahead_ms));
        self.known.load(Ordering::Acquire).then_some(Now { wall, ..now })
    }

    /// Compares the clocks from time to time, without end.
    pub async fn run(&self, bucket: &Bucket, clock: Clock) {
        while !self.compare(bucket, clock).await {
            tokio::time::sleep(FIRST_INTERVAL).await;
        }
        let mut ticks = interval(COMPARE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.compare(bucket, clock).await;
        }
    }

    /// Whether there was an answer that tells the time.
    async fn compare(&self, bucket: &Bucket, clock: Clock) -> bool {
        let asked = clock.now();
        let Ok(info) = bucket.info().await else { return false };
        let answered = clock.now();
        let took_ms = answered.mono_ms - asked.mono_ms;
        if took_ms > MAX_ROUND_TRIP_MS {
            return false;
        }
        let half_ms = i64::try_from(took_ms / 2).unwrap_or(0);
        let ahead_ms = info.ts.timestamp_millis() - (answered.wall.0 - half_ms);
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        self.known.store(true, Ordering::Release);
        true
    }
}
