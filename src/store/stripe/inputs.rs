//! What can happen to a stripe.

use super::Stripe;
use super::effect::{Effect, Entry, Failure, Found, Job};
use super::key_state::{KeyState, Phase};
use super::pending::Pending;
use crate::presence::entity::{Entity, Stored};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// How long a conflict waits for the feed to show what caused it, before the record is read.
const FEED_PATIENCE_MS: u64 = 20;

/// How long a write that JetStream could not take waits for the next try.
const RETRY_MS: u64 = 75;

/// So many conflicts in a row are answered at once; after more, the retry waits a little, so that
/// two daemons at one key do not run in step.
const EAGER_CONFLICTS: u32 = 4;

impl<E: Entity, T> Stripe<E, T> {
    /// A command for a key.
    pub fn command(&mut self, key: E::Key, job: Job<E, T>, now: Now) {
        let Job { command, ticket, deadline_ms } = job;
        let job = Pending { command, ticket: Some(ticket), deadline_ms, maybe_stored: false };
        let mut busy = self.busy.remove(&key).unwrap_or_else(KeyState::new);
        busy.waiting.push_back(job);
        if matches!(busy.phase, Phase::Verifying) {
            self.decide_beside(&key, busy, now);
        } else {
            self.busy.insert(key, busy);
        }
    }

    /// JetStream stored write `write` as revision `rev`.
    pub fn acked(&mut self, write: u64, rev: u64, now: Now) {
        let Some(key) = self.writes.remove(&write) else { return };
        let Some(mut busy) = self.busy.remove(&key) else { return };
        let Some(sent) = busy.sent().filter(|sent| sent.write == write) else {
            self.busy.insert(key, busy);
            return;
        };
        if sent.epoch != self.epoch {
            // It may have been stored in a bucket that is gone.
            self.read(&key, busy, now);
            return;
        }
        if rev > self.slots.get(&key).map_or(0, |slot| slot.rev) {
            let next = take_next(&mut busy);
            if let Some(next) = next {
                self.store(&key, next, rev, now);
            }
        }
        self.finish(&key, busy, rev, now);
    }

    /// JetStream refused write `write`, because the key has another revision than expected.
    pub fn conflicted(&mut self, write: u64, now: Now) {
        let Some(key) = self.writes.remove(&write) else { return };
        let Some(mut busy) = self.busy.remove(&key) else { return };
        let Some(expected) = busy.sent().filter(|s| s.write == write).map(|s| s.expected) else {
            self.busy.insert(key, busy);
            return;
        };
        busy.conflicts += 1;
        if busy.conflicts > self.timing.attempts {
            let refusal = Refusal::new(
                Code::Contended,
                "others changed the record again and again at the same time; repeat the request",
            );
            self.refuse(&key, busy, &refusal, now);
            return;
        }
        let explained = self.slots.get(&key).map_or(0, |slot| slot.rev) != expected;
        if explained && busy.conflicts <= EAGER_CONFLICTS {
            self.decide_again(&key, busy, now);
            return;
        }
        let patience = if explained { jitter(write, busy.conflicts) } else { FEED_PATIENCE_MS };
        busy.phase = Phase::Waiting {
            until_ms: now.mono_ms + patience,
            newer_than: (!explained).then_some(expected),
        };
        self.busy.insert(key, busy);
    }

    /// Write `write` was not done.
    pub fn failed(&mut self, write: u64, failure: &Failure, now: Now) {
        let Some(key) = self.writes.remove(&write) else { return };
        let Some(mut busy) = self.busy.remove(&key) else { return };
        if busy.sent().is_none_or(|sent| sent.write != write) {
            self.busy.insert(key, busy);
            return;
        }
        match failure {
            Failure::Retry => {
                let until_ms = now.mono_ms + RETRY_MS;
                busy.phase = Phase::Waiting { until_ms, newer_than: None };
                self.busy.insert(key, busy);
            }
            Failure::Refused(refusal) => self.refuse(&key, busy, refusal, now),
        }
    }

