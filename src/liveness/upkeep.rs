//! The work on the bucket that nobody waits for: tried again and again, with pauses after failures.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::store::Store;
use crate::store::bucket::BucketError;

/// The interval between two looks for work.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The state of the work so far.
#[derive(Debug)]
pub struct Upkeep {
    /// The name of the work, for the log.
    name: &'static str,
    ticks: Interval,
    pause: Duration,
    paused_until: Option<Instant>,
    /// The cause that the log shows.
    logged: Option<String>,
}

impl Upkeep {
    /// Within a runtime.
    pub fn new(name: &'static str) -> Self {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { name, ticks, pause: FIRST_PAUSE, paused_until: None, logged: None }
    }

    /// Waits for the next interval.
    pub async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// Waits for the next interval at which the replica is whole, the clock right, and the work not
    /// paused.
    pub async fn until_able(&mut self, store: &Store) {
        loop {
            self.tick().await;
            let is_able = store.is_whole() && !store.context.clock_skew.is_wrong();
            if is_able && !self.is_paused() {
                return;
            }
        }
    }

    /// Returns whether the work waits after a failure.
    pub fn is_paused(&self) -> bool {
        self.paused_until.is_some_and(|until| Instant::now() < until)
    }

    /// Parts of the work were tried, if there were any. A key that was written meanwhile is no
    /// failure: it is looked at again.
    pub fn on_tried(&mut self, parts: impl IntoIterator<Item = Result<(), BucketError>>) {
        let mut parts = parts.into_iter().peekable();
        if parts.peek().is_none() {
            return;
        }
        let mut failures = parts.filter_map(Result::err);
        let failure = failures.find(|e| !matches!(e, BucketError::Conflict | BucketError::NoKey));
        let Some(error) = failure else {
            if self.logged.take().is_some() {
                tracing::info!("{} goes on", self.name);
            }
            (self.pause, self.paused_until) = (FIRST_PAUSE, None);
            return;
        };
        self.paused_until = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let cause = error.to_string();
        if self.logged.as_ref() != Some(&cause) {
            tracing::warn!(cause, "{} waits", self.name);
            self.logged = Some(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: &str) -> Result<(), BucketError> {
        Err(BucketError::Refused { code: 1, description: why.to_owned() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_until_the_work_is_done() {
        let mut upkeep = Upkeep::new("it");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            upkeep.on_tried([Err(BucketError::Conflict), refused("full")]);
            let failed = Instant::now();
            while upkeep.is_paused() {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            pauses.push(failed.elapsed().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        upkeep.on_tried([]);
        assert!(upkeep.logged.is_some(), "nothing was tried");
        upkeep.on_tried([Err(BucketError::Conflict)]);
        assert!(!upkeep.is_paused() && upkeep.logged.is_none());
        assert_eq!(upkeep.pause, FIRST_PAUSE);
    }
}
