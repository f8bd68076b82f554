//! From waiting commands to one write, and from its outcome to answers.

use super::{KeyState, Phase, REPLAY_WAIT_MS, Sent};
use crate::presence::entity::Entity;
use crate::presence::refusal::Refusal;
use crate::presence::time::Now;
use crate::store::stripe::decision::{Decider, Next};
use crate::store::stripe::effect::{Answer, Effect};
use crate::store::stripe::shared::Shared;
use crate::store::stripe::slots::Slot;

/// The maximum number of commands that one write joins; more wait for the next.
const MAX_JOINED: usize = 256;

impl<E: Entity, T> KeyState<E, T> {
    /// Decides all commands once more, on the newest known record.
    pub(super) fn decide_again(&mut self, shared: &mut Shared<E, T>, now: Now) {
        let decided = std::mem::take(&mut self.decided);
        let proofs: Vec<_> = decided.iter().map(|each| each.verify).collect();
        let maybe_stored_on = match &self.phase {
            Phase::Reading { sent: Some(sent), .. } if !sent.is_lost => Some(sent.expected),
            _ => None,
        };
        for mut each in decided.into_iter().rev() {
            each.job.maybe_stored_on = each.job.maybe_stored_on.or(maybe_stored_on);
            self.waiting.push_front(each.job);
        }
        self.decide_waiting(&proofs, MAX_JOINED, shared, now);
    }

    /// Decides waiting commands until `max_decided` are decided, joins them to one write, and sends
    /// it. `proofs` are the verifications that the first of them asked for before.
    pub(super) fn decide_waiting(
        &mut self,
        proofs: &[Option<u64>],
        max_decided: usize,
        shared: &mut Shared<E, T>,
        now: Now,
    ) {
        if shared.replaying && !self.waiting.is_empty() {
            let until_ms = now.mono_ms + REPLAY_WAIT_MS;
            self.phase = Phase::Waiting { until_ms, newer_than: None };
            return;
        }
        let decider = Decider {
            key: &self.key,
            rules: &*shared.rules,
            daemon: shared.daemon,
            max_value: shared.timing.max_value,
            now,
        };
        let slot = shared.slots.get(&self.key).filter(|_| !self.waiting.is_empty());
        let known = slot.map(Slot::stored).unwrap_or_default();
        let rev = shared.rev(&self.key);
        let mut next = None;
        let mut proofs = proofs.iter().copied();
        while self.decided.len() < max_decided
            && let Some(mut job) = self.waiting.pop_front()
        {
            let verify = proofs.next().flatten();
            if !job.is_wanted(now) {
                job.expire(&mut shared.effects, self.trouble.as_deref());
            } else if job.may_be_undone(rev) {
                job.answer_unknown(&mut shared.effects);
            } else {
                self.decided.push(decider.decide(&known, &mut next, job, verify));
            }
        }
        match next {
            Some(next) => self.write(next, shared, now),
            None if self.decided.is_empty() => self.phase = Phase::Idle,
            None => self.verify(shared),
        }
    }

    /// Sends what was decided as one write.
    fn write(&mut self, (next, content): Next<E::Record>, shared: &mut Shared<E, T>, now: Now) {
        let (write, expected) = (shared.next_number(), shared.rev(&self.key));
        shared.writes.insert(write, self.key.clone());
        let deadlines = self.decided.iter().map(|each| each.job.deadline_ms);
        let not_after_ms = deadlines.min().unwrap_or(u64::MAX);
        let visible = self.decided.iter().filter_map(|each| each.event.as_ref()).next_back();
        shared.effects.push(Effect::Write {
            key: self.key.clone(),
            write,
            expected,
            content: content.clone(),
            visible: visible.map(|event| event.version),
            not_after_ms,
        });
        let epoch = shared.epoch;
        let sent = Sent { write, epoch, expected, next, content, is_lost: false };
        self.phase = Phase::Writing { sent, since_ms: now.mono_ms };
    }

    /// Asks for the proof that nothing is to be written, for the decisions that lack one.
    fn verify(&mut self, shared: &mut Shared<E, T>) {
        self.phase = Phase::Verifying;
        if self.decided.iter().all(|each| each.verify.is_some()) {
            return;
        }
        let verify = shared.next_number();
        for each in self.decided.iter_mut().filter(|each| each.verify.is_none()) {
            each.verify = Some(verify);
        }
        shared.effects.push(Effect::Verify { key: self.key.clone(), verify });
    }

    /// Announces and answers all that was decided, and goes on with what waits.
    pub(super) fn finish(&mut self, rev: u64, shared: &mut Shared<E, T>, now: Now) {
        self.answer_first(self.decided.len(), rev, shared);
        self.conflicts = 0;
        self.trouble = None;
        self.decide_waiting(&[], MAX_JOINED, shared, now);
    }

    /// Announces and answers the first decisions; each event before its answer.
    pub(super) fn answer_first(&mut self, count: usize, rev: u64, shared: &mut Shared<E, T>) {
        let announced = self.announced;
        for decided in self.decided.drain(..count) {
            let event = decided.event.filter(|event| event.version > announced);
            shared.effects.extend(event.map(Effect::Announce));
            if let Some(ticket) = decided.job.ticket {
                let result = decided.result.map(|outcome| Answer { outcome, rev });
                shared.effects.push(Effect::Answer { ticket, result });
            }
        }
    }

    /// Answers all that was decided with `refusal`, and goes on with what waits.
    pub(super) fn refuse(&mut self, refusal: &Refusal, shared: &mut Shared<E, T>, now: Now) {
        for decided in self.decided.drain(..) {
            let refusal = decided.job.outcome_unknown(refusal.clone());
            if let Some(ticket) = decided.job.ticket {
                shared.effects.push(Effect::Answer { ticket, result: Err(refusal) });
            }
        }
        self.conflicts = 0;
        self.decide_waiting(&[], MAX_JOINED, shared, now);
    }
}
