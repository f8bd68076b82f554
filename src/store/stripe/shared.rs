//! The state that the machines of one stripe share: known records, numbers, pending effects.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use super::Timing;
use super::effect::{Effect, Entry};
use super::slots::{Position, Slot, Slots};
use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::time::Now;

/// The time for which a deleted record is known whose marker the bucket has dropped, or soon will.
const TOMBSTONE_TTL_MS: u64 = 25 * 3_600_000;

#[derive(Debug)]
pub(super) struct Shared<E: Entity, T> {
    pub(super) daemon: DaemonId,
    pub(super) rules: Arc<E::Rules>,
    pub(super) timing: Timing,
    pub(super) slots: Slots<E>,
    /// The key of each write in flight, by the write's number.
    pub(super) writes: HashMap<u64, E::Key>,
    /// Deleted records whose marker is gone or expires: the time at which that was seen, the key,
    /// its revision. A marker that does not expire is known for as long as it stands.
    tombstones: VecDeque<(u64, E::Key, u64)>,
    pub(super) index: E::Index,
    last_number: u64,
    /// The number of times that the stream was found to be another than the one that was known.
    pub(super) epoch: u32,
    /// Whether the feed delivers the stream of a new epoch. Nothing is decided meanwhile.
    pub(super) replaying: bool,
    /// Keys of which the replay has delivered a visible change of this daemon that was not known.
    unannounced: BTreeSet<E::Key>,
    pub(super) effects: Vec<Effect<E, T>>,
}

