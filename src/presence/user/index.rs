//! What is kept beside the records of users: which connections hang on which shared lease, and
//! which graces are running.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::own_leases::OwnLeases;
use super::record::Record;
use super::view::shown;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::time::{Now, Time};

/// The index over the users of one stripe.
#[derive(Debug, Default)]
pub struct Index {
    /// For each shared lease, its connections: user and connection id.
    leases: HashMap<Id, HashSet<(Id, Id)>>,
    graces: HashMap<Id, Grace>,
    /// When each grace was first seen, oldest first. An entry whose grace is over is skipped.
    first_seen: BinaryHeap<Reverse<(u64, Id, Time)>>,
    /// When the connections of these users were last heard of.
    pub own_leases: OwnLeases,
    /// The same for the shared leases, of all stripes together.
    shared: Arc<Mutex<Leases>>,
    census: Census,
}

/// How many users there are, as others see them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub known: usize,
    pub online: usize,
}

/// A grace that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// What identifies it in the record.
    pub since: Time,
    /// When this daemon first saw it, on its own monotonic clock.
    pub seen_ms: u64,
}

impl Index {
    /// Sets the table of shared leases, before the first record is seen.
    pub fn share(&mut self, leases: Arc<Mutex<Leases>>) {
        self.shared = leases;
    }

    /// How many users there are.
    pub fn census(&self) -> Census {
        self.census
    }

    /// The users with a connection on a lease, each once.
    pub fn holders(&self, lease: &Id) -> HashSet<Id> {
        let connections = self.leases.get(lease).into_iter().flatten();
        connections.map(|(user, _)| user.clone()).collect()
    }

    /// Takes a grace that was first seen at least `grace_ms` ago, if there is one. It comes back
    /// only by [`postpone`](Index::postpone), or when the record is seen with another.
    pub fn take_due_grace(&mut self, grace_ms: u64, now: Now) -> Option<(Id, Grace)> {
        while let Some(Reverse((seen_ms, ..))) = self.first_seen.peek() {
            if seen_ms + grace_ms > now.mono_ms {
                return None;
            }
            let Reverse((_, user, since)) = self.first_seen.pop()?;
            if let Some(grace) = self.graces.get(&user)
                && grace.since == since
            {
                return Some((user, *grace));
            }
        }
        None
    }

    /// Makes a grace due `by_ms` later than now.
    pub fn postpone(&mut self, user: Id, grace: Grace, grace_ms: u64, by_ms: u64, now: Now) {
        let as_if_seen = (now.mono_ms + by_ms).saturating_sub(grace_ms);
        self.first_seen.push(Reverse((as_if_seen, user, grace.since)));
    }

    pub(super) fn observe(
        &mut self,
        user: &Id,
        before: Option<&Record>,
        after: Option<&Record>,
        now: Now,
    ) {
        self.census.observe(before, after);
        self.observe_leases(user, before, after, now);
        self.own_leases.observe(user, after, now);
        self.observe_grace(user, after.and_then(|record| record.grace_since), now);
    }

    fn observe_leases(
        &mut self,
        user: &Id,
        before: Option<&Record>,
        after: Option<&Record>,
        now: Now,
    ) {
        let on_leases = |record: Option<&Record>| {
            let connections = record.map(|record| record.connections.as_slice());
            let connections = connections.unwrap_or_default().iter();
            let generations =
                connections.filter_map(|c| Some((c.lease.clone()?, c.id.clone(), c.generation)));
            generations.collect::<Vec<_>>()
        };
        let (old, new) = (on_leases(before), on_leases(after));
        if old == new {
            return;
        }
        let invisible = after.is_some_and(|record| record.invisible);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |generations: &[(Id, Id, u64)], lease: &Id, connection: &Id| {
            generations.iter().any(|(l, c, _)| l == lease && c == connection)
        };
        // Those that stay or come first: a lease that holds something at both ends is not forgotten
        // in between.
        for (lease, connection, generation) in &new {
            if !is_in(&old, lease, connection) {
                let held = self.leases.entry(lease.clone()).or_default();
                held.insert((user.clone(), connection.clone()));
                shared.joined(lease, invisible, now.mono_ms);
            } else if !old.iter().any(|(l, c, n)| (l, c, n) == (lease, connection, generation)) {
                shared.rejoined(lease, invisible, now.mono_ms);
            }
        }
        for (lease, connection, _) in &old {
            if !is_in(&new, lease, connection)
                && let Some(held) = self.leases.get_mut(lease)
            {
                held.remove(&(user.clone(), connection.clone()));
                if held.is_empty() {
                    self.leases.remove(lease);
                }
                shared.left(lease);
            }
        }
    }

    fn observe_grace(&mut self, user: &Id, since: Option<Time>, now: Now) {
        let Some(since) = since else {
            self.graces.remove(user);
            return;
        };
        if self.graces.get(user).is_some_and(|grace| grace.since == since) {
            return;
        }
        self.graces.insert(user.clone(), Grace { since, seen_ms: now.mono_ms });
        self.first_seen.push(Reverse((now.mono_ms, user.clone(), since)));
    }
}

impl Census {
    fn observe(&mut self, before: Option<&Record>, after: Option<&Record>) {
        let online = |record: Option<&Record>| usize::from(shown(record).online);
        self.known = self.known + usize::from(after.is_some()) - usize::from(before.is_some());
        self.online = self.online + online(after) - online(before);
    }
}