    /// What read `read` of a key found.
    pub fn found(&mut self, key: &E::Key, read: u64, found: Found<E::Record>, now: Now) {
        if !self.is_reading(key, read) {
            return;
        }
        match found {
            // The next tick that finds the read overdue repeats it.
            Found::Failed => return,
            Found::Entry(entry) => self.fed(key, entry, now),
            Found::Nothing => {
                if let Some(slot) = self.slots.get(key)
                    && slot.rev > 0
                {
                    // The marker of a deletion has expired.
                    let (version, changed_by) =
                        (E::version(&slot.stored), E::changed_by(&slot.stored));
                    self.store(key, Stored::Absent { version, changed_by }, 0, now);
                }
            }
        }
        if self.is_reading(key, read)
            && let Some(busy) = self.busy.remove(key)
        {
            // The write was not done, or was overwritten.
            self.drop_write(&busy);
            self.decide_again(key, busy, now);
        }
    }

    /// An entry of the feed.
    pub fn fed(&mut self, key: &E::Key, entry: Entry<E::Record>, now: Now) {
        let (known_rev, known_version) =
            self.slots.get(key).map_or((0, 0), |slot| (slot.rev, E::version(&slot.stored)));
        if entry.rev <= known_rev {
            return;
        }
        let own = entry.writer == Some(self.daemon);
        let is_sent = |busy: &KeyState<E, T>| {
            busy.sent().is_some_and(|s| s.epoch == self.epoch && s.content == entry.content)
        };
        if own
            && self.busy.get(key).is_some_and(is_sent)
            && let Some(busy) = self.busy.remove(key)
        {
            self.drop_write(&busy);
            self.store(key, entry.stored, entry.rev, now);
            self.finish(key, busy, entry.rev, now);
            return;
        }
        let version = E::version(&entry.stored);
        let by = E::changed_by(&entry.stored).or(entry.writer);
        self.store(key, entry.stored, entry.rev, now);
        if version > known_version {
            if own || by == Some(self.daemon) {
                self.announce_orphan(key, version, now);
            } else if let Some(by) = by {
                self.effects.push(Effect::RemoteChange { key: key.clone(), by });
            }
        }
        self.look_again(key, now);
    }

