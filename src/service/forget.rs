//! `users.forget_after`: deletes users who are offline and were not touched for so long. Every
//! daemon looks; the first in rendezvous order deletes, and the next does so at a later look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::millis;
use crate::liveness::internal::Beacons;
use crate::liveness::peers::RankFilter;
use crate::presence::id::Id;
use crate::presence::time::Time;
use crate::presence::user::{Command, Outcome};
use crate::store::Store;
use crate::store::stripe::Answer;

/// The bounds of the period of looks at all users.
const LOOK_INTERVALS: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(3600));

/// The maximum number of users deleted at a time, so that requests are served meanwhile.
const MAX_CONCURRENT_WRITES: usize = 64;

/// The time for a deletion, in milliseconds; after that the user is found again.
const WRITE_MS: u64 = 5000;

/// Finds the users to forget, and deletes them.
#[derive(Debug)]
pub struct Forgetting {
    pub store: Store,
    pub beacons: Beacons,
    pub after: Duration,
}

impl Forgetting {
    /// Looks at all users again and again, without end. The replica is whole.
    pub async fn run(self) {
        let (least, most) = LOOK_INTERVALS;
        let mut looks = interval((self.after / 50).clamp(least, most));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
        loop {
            looks.tick().await;
            for (user, touched) in self.find(millis(looks.period())) {
                // It is closed never.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                self.forget(user, touched, permit);
            }
        }
    }

    /// The users whose time has come, and the turn of this daemon with it.
    fn find(&self, look_ms: u64) -> Vec<(Id, Time)> {
        let context = &self.store.context;
        let now = context.now().stream;
        let after_ms = millis(self.after);
        let mut found = Vec::new();
        self.store.users.for_each_stripe(|stripe| {
            let offline = stripe.records().filter(|(_, record)| !record.is_online());
            found.extend(offline.filter_map(|(user, record)| {
                let touched = record.touched(now);
                let age_ms = u64::try_from(now.0.saturating_sub(touched.0)).unwrap_or(0);
                let spread_ms = spread_ms(user, after_ms);
                (age_ms >= after_ms.saturating_add(spread_ms)).then(|| {
                    let late_ms = age_ms - after_ms - spread_ms;
                    (user.clone(), touched, late_ms)
                })
            }));
        });
        let peers = self.beacons.peers();
        found.retain(|(user, _, late_ms)| {
            let rank = u64::try_from(peers.rank(user.as_str(), RankFilter::Alive));
            // A full look of the daemon before this one comes first.
            *late_ms >= rank.unwrap_or(u64::MAX).saturating_mul(2 * look_ms.max(500))
        });
        found.into_iter().map(|(user, touched, _)| (user, touched)).collect()
    }

    fn forget(&self, user: Id, touched: Time, permit: tokio::sync::OwnedSemaphorePermit) {
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

/// How much later than its time a user is forgotten: up to a tenth, differently for each, so that
/// users who left together are not deleted together.
fn spread_ms(user: &Id, after_ms: u64) -> u64 {
    let hash = user.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) % (after_ms / 10).max(1)
}
