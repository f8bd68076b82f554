//! The announcements of changes: those of this daemon, and those that failed daemons did not
//! publish.

use std::collections::VecDeque;
use std::collections::{BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};

use super::Keyspace;
use crate::presence::entity::{DaemonId, Entity, Event};
use crate::presence::id;

/// The changes of a former daemon from this long before its last one are announced again by a
/// daemon that starts alone, in milliseconds of the former daemon's clock.
const NEWEST_CHANGES_MS: u64 = 5000;

/// The time for which a remote change is remembered in case its daemon fails, in milliseconds.
const REMOTE_CHANGE_TTL_MS: u64 = 20_000;

/// A visible change by another daemon, which that daemon announces.
#[derive(Debug)]
pub(super) struct RemoteChange<K> {
    seen_ms: u64,
    key: K,
    by: DaemonId,
}

impl<E: Entity> Keyspace<E> {
    /// Announces the changes of a failed daemon since `since_ms` again, since it may not have done
    /// so. Returns the number of keys.
    pub fn announce_for(&self, failed: DaemonId, since_ms: u64) -> usize {
        let keys: BTreeSet<_> = {
            let remote_changes = self.remote_changes();
            let its_changes =
                remote_changes.iter().filter(|each| each.by == failed && each.seen_ms >= since_ms);
            its_changes.map(|each| each.key.clone()).collect()
        };
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces the newest changes of each former daemon that is not `alive` again: it may have
    /// failed before it announced them. Returns the number of keys. The choice depends on the
    /// versions alone, which are public: an invisible change leaves no trace in it.
    pub fn announce_newest(&self, alive: impl Fn(DaemonId) -> bool) -> usize {
        let mut newest: HashMap<DaemonId, u64> = HashMap::new();
        self.for_each_stripe(|stripe| {
            for (_, (version, by)) in stripe.changes() {
                if let Some(by) = by.filter(|by| !alive(*by)) {
                    let newest = newest.entry(by).or_default();
                    *newest = version.max(*newest);
                }
            }
        });
        let is_new = |(version, by): (u64, Option<DaemonId>)| {
            let last = by.and_then(|by| newest.get(&by)).copied();
            last.is_some_and(|last| version + NEWEST_CHANGES_MS >= last)
        };
        let mut keys = Vec::new();
        self.for_each_stripe(|stripe| {
            let new = stripe.changes().filter(|(_, change)| is_new(*change));
            keys.extend(new.map(|(key, _)| key.clone()));
        });
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces the present view of a key.
    pub fn announce(&self, key: &E::Key) {
        let stripe = self.lock(self.stripe_of(key));
        if let Some(event) = stripe.announcement(key, self.context.now()) {
            self.publish(event);
        }
    }

    pub(super) fn publish(&self, event: Event) {
        self.context.metrics.events.inc();
        let subject = id::subject(&self.context.event_prefix, [event.user.as_str()]);
        self.context.publish(subject, event.version, event.body, None);
    }

    /// Remembers a visible change by another daemon, in case that daemon fails.
    pub(super) fn note_remote_change(&self, key: E::Key, by: DaemonId) {
        let seen_ms = self.context.now().mono_ms;
        self.remote_changes().push_back(RemoteChange { seen_ms, key, by });
    }

    /// Forgets remote changes that are old.
    pub(super) fn forget_remote_changes(&self) {
        let now_ms = self.context.now().mono_ms;
        let is_old = |each: &mut RemoteChange<E::Key>| each.seen_ms + REMOTE_CHANGE_TTL_MS < now_ms;
        let mut remote_changes = self.remote_changes();
        while remote_changes.pop_front_if(is_old).is_some() {}
    }

    fn remote_changes(&self) -> MutexGuard<'_, VecDeque<RemoteChange<E::Key>>> {
        self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