    /// The replica has seen all that was stored when verification `verify` was asked for.
    pub fn verified(&mut self, key: &E::Key, verify: u64, now: Now) {
        let Some(mut busy) = self.busy.remove(key) else { return };
        if !matches!(busy.phase, Phase::Verifying) {
            self.busy.insert(key.clone(), busy);
            return;
        }
        let proven =
            busy.decided.iter().take_while(|d| d.verify.is_some_and(|v| v <= verify)).count();
        let rest = busy.decided.split_off(proven);
        let rev = self.slots.get(key).map_or(0, |slot| slot.rev);
        self.tell(&mut busy, rev);
        if rest.is_empty() {
            self.finish(key, busy, rev, now);
        } else {
            busy.decided = rest;
            self.busy.insert(key.clone(), busy);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.forget_tombstones(now);
        let keys = self.busy_keys();
        for key in keys {
            let Some(mut busy) = self.busy.remove(&key) else { continue };
            for decided in &mut busy.decided {
                if decided.job.deadline_ms <= now.mono_ms {
                    decided.job.expire(&mut self.effects);
                }
            }
            busy.waiting.retain_mut(|job| {
                let keep = job.deadline_ms > now.mono_ms;
                if !keep {
                    job.expire(&mut self.effects);
                }
                keep
            });
            self.wait_on(&key, busy, now);
        }
    }

    /// The bucket was deleted and made again: nothing that was known is true any more.
    pub fn reset(&mut self, now: Now) {
        self.epoch += 1;
        self.busy.values_mut().for_each(|busy| busy.announced = 0);
        for (key, slot) in std::mem::take(&mut self.slots) {
            let changes = E::observe(&mut self.index, &key, slot.stored.record(), None, now);
            self.effects.extend(changes.into_iter().map(Effect::ChangeShared));
        }
        self.tombstones.clear();
        let keys = self.busy_keys();
        for key in keys {
            self.look_again(&key, now);
        }
    }

    /// The keys with unfinished business, in an order that is the same in every run: a simulation
    /// that is repeated with its seed must see the same effects in the same order.
    fn busy_keys(&self) -> Vec<E::Key> {
        let mut keys: Vec<_> = self.busy.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Goes on with a key of which something new is known.
    fn look_again(&mut self, key: &E::Key, now: Now) {
        let Some(busy) = self.busy.remove(key) else { return };
        let eager = busy.conflicts <= EAGER_CONFLICTS;
        match &busy.phase {
            Phase::Verifying | Phase::Reading { .. } => {
                self.drop_write(&busy);
                self.decide_again(key, busy, now);
            }
            Phase::Waiting { newer_than: Some(_), .. } if eager => {
                self.decide_again(key, busy, now);
            }
            // The write in flight gets its own answer; a pause is waited out.
            Phase::Writing { .. } | Phase::Waiting { .. } => {
                self.busy.insert(key.clone(), busy);
            }
        }
    }

    /// Does what is due on a key that waits.
    fn wait_on(&mut self, key: &E::Key, busy: KeyState<E, T>, now: Now) {
        let rev = self.slots.get(key).map_or(0, |slot| slot.rev);
        match &busy.phase {
            Phase::Writing { since_ms, .. }
                if since_ms + self.timing.ack_timeout_ms <= now.mono_ms =>
            {
                self.read(key, busy, now);
            }
            Phase::Reading { asked_ms, .. }
                if asked_ms + self.timing.read_timeout_ms <= now.mono_ms =>
            {
                self.read(key, busy, now);
            }
            Phase::Waiting { until_ms, newer_than } if *until_ms <= now.mono_ms => match newer_than
            {
                Some(seen) if *seen == rev => self.read(key, busy, now),
                _ => self.decide_again(key, busy, now),
            },
            Phase::Verifying
                if busy.waiting.is_empty()
                    && busy.decided.iter().all(|decided| decided.job.ticket.is_none()) => {}
            _ => {
                self.busy.insert(key.clone(), busy);
            }
        }
    }

    /// Announces a visible change of this daemon whose acknowledgement did not come: a write that
    /// was given up has been done after all, or one in flight has been overwritten by a change
    /// that nobody sees, and that nobody else announces.
    fn announce_orphan(&mut self, key: &E::Key, version: u64, now: Now) {
        self.effects.extend(self.announcement(key, now).map(Effect::Announce));
        if let Some(busy) = self.busy.get_mut(key) {
            busy.announced = version;
        }
    }

    /// Asks the leader of the stream what is stored.
    fn read(&mut self, key: &E::Key, mut busy: KeyState<E, T>, now: Now) {
        let read = self.next_number();
        let sent = match std::mem::replace(&mut busy.phase, Phase::Verifying) {
            Phase::Writing { sent, .. } => Some(sent),
            Phase::Reading { sent, .. } => sent,
            Phase::Waiting { .. } | Phase::Verifying => None,
        };
        busy.phase = Phase::Reading { read, asked_ms: now.mono_ms, sent };
        self.effects.push(Effect::Read { key: key.clone(), read });
        self.busy.insert(key.clone(), busy);
    }

    fn is_reading(&self, key: &E::Key, number: u64) -> bool {
        self.busy
            .get(key)
            .is_some_and(|b| matches!(b.phase, Phase::Reading { read, .. } if read == number))
    }

    /// Stops listening for the acknowledgement of the write in flight.
    fn drop_write(&mut self, busy: &KeyState<E, T>) {
        if let Some(sent) = busy.sent() {
            self.writes.remove(&sent.write);
        }
    }
}

fn take_next<E: Entity, T>(busy: &mut KeyState<E, T>) -> Option<Stored<E::Record>> {
    let sent = match &mut busy.phase {
        Phase::Writing { sent, .. } => Some(sent),
        Phase::Reading { sent, .. } => sent.as_mut(),
        Phase::Waiting { .. } | Phase::Verifying => None,
    };
    sent.map(|sent| std::mem::take(&mut sent.next))
}

/// A pause of 1 to 2 × `conflicts` milliseconds that differs from write to write.
fn jitter(write: u64, conflicts: u32) -> u64 {
    1 + write.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % u64::from(2 * conflicts)
}
