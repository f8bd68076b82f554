//! `users.forget_after`: deletes users who are offline and were not touched for so long. Every
//! daemon searches; the first in rendezvous order deletes, and the next does so a while later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::clock::millis;
use crate::liveness::internal::Beacons;
use crate::liveness::peers::{RankFilter, delay_ms};
use crate::presence::id::{Id, stable_hash};
use crate::presence::time::Time;
use crate::presence::user::{Command, Outcome};
use crate::store::Store;
use crate::store::stripe::Answer;

/// The bounds of the period of passes over all users.
const PASS_INTERVALS: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(3600));

/// The maximum number of users deleted at a time, so that requests are served meanwhile.
const MAX_CONCURRENT_WRITES: usize = 64;

/// The maximum number of users that one pass finds; the next one finds the others.
const MAX_PER_PASS: usize = 100_000;

/// The time for a deletion, in milliseconds; after that the user is found again.
const WRITE_MS: u64 = 5000;

/// Finds the users to forget, and deletes them.
#[derive(Debug, Clone)]
pub struct Forgetting {
    pub store: Store,
    pub beacons: Beacons,
    pub after: Duration,
}

/// A user whose time comes before the next pass.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// The time at which the user is deleted, on the monotonic clock.
    at_ms: u64,
    user: Id,
    touched: Time,
}

/// The times of one pass over all users.
#[derive(Debug, Clone, Copy)]
struct Pass {
    now_ms: u64,
    /// The time of this daemon's first pass: the next in order waits from then on at least.
    first_ms: u64,
    /// The period of passes.
    period_ms: u64,
    after_ms: u64,
}

impl Forgetting {
    /// Passes over all users again and again, without end.
    pub async fn run(self) {
        let (least, most) = PASS_INTERVALS;
        let mut passes = interval((self.after / 50).clamp(least, most));
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
        let first_ms = self.store.context.now().mono_ms;
        let (period_ms, after_ms) = (millis(passes.period()), millis(self.after));
        loop {
            passes.tick().await;
            if !self.store.is_whole() {
                // A record that the replica shows may not be stored any more.
                continue;
            }
            let now_ms = self.store.context.now().mono_ms;
            let pass = Pass { now_ms, first_ms, period_ms, after_ms };
            let forgetting = self.clone();
            let found = tokio::task::spawn_blocking(move || forgetting.find(pass)).await;
            for Found { at_ms, user, touched } in found.unwrap_or_default() {
                let early_ms = at_ms.saturating_sub(self.store.context.now().mono_ms);
                sleep(Duration::from_millis(early_ms)).await;
                if !self.store.is_whole() {
                    break;
                }
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                self.forget(user, touched, permit);
            }
        }
    }

    /// The users whose time comes before the next pass, and the turn of this daemon with it, in
    /// the order of their times. Visits every record.
    fn find(&self, pass: Pass) -> Vec<Found> {
        let stream = self.store.context.now().stream;
        let mut found = Vec::new();
        self.store.users.for_each_stripe(|stripe| {
            let offline = stripe.records().filter(|(_, record)| !record.is_online());
            let left = MAX_PER_PASS.saturating_sub(found.len());
            let due = offline.filter_map(|(user, record)| {
                let touched = record.touched(stream);
                let age_ms = u64::try_from(stream.0.saturating_sub(touched.0)).unwrap_or(0);
                let rank = || self.beacons.peers().rank(user.as_str(), RankFilter::Alive);
                let at_ms = pass.time_of(user, age_ms, rank)?;
                Some(Found { at_ms, user: user.clone(), touched })
            });
            found.extend(due.take(left));
        });
        found.sort_unstable();
        found
    }

    fn forget(&self, user: Id, touched: Time, permit: OwnedSemaphorePermit) {
        let context = &self.store.context;
        let deadline_ms = context.now().mono_ms + WRITE_MS;
        let answer = self.store.users.command(user, Command::Forget { touched }, deadline_ms);
        let metrics = Arc::clone(&context.metrics);
        context.tracker.spawn(async move {
            if let Ok(Ok(Answer { outcome: Outcome::Deleted(true), .. })) = answer.await {
                metrics.forgotten.inc();
            }
            drop(permit);
        });
    }
}

impl Pass {
    /// The time at which a user who was touched `age_ms` ago is deleted, if that is before the next
    /// pass.
    ///
    /// That is up to a tenth of the time late, differently for each, so that users who left
    /// together are not deleted together. Those whose time had come before the pass are spread
    /// over its period. The next daemon in order comes two periods later.
    fn time_of(&self, user: &Id, age_ms: u64, rank: impl FnOnce() -> usize) -> Option<u64> {
        let hash = hash(user);
        let wanted_ms = self.after_ms.saturating_add(hash % (self.after_ms / 10).max(1));
        let until_ms = wanted_ms.saturating_sub(age_ms);
        if until_ms >= self.period_ms {
            return None;
        }
        let overdue_ms = age_ms.saturating_sub(wanted_ms);
        let time_ms = (self.now_ms + until_ms).saturating_sub(overdue_ms);
        let time_ms = time_ms.max(self.first_ms + hash % self.period_ms);
        let step_ms = 2 * self.period_ms.max(500);
        let turn_ms = delay_ms(rank(), step_ms);
        let at_ms = time_ms.saturating_add(turn_ms);
        let at_ms = if at_ms < self.now_ms { self.now_ms + hash % self.period_ms } else { at_ms };
        (at_ms < self.now_ms + self.period_ms).then_some(at_ms)
    }
}

/// The hash of a user, folded.
fn hash(user: &Id) -> u64 {
    let hash = stable_hash(user.as_str());
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const AFTER_MS: u64 = 30 * 24 * HOUR_MS;

    /// The times at which the users are deleted, found by the passes of two days, the first at 7 ms.
    fn times(users: u64, age_ms: u64, rank: usize) -> Vec<u64> {
        let mut times = Vec::new();
        for number in 0..users {
            let user = Id::parse(&format!("u{number}"), "id").unwrap();
            let at = (0..48).find_map(|hour| {
                let now_ms = 7 + hour * HOUR_MS;
                let pass = Pass { now_ms, first_ms: 7, period_ms: HOUR_MS, after_ms: AFTER_MS };
                pass.time_of(&user, age_ms + hour * HOUR_MS, || rank)
            });
            times.extend(at);
        }
        times.sort_unstable();
        times
    }

    #[test]
    fn those_whose_time_had_come_before_are_spread_over_the_period_of_passes() {
        let first = times(1000, 12 * AFTER_MS, 0);
        assert_eq!(first.len(), 1000);
        assert!(first[0] >= 7 && first[999] < 7 + HOUR_MS, "{first:?}");
        let in_half = first.partition_point(|at_ms| *at_ms < HOUR_MS / 2);
        assert!((400..600).contains(&in_half), "{in_half}");
        let second = times(1000, 12 * AFTER_MS, 1);
        assert!(second[0] >= 2 * HOUR_MS && second[999] < 4 * HOUR_MS, "{second:?}");
    }

    #[test]
    fn those_who_left_together_are_spread_and_none_is_early() {
        let times = times(1000, AFTER_MS - 1, 0);
        assert!(times.iter().all(|at_ms| *at_ms > 7), "{times:?}");
        // Two of the three days over which they are spread.
        assert!((600..730).contains(&times.len()), "{}", times.len());
    }
}
