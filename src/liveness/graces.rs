//! Ends graces: a user whose last connection ended goes offline when the grace is over. Every
//! daemon watches every grace; the first in rendezvous order acts, the next a second later.

use std::time::Duration;

use super::internal::Beacons;
use crate::presence::id::Id;
use crate::presence::user::{Command, Grace};
use crate::store::Store;

/// How often graces are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How much later than the one before it each daemon acts, in milliseconds.
const STEP_MS: u64 = 1000;

/// How long the write that ends a grace may take before it is tried again, in milliseconds.
const RETRY_MS: u64 = 2000;

/// How many graces are ended at a time per part of the store and look, so that a mass departure
/// leaves room for requests.
const AT_A_TIME: usize = 16;

/// Watches the graces for as long as the daemon lives.
pub async fn run(store: Store, beacons: Beacons, grace: Duration) {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    store.replayed.cancelled().await;
    loop {
        look.tick().await;
        for (user, grace) in due(&store, &beacons, grace_ms) {
            let command = Command::EndGrace { since: grace.since };
            let deadline_ms = store.link.clock.now().mono_ms + RETRY_MS;
            store.users.command(user, command, deadline_ms, Box::new(|_| ()));
        }
    }
}

/// The graces that are this daemon's to end now.
fn due(store: &Store, beacons: &Beacons, grace_ms: u64) -> Vec<(Id, Grace)> {
    let now = store.link.clock.now();
    let mut due = Vec::new();
    store.users.for_each_part(|part| {
        let index = part.index_mut();
        for _ in 0..AT_A_TIME {
            let Some((user, grace)) = index.take_due_grace(grace_ms, now) else { break };
            let rank = beacons.peers().rank(user.as_str());
            let wait_ms = u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(STEP_MS);
            let turn_ms = (grace.seen_ms + grace_ms).saturating_add(wait_ms);
            if turn_ms > now.mono_ms {
                index.postpone(user, grace, grace_ms, turn_ms - now.mono_ms, now);
            } else {
                // Seen again only if the write does not happen.
                index.postpone(user.clone(), grace, grace_ms, RETRY_MS, now);
                due.push((user, grace));
            }
        }
    });
    due
}
