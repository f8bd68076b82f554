//! Signs of life of users: when each connection that keeps itself alive was last heard of, and when
//! `last_active` is due. Pure: the time comes in as a value. One entry of an agenda per connected
//! user: no task each, and no scan of all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::record::Record;
use crate::presence::id::Id;
use crate::presence::lease::Heard;
use crate::presence::time::{Now, Time};

/// How long something that was handed out as due rests before it is handed out again, in
/// milliseconds; not longer than a lease, since it may be heard again at once and then fall silent.
const RETRY_MS: u64 = 5000;

/// The times that are measured.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// A connection not heard of for so long has lapsed.
    pub lease_ms: u64,
    /// How old `last_active` may grow while a user is connected.
    pub refresh_ms: u64,
}

impl Default for Periods {
    fn default() -> Self {
        Self { lease_ms: 60_000, refresh_ms: 15 * 60_000 }
    }
}

/// A connection at a moment of its life: its next `connect` makes it another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionGen {
    pub connection: Id,
    pub generation: u64,
}

#[derive(Debug)]
struct OwnLease {
    connection_gen: ConnectionGen,
    heard: Heard,
}

#[derive(Debug)]
struct UserLeases {
    /// When the user is looked at next; an entry of the agenda with another time is void.
    due_ms: u64,
    /// The `last_active` that must not grow old, and whether it is the invisible one.
    active: (Option<Time>, bool),
    refresh_due_ms: u64,
    /// The connections that are kept alive by their own heartbeats.
    own: Vec<OwnLease>,
}

/// What is due for a user.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub user: Id,
    /// Connections that have been silent for a lease.
    pub silent: Vec<ConnectionGen>,
    /// The `last_active` that has grown too old.
    pub stale: Option<Option<Time>>,
}

/// The signs of life of the users of one stripe.
#[derive(Debug, Default)]
pub struct OwnLeases {
    periods: Periods,
    users: HashMap<Id, UserLeases>,
    agenda: BinaryHeap<Reverse<(u64, Id)>>,
    listening: bool,
}

impl OwnLeases {
    /// Sets the times, before the first record is seen.
    pub fn measure(&mut self, periods: Periods) {
        self.periods = periods;
    }

    /// The replica is whole; from now on a connection that appears has just connected.
    pub fn listen(&mut self) {
        self.listening = true;
    }

    /// A heartbeat of a connection came, which was sent then. One that is unknown leaves no trace.
    pub fn heartbeat(&mut self, user: &impl AsRef<str>, connection: &impl AsRef<str>, at_ms: u64) {
        if let Some(lease) = self.lease_mut(user.as_ref(), connection.as_ref()) {
            lease.heard.beat(at_ms);
        }
    }

    /// Another daemon has heard a connection that was handed out as silent: it is looked at again
    /// when a lease has passed since then.
    pub fn objected(&mut self, user: &Id, connection: &Id, at_ms: u64) {
        self.heartbeat(user, connection, at_ms);
        let due_ms = at_ms + self.periods.lease_ms;
        if let Some(leases) = self.users.get_mut(user).filter(|leases| leases.due_ms > due_ms) {
            leases.due_ms = due_ms;
            self.agenda.push(Reverse((due_ms, user.clone())));
        }
    }

    /// When a connection that keeps itself alive was last heard of.
    pub fn heard(&self, user: &Id, connection: &Id) -> Option<Heard> {
        let own = &self.users.get(user)?.own;
        own.iter()
            .find(|lease| lease.connection_gen.connection == *connection)
            .map(|lease| lease.heard)
    }

    /// Whether a connection has been silent for a lease, and is still the same.
    pub fn is_silent(&self, user: &Id, connection_gen: &ConnectionGen, now_ms: u64) -> bool {
        let own = self.users.get(user).map(|leases| leases.own.as_slice()).unwrap_or_default();
        own.iter().any(|lease| {
            lease.connection_gen == *connection_gen
                && lease.heard.at_ms + self.periods.lease_ms <= now_ms
        })
    }

