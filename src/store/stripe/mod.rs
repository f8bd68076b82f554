//! One stripe of the store: the newest known record of each key, and one state machine for each
//! key with unfinished work. Sans-IO: inputs carry the time, effects come out as [`Effect`]
//! values. Keys are independent of each other.
//!
//! A command is decided on the newest known record and committed by a compare-and-set write.
//! Commands that arrive while a write of their key is in flight are decided together, on top of
//! it, as the next write. The success of a write proves its decisions. A decision that writes
//! nothing has no such proof: it waits until the replica has seen all that was stored when the
//! command arrived ([`Effect::Verify`]), or until a write on the same base succeeds.

mod decision;
mod effect;
mod key_state;
mod pending;
mod shared;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as MapEntry;

use crate::clock::millis;
use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::time::Now;
use key_state::KeyState;
use shared::Shared;

pub use effect::{Answer, Content, Effect, Entry, Failure, Found, Job};

/// For how many effects a stripe keeps room.
const MAX_KEPT_EFFECTS: usize = 256;

/// The times and bounds of a stripe.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A write without an acknowledgement for this long has its record read.
    pub ack_timeout_ms: u64,
    /// A read without an answer for this long is repeated.
    pub read_timeout_ms: u64,
    /// The number of conflicts in a row after which the commands of a write are `contended`.
    pub attempts: u32,
    /// The largest value that the server takes, in bytes.
    pub max_value: usize,
}

impl Timing {
    /// Derives the times from `limits.request_timeout`: a command whose write is not acknowledged
    /// still has time to be decided again.
    pub fn new(request_timeout: Duration, attempts: u32, max_value: usize) -> Self {
        let timeout_ms = millis(request_timeout);
        let (ack_timeout_ms, read_timeout_ms) = (timeout_ms / 4, timeout_ms / 2);
        Self { ack_timeout_ms, read_timeout_ms, attempts, max_value }
    }
}

fn present<R>(stored: Stored<R>) -> Option<Arc<R>> {
    match stored {
        Stored::Present(record) => Some(record),
        Stored::Absent { .. } | Stored::Unreadable => None,
    }
}

/// A stripe of the records of one kind. `T` is the ticket that comes back with the answer to a
/// command.
#[derive(Debug)]
pub struct Stripe<E: Entity, T> {
    /// The machines of the keys with unfinished work; an idle one is dropped.
    active: HashMap<E::Key, KeyState<E, T>>,
    shared: Shared<E, T>,
}

impl<E: Entity, T> Stripe<E, T> {
    pub fn new(daemon: DaemonId, rules: Arc<E::Rules>, timing: Timing, index: E::Index) -> Self {
        Self { active: HashMap::new(), shared: Shared::new(daemon, rules, timing, index) }
    }

    /// Replaces rules and times, from the next decision on.
    pub fn adjust(&mut self, rules: Arc<E::Rules>, request_timeout: Duration) {
        let Timing { attempts, max_value, .. } = self.shared.timing;
        self.shared.timing = Timing::new(request_timeout, attempts, max_value);
        self.shared.rules = rules;
    }

    /// Sets the largest value that the server takes.
    pub fn set_max_value(&mut self, bytes: usize) {
        self.shared.timing.max_value = bytes;
    }

    /// Takes a command for a key.
    pub fn on_command(&mut self, key: E::Key, job: Job<E, T>, now: Now) {
        let mut active = match self.active.entry(key) {
            MapEntry::Occupied(active) => active,
            MapEntry::Vacant(vacant) => {
                let idle = KeyState::new(vacant.key().clone());
                vacant.insert_entry(idle)
            }
        };
        active.get_mut().on_command(job, &mut self.shared, now);
        if active.get().is_idle() {
            active.remove();
        }
    }

    /// JetStream stored write `write` as revision `rev`.
    pub fn on_acked(&mut self, write: u64, rev: u64, now: Now) {
        self.settle(write, |state, shared| state.on_acked(write, rev, shared, now));
    }

    /// JetStream refused write `write`, because the key has another revision than expected.
    pub fn on_conflicted(&mut self, write: u64, now: Now) {
        self.settle(write, |state, shared| state.on_conflicted(write, shared, now));
    }

    /// Write `write` was not done.
    pub fn on_failed(&mut self, write: u64, failure: &Failure, now: Now) {
        self.settle(write, |state, shared| state.on_failed(write, failure, shared, now));
    }

    /// Read `read` of a key has an answer.
    pub fn on_found(&mut self, key: &E::Key, read: u64, found: Found, now: Now) {
        self.drive(key, |state, shared| state.on_found(read, found, shared, now));
    }