impl<E: Entity, T> Shared<E, T> {
    pub(super) fn new(
        daemon: DaemonId,
        rules: Arc<E::Rules>,
        timing: Timing,
        index: E::Index,
    ) -> Self {
        Self {
            daemon,
            rules,
            timing,
            slots: Slots::new(),
            writes: HashMap::new(),
            tombstones: VecDeque::new(),
            index,
            last_number: 0,
            epoch: 0,
            replaying: false,
            unannounced: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// The newest known revision of a key in this epoch; 0 if there is none.
    pub(super) fn rev(&self, key: &E::Key) -> u64 {
        self.slots.get(key).filter(|slot| slot.epoch == self.epoch).map_or(0, |slot| slot.rev)
    }

    /// The feed has delivered revision `rev` of a key. Returns the one that it delivered before.
    pub(super) fn note_fed(&mut self, key: &E::Key, rev: u64, expires: bool, now: Now) -> u64 {
        if expires {
            self.tombstones.push_back((now.mono_ms, key.clone(), rev));
        }
        self.slots.get_mut(key).map_or(0, |slot| std::mem::replace(&mut slot.fed, rev))
    }

    /// Makes `stored` the newest known content of a key, and updates the index.
    pub(super) fn store(&mut self, key: &E::Key, stored: Stored<E::Record>, rev: u64, now: Now) {
        self.replace(key, stored, rev, now);
    }

    /// Replaces what is known of a key. Returns what was known.
    fn replace(
        &mut self,
        key: &E::Key,
        stored: Stored<E::Record>,
        rev: u64,
        now: Now,
    ) -> Stored<E::Record> {
        let slot = self.slots.get(key);
        let before = slot.map(Slot::stored).unwrap_or_default();
        let fed = slot.filter(|slot| slot.epoch == self.epoch).map_or(0, |slot| slot.fed);
        // The key that is known, so that all share its text.
        let key = &slot.map_or(key, |slot| &slot.key).clone();
        let changes = E::observe(&mut self.index, key, before.record(), stored.record(), now);
        self.effects.extend(changes.into_iter().map(Effect::ChangeShared));
        self.slots.put(key, Position { rev, fed, epoch: self.epoch }, stored);
        before
    }

    /// Stores an entry that is newer than what is known. Returns the version of the visible change
    /// that is announced for it here.
    ///
    /// That is a change of this daemon whose acknowledgement did not come: a write that was given
    /// up has been done after all, or one in flight has been overwritten by an invisible change,
    /// which no other daemon announces.
    pub(super) fn take_entry(&mut self, key: &E::Key, entry: Entry, now: Now) -> Option<u64> {
        if entry.rev <= self.rev(key) {
            return None;
        }
        let stored = entry.content.decode::<E>().unwrap_or_else(|reason| {
            tracing::error!(
                kind = E::KIND,
                revision = entry.rev,
                %reason,
                "a record cannot be read; it stays as it is, and requests for it are answered \
                 `unavailable`"
            );
            tracing::debug!(?key, revision = entry.rev, "the record that cannot be read");
            Stored::Unreadable
        });
        let slot = self.slots.get(key);
        let known_version = slot.map_or(0, |slot| slot.change().0);
        let is_former = slot.is_some_and(|slot| slot.epoch != self.epoch);
        let version = E::version(&stored);
        let changed_by = E::changed_by(&stored).or(entry.writer);
        let is_own = [entry.writer, changed_by].contains(&Some(self.daemon));
        if is_former {
            self.replace_former(key, stored, entry.rev, now);
        } else {
            self.store(key, stored, entry.rev, now);
        }
        if version <= known_version {
            return None;
        }
        if is_own && self.replaying {
            // What the key was may be delivered yet.
            self.unannounced.insert(key.clone());
            return None;
        }
        if is_own {
            self.effects.extend(self.announcement(key, now).map(Effect::Announce));
            return Some(version);
        }
        let change = changed_by.map(|by| Effect::RemoteChange { key: key.clone(), by });
        self.effects.extend(change);
        None
    }

    /// Takes `stored` in place of what a former epoch knew of the key.
    fn replace_former(&mut self, key: &E::Key, stored: Stored<E::Record>, rev: u64, now: Now) {
        let Some(former) = self.slots.get_mut(key) else { return };
        if former.rev == rev && former.stored() == stored {
            (former.epoch, former.fed) = (self.epoch, 0);
            return;
        }
        let lost = self.replace(key, stored.clone(), rev, now);
        self.note_lost(key, lost, &stored);
    }

    fn note_lost(&mut self, key: &E::Key, lost: Stored<E::Record>, found: &Stored<E::Record>) {
        if E::repair(&lost, found).is_some() {
            self.effects.push(Effect::Lost { key: key.clone(), lost });
        }
    }

    /// The key is not in the bucket. If a record of it is known, that was lost; if a marker, that
    /// has expired. Later versions of the key continue from the known one.
    pub(super) fn take_absence(&mut self, key: &E::Key, now: Now) {
        let Some(slot) = self.slots.get(key) else { return };
        if slot.epoch == self.epoch && slot.rev == 0 {
            return;
        }
        let (version, changed_by) = slot.change();
        let absent = Stored::Absent { version, changed_by };
        let lost = self.replace(key, absent.clone(), 0, now);
        self.tombstones.push_back((now.mono_ms, key.clone(), 0));
        self.note_lost(key, lost, &absent);
    }

    /// The present view of a key as an event.
    pub(super) fn announcement(&self, key: &E::Key, now: Now) -> Option<Event> {
        self.slots.get(key).and_then(|slot| E::announcement(key, &slot.stored(), now))
    }

    /// A number that no write, read or verification of this stripe has had.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The stream is another than the one that was known. What was known stays, to be compared with
    /// what the feed delivers from here on.
    pub(super) fn begin_replay(&mut self) {
        self.epoch += 1;
        self.replaying = true;
        self.unannounced.clear();
    }

    /// The feed has delivered all of the stream: what it did not deliver is not there. Announces
    /// the changes of this daemon that were stored while it was read, and returns their keys and
    /// versions.
    pub(super) fn end_replay(&mut self, now: Now) -> Vec<(E::Key, u64)> {
        self.replaying = false;
        let former = self.slots.iter().filter(|slot| slot.epoch != self.epoch);
        let mut former: Vec<_> = former.map(|slot| slot.key.clone()).collect();
        former.sort_unstable();
        former.iter().for_each(|key| self.take_absence(key, now));
        let mut announced = Vec::new();
        for key in std::mem::take(&mut self.unannounced) {
            if let Some(event) = self.announcement(&key, now) {
                announced.push((key, event.version));
                self.effects.push(Effect::Announce(event));
            }
        }
        announced
    }

    /// Forgets deleted records that the bucket has forgotten too, unless their key has unfinished
    /// work.
    pub(super) fn forget_tombstones(&mut self, now: Now, is_active: impl Fn(&E::Key) -> bool) {
        let is_over = |at_ms: u64| at_ms + TOMBSTONE_TTL_MS <= now.mono_ms;
        while let Some((_, key, rev)) = self.tombstones.pop_front_if(|(at_ms, ..)| is_over(*at_ms))
        {
            let slot = self.slots.get(&key).filter(|slot| slot.rev == rev && !slot.holds_record());
            if slot.is_some() && !is_active(&key) {
                self.slots.remove(&key);
            }
        }
    }
}
