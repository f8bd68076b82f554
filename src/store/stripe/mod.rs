//! One stripe of the store: for each key the newest known record, the write in flight and the
//! commands that wait. A state machine without IO: inputs carry the time, effects come out as
//! [`Effect`] values. Keys are independent of each other.
//!
//! A command is decided on the newest known record and committed by a compare-and-set write. The
//! commands that arrive while a write of their key is in flight are decided together, on top of
//! it, as the next write. A decision that writes is proven right by the write's success. One that
//! writes nothing has no such proof: it waits until the replica has seen all that was stored when
//! the command arrived ([`Effect::Verify`]), or until a write on the same base succeeds.

mod effect;
mod inputs;
mod key_state;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::presence::entity::{DaemonId, Entity, Stored};
use crate::presence::time::Now;
use key_state::KeyState;

pub use effect::{Answer, Content, Effect, Entry, Failure, Found, Job};

/// How long a marker of a deleted record is kept: a little longer than in the bucket.
const TOMBSTONE_MS: u64 = 25 * 3_600_000;

/// The times and bounds of a stripe.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// After so long without an acknowledgement the record is read.
    pub ack_timeout_ms: u64,
    /// After so long without an answer the read is repeated.
    pub read_timeout_ms: u64,
    /// How many conflicts in a row a write survives before its commands are `contended`.
    pub attempts: u32,
    /// The largest value that the server takes, in bytes.
    pub max_value: usize,
}

impl Timing {
    /// The times that go with `limits.request_timeout`: a command whose write is not acknowledged
    /// still has time to be decided again.
    pub fn new(request_timeout: Duration, attempts: u32, max_value: usize) -> Self {
        let timeout_ms = u64::try_from(request_timeout.as_millis()).unwrap_or(u64::MAX);
        let (ack_timeout_ms, read_timeout_ms) = (timeout_ms / 4, timeout_ms / 2);
        Self { ack_timeout_ms, read_timeout_ms, attempts, max_value }
    }
}

/// What is known of one key.
#[derive(Debug)]
struct Slot<R> {
    rev: u64,
    stored: Stored<R>,
}

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Self { rev: 0, stored: Stored::default() }
    }
}

/// A part of the records of one kind, with their unfinished business. `T` is whatever the caller
/// wants back with the answer to a command.
#[derive(Debug)]
pub struct Stripe<E: Entity, T> {
    daemon: DaemonId,
    rules: Arc<E::Rules>,
    timing: Timing,
    slots: HashMap<E::Key, Slot<E::Record>>,
    busy: HashMap<E::Key, KeyState<E, T>>,
    /// The key that each write in flight, by its number, is for.
    writes: HashMap<u64, E::Key>,
    /// Markers in the order in which they were seen: when, the key, its revision.
    tombstones: VecDeque<(u64, E::Key, u64)>,
    index: E::Index,
    last_number: u64,
    /// How often the bucket was replaced by a new one.
    epoch: u32,
    effects: Vec<Effect<E, T>>,
}

impl<E: Entity, T> Stripe<E, T> {
    pub fn new(daemon: DaemonId, rules: Arc<E::Rules>, timing: Timing, index: E::Index) -> Self {
        Self {
            daemon,
            rules,
            timing,
            slots: HashMap::new(),
            busy: HashMap::new(),
            writes: HashMap::new(),
            tombstones: VecDeque::new(),
            index,
            last_number: 0,
            epoch: 0,
            effects: Vec::new(),
        }
    }

    /// Goes by other rules and times from the next decision on.
    pub fn adjust(&mut self, rules: Arc<E::Rules>, request_timeout: Duration) {
        let Timing { attempts, max_value, .. } = self.timing;
        self.timing = Timing::new(request_timeout, attempts, max_value);
        self.rules = rules;
    }

    /// What is known to be stored under a key, and at which revision.
    pub fn known(&self, key: &E::Key) -> Option<(&Stored<E::Record>, u64)> {
        self.slots.get(key).map(|slot| (&slot.stored, slot.rev))
    }

    /// The record under a key, if there is one that can be read.
    pub fn record(&self, key: &E::Key) -> Option<&E::Record> {
        self.slots.get(key).and_then(|slot| slot.stored.record())
    }

    /// All that is known of any key, markers too.
    pub fn all(&self) -> impl Iterator<Item = (&E::Key, &Stored<E::Record>)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.stored))
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = (&E::Key, &E::Record)> {
        self.slots.iter().filter_map(|(key, slot)| Some((key, slot.stored.record()?)))
    }

    pub fn index(&self) -> &E::Index {
        &self.index
    }

    pub fn index_mut(&mut self) -> &mut E::Index {
        &mut self.index
    }

    /// How many keys have unfinished business.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    /// Takes the effects of the inputs since the last call, in their order.
    pub fn take_effects(&mut self) -> Vec<Effect<E, T>> {
        std::mem::take(&mut self.effects)
    }

    /// The present view of a key, to be announced once more.
    pub fn announcement(&self, key: &E::Key, now: Now) -> Option<crate::presence::entity::Event> {
        self.slots.get(key).and_then(|slot| E::announcement(key, &slot.stored, now))
    }

    /// Takes note of what is stored under a key from now on.
    fn store(&mut self, key: &E::Key, stored: Stored<E::Record>, rev: u64, now: Now) {
        let slot = self.slots.entry(key.clone()).or_default();
        let changes = E::observe(&mut self.index, key, slot.stored.record(), stored.record(), now);
        self.effects.extend(changes.into_iter().map(Effect::ChangeShared));
        if matches!(stored, Stored::Absent { .. }) {
            self.tombstones.push_back((now.mono_ms, key.clone(), rev));
        }
        *slot = Slot { rev, stored };
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Forgets markers that the bucket has forgotten too.
    fn forget_tombstones(&mut self, now: Now) {
        while self.tombstones.front().is_some_and(|(at, ..)| at + TOMBSTONE_MS <= now.mono_ms) {
            let Some((_, key, rev)) = self.tombstones.pop_front() else { return };
            if self.slots.get(&key).is_some_and(|slot| slot.rev == rev)
                && !self.busy.contains_key(&key)
            {
                self.slots.remove(&key);
            }
        }
    }
}