    /// Takes a user for whom something is due, `wait_ms(user)` after its time. Silence counts only
    /// from `hears_from_ms` on.
    pub fn take_due(
        &mut self,
        now: Now,
        hears_from_ms: u64,
        wait_ms: impl Fn(&Id) -> u64,
    ) -> Option<Due> {
        let (now_ms, full_ms) = (now.mono_ms, self.periods.refresh_ms);
        while self.agenda.peek().is_some_and(|Reverse((at_ms, _))| *at_ms <= now_ms) {
            let Reverse((at_ms, user)) = self.agenda.pop()?;
            let Some(leases) = self.users.get_mut(&user).filter(|leases| leases.due_ms == at_ms)
            else {
                continue;
            };
            let wait_ms = wait_ms(&user);
            // By a clock that is behind, it was only just refreshed: there is nothing to write.
            if leases.refresh_due_ms <= now_ms && leases.active.0 >= Some(now.wall) {
                leases.refresh_due_ms = now_ms + full_ms;
            }
            let mut next_ms = leases.refresh_due_ms + wait_ms;
            let stale = (next_ms <= now_ms).then_some(leases.active.0);
            if stale.is_some() {
                next_ms = now_ms + RETRY_MS;
            }
            let mut silent = Vec::new();
            for lease in &leases.own {
                let lapses_ms =
                    (lease.heard.at_ms + self.periods.lease_ms + wait_ms).max(hears_from_ms);
                if lapses_ms <= now_ms {
                    silent.push(lease.connection_gen.clone());
                    next_ms = next_ms.min(now_ms + RETRY_MS.min(self.periods.lease_ms));
                } else {
                    next_ms = next_ms.min(lapses_ms);
                }
            }
            leases.due_ms = next_ms;
            self.agenda.push(Reverse((next_ms, user.clone())));
            if stale.is_some() || !silent.is_empty() {
                return Some(Due { user, silent, stale });
            }
        }
        None
    }

    /// Keeps in step with the record of a user.
    pub(super) fn observe(&mut self, user: &Id, after: Option<&Record>, now: Now) {
        let Some(record) = after.filter(|record| !record.connections.is_empty()) else {
            self.users.remove(user);
            return;
        };
        let mut old = self.users.remove(user);
        let known = old.as_mut().map(|leases| std::mem::take(&mut leases.own)).unwrap_or_default();
        let own = record.connections.iter().filter(|each| each.lease.is_none()).map(|each| {
            let connection_gen =
                ConnectionGen { connection: each.id.clone(), generation: each.generation };
            let known = known
                .iter()
                .find(|lease| lease.connection_gen.connection == connection_gen.connection);
            let heard = match known {
                Some(lease) if lease.connection_gen == connection_gen => lease.heard,
                Some(lease) => lease.heard.connected_again(now.mono_ms, self.listening),
                None => Heard::connected(now.mono_ms, self.listening),
            };
            OwnLease { connection_gen, heard }
        });
        let own: Vec<_> = own.collect();
        let active = (record.refreshed_last_active(), record.invisible);
        let refresh_due_ms = match &old {
            Some(old) if old.active == active => old.refresh_due_ms,
            _ => now.mono_ms + self.refresh_in(user, active.0, now.wall),
        };
        let lapses = own.iter().map(|lease| lease.heard.at_ms + self.periods.lease_ms);
        let wanted_ms = lapses.fold(refresh_due_ms, u64::min);
        let scheduled = old.map(|old| old.due_ms).filter(|due_ms| *due_ms <= wanted_ms);
        let due_ms = scheduled.unwrap_or_else(|| {
            self.agenda.push(Reverse((wanted_ms, user.clone())));
            wanted_ms
        });
        let leases = UserLeases { due_ms, active, refresh_due_ms, own };
        self.users.insert(user.clone(), leases);
    }

    /// In how long `last_active` is due: up to a tenth early, differently for each user, so that
    /// those who connected together are not written together. While the bucket is replayed only
    /// the wall clock tells how old it is.
    fn refresh_in(&self, user: &Id, last_active: Option<Time>, wall: Time) -> u64 {
        let full_ms = self.periods.refresh_ms;
        let hash = user.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let in_ms = full_ms - hash % (full_ms / 10).max(1);
        if self.listening {
            return in_ms;
        }
        let age_ms = last_active.map_or(0, |at| wall.0.saturating_sub(at.0));
        in_ms.saturating_sub(u64::try_from(age_ms).unwrap_or(0))
    }

    fn lease_mut(&mut self, user: &str, connection: &str) -> Option<&mut OwnLease> {
        let own = &mut self.users.get_mut(user)?.own;
        own.iter_mut().find(|lease| lease.connection_gen.connection.as_str() == connection)
    }
}