    /// The feed delivered an entry. Returns the revision of the key that it delivered before; 0 if
    /// none.
    pub fn on_fed(&mut self, key: &E::Key, entry: Entry, now: Now) -> u64 {
        let (rev, expires) = (entry.rev, entry.expires);
        if let Some(state) = self.active.get_mut(key) {
            state.on_fed(entry, &mut self.shared, now);
            if state.is_idle() {
                self.active.remove(key);
            }
        } else {
            self.shared.take_entry(key, entry, now);
        }
        self.shared.note_fed(key, rev, expires, now)
    }

    /// The replica has seen all that was stored when verification `verify` was asked for.
    pub fn on_verified(&mut self, key: &E::Key, verify: u64, now: Now) {
        self.drive(key, |state, shared| state.on_verified(verify, shared, now));
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: Now) {
        self.shared.forget_tombstones(now, |key| self.active.contains_key(key));
        for key in self.active_keys() {
            self.drive(&key, |state, shared| state.on_tick(shared, now));
        }
    }

    /// The stream is not the one that was known any more: the feed delivers it from its beginning.
    /// Commands wait until [`on_replayed`](Stripe::on_replayed).
    pub fn on_stream_lost(&mut self, now: Now) {
        self.shared.begin_replay();
        for key in self.active_keys() {
            self.drive(&key, |state, shared| state.on_stream_lost(shared, now));
        }
    }

    /// The feed has delivered all that the stream held when it began.
    pub fn on_replayed(&mut self, now: Now) {
        for (key, version) in self.shared.end_replay(now) {
            if let Some(state) = self.active.get_mut(&key) {
                state.on_announced(version);
            }
        }
        for key in self.active_keys() {
            self.drive(&key, |state, shared| state.on_replayed(shared, now));
        }
    }

    /// The known content of a key, and its revision.
    pub fn known(&self, key: &E::Key) -> Option<(Stored<E::Record>, u64)> {
        self.shared.slots.get(key).map(|slot| (slot.stored(), slot.rev))
    }

    /// The record under a key, if there is one that can be read.
    pub fn record(&self, key: &E::Key) -> Option<Arc<E::Record>> {
        present(self.shared.slots.get(key)?.stored())
    }

    /// The newest change of each key, markers too: its version and the daemon that made it.
    pub fn changes(&self) -> impl Iterator<Item = (&E::Key, (u64, Option<DaemonId>))> {
        self.shared.slots.iter().map(|slot| (&slot.key, slot.change()))
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = (&E::Key, Arc<E::Record>)> {
        self.packed_records().filter_map(|(key, record)| Some((key, record()?)))
    }

    /// All keys, each with what unpacks its record, if there is one.
    pub fn packed_records(
        &self,
    ) -> impl Iterator<Item = (&E::Key, impl Fn() -> Option<Arc<E::Record>>)> {
        self.shared.slots.iter().map(|slot| (&slot.key, || present(slot.stored())))
    }

    /// Keys whose record stands below sequence `floor`, at most `limit` of them; also those whose
    /// record cannot be read.
    pub fn below(&self, floor: u64, limit: usize) -> Vec<E::Key> {
        let below = self.shared.slots.iter().filter(|slot| slot.holds_record() && slot.rev < floor);
        below.take(limit).map(|slot| slot.key.clone()).collect()
    }

    pub fn index(&self) -> &E::Index {
        &self.shared.index
    }

    pub fn index_mut(&mut self) -> &mut E::Index {
        &mut self.shared.index
    }

    /// The number of keys with unfinished work.
    pub fn busy(&self) -> usize {
        self.active.len()
    }

    /// Takes the effects of the inputs since the last call, in their order.
    pub fn take_effects(&mut self) -> impl Iterator<Item = Effect<E, T>> {
        // A mass of them, as at the end of a replay, does not stay allocated.
        if self.shared.effects.len() <= MAX_KEPT_EFFECTS {
            self.shared.effects.shrink_to(MAX_KEPT_EFFECTS);
        }
        self.shared.effects.drain(..)
    }

    /// The present view of a key, to be announced once more.
    pub fn announcement(&self, key: &E::Key, now: Now) -> Option<Event> {
        self.shared.announcement(key, now)
    }

    /// Hands the outcome of a write to the machine of its key.
    fn settle(&mut self, write: u64, input: impl FnOnce(&mut KeyState<E, T>, &mut Shared<E, T>)) {
        if let Some(key) = self.shared.writes.remove(&write) {
            self.drive(&key, input);
        }
    }

    /// Hands an input to the machine of a key, if the key has unfinished work.
    fn drive(&mut self, key: &E::Key, input: impl FnOnce(&mut KeyState<E, T>, &mut Shared<E, T>)) {
        let Some(state) = self.active.get_mut(key) else { return };
        input(state, &mut self.shared);
        if state.is_idle() {
            self.active.remove(key);
        }
    }

    /// The keys with unfinished work, sorted: a simulation that is repeated with its seed must see
    /// the same effects in the same order.
    fn active_keys(&self) -> Vec<E::Key> {
        let mut keys: Vec<_> = self.active.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }
}
