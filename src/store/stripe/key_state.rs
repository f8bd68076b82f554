//! The unfinished business of one key: what is decided, what waits, and what it waits for.

use std::collections::VecDeque;

use super::effect::{Answer, Content, Effect};
use super::pending::Pending;
use super::{Slot, Stripe};
use crate::presence::entity::{Entity, Event, Stored};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// The most commands that one write joins; more wait for the next.
const MAX_JOINED: usize = 256;

/// A command with the decision on it, which holds if the base it was made on holds.
#[derive(Debug)]
pub(super) struct Decided<E: Entity, T> {
    pub(super) job: Pending<E, T>,
    pub(super) result: Result<E::Outcome, Refusal>,
    pub(super) event: Option<Event>,
    /// The verification that proves the base of a decision which writes nothing.
    pub(super) verify: Option<u64>,
}

/// A write that was sent.
#[derive(Debug)]
pub(super) struct Sent<R> {
    pub(super) write: u64,
    pub(super) epoch: u32,
    pub(super) expected: u64,
    pub(super) next: Stored<R>,
    pub(super) content: Content,
}

/// What a key waits for.
#[derive(Debug)]
pub(super) enum Phase<R> {
    /// The acknowledgement of a write.
    Writing { sent: Sent<R>, since_ms: u64 },
    /// A read: the acknowledgement did not come, or a conflict was not explained by the feed.
    Reading { read: u64, asked_ms: u64, sent: Option<Sent<R>> },
    /// A better moment, or an entry newer than revision `newer_than`.
    Waiting { until_ms: u64, newer_than: Option<u64> },
    /// The proof that decisions which write nothing were made on the newest record.
    Verifying,
}

#[derive(Debug)]
pub(super) struct KeyState<E: Entity, T> {
    pub(super) phase: Phase<E::Record>,
    /// In the order in which they came.
    pub(super) decided: Vec<Decided<E, T>>,
    pub(super) waiting: VecDeque<Pending<E, T>>,
    /// Conflicts in a row.
    pub(super) conflicts: u32,
    /// Events up to this version were announced before their write was acknowledged.
    pub(super) announced: u64,
}

impl<E: Entity, T> KeyState<E, T> {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Verifying,
            decided: Vec::new(),
            waiting: VecDeque::new(),
            conflicts: 0,
            announced: 0,
        }
    }

    /// The write whose fate is open.
    pub(super) fn sent(&self) -> Option<&Sent<E::Record>> {
        match &self.phase {
            Phase::Writing { sent, .. } => Some(sent),
            Phase::Reading { sent, .. } => sent.as_ref(),
            Phase::Waiting { .. } | Phase::Verifying => None,
        }
    }
}

impl<E: Entity, T> Stripe<E, T> {
    /// Decides all commands of a key anew, from the newest known record on.
    pub(super) fn decide_again(&mut self, key: &E::Key, mut busy: KeyState<E, T>, now: Now) {
        let decided = std::mem::take(&mut busy.decided);
        let proofs: Vec<_> = decided.iter().map(|each| each.verify).collect();
        let maybe_stored = matches!(busy.phase, Phase::Reading { sent: Some(_), .. });
        for mut each in decided.into_iter().rev() {
            each.job.maybe_stored |= maybe_stored;
            busy.waiting.push_front(each.job);
        }
        self.decide_waiting(key, busy, &proofs, now);
    }

    /// Decides the commands that wait, joins them to one write, and sends it. `proofs` are the
    /// verifications that the first of them asked for before.
    pub(super) fn decide_waiting(
        &mut self,
        key: &E::Key,
        mut busy: KeyState<E, T>,
        proofs: &[Option<u64>],
        now: Now,
    ) {
        let slot = self.slots.get(key);
        let mut next = None;
        let mut proofs = proofs.iter().copied();
        while busy.decided.len() < MAX_JOINED
            && let Some(mut job) = busy.waiting.pop_front()
        {
            let verify = proofs.next().flatten();
            if !job.still_wanted(&mut self.effects, now) {
                continue;
            }
            let decided = decide_on::<E, T>(self.decider(key, now), slot, &mut next, job, verify);
            busy.decided.push(decided);
        }
        self.send(key, busy, next, now);
    }

    /// Decides one more command while the others wait for their proof.
    pub(super) fn decide_beside(&mut self, key: &E::Key, mut busy: KeyState<E, T>, now: Now) {
        let slot = self.slots.get(key);
        let mut next = None;
        while let Some(mut job) = busy.waiting.pop_front() {
            if job.still_wanted(&mut self.effects, now) {
                let decided = decide_on::<E, T>(self.decider(key, now), slot, &mut next, job, None);
                busy.decided.push(decided);
            }
        }
        self.send(key, busy, next, now);
    }

    fn decider<'a>(&'a self, key: &'a E::Key, now: Now) -> Decider<'a, E> {
        Decider {
            key,
            rules: &self.rules,
            daemon: self.daemon,
            max_value: self.timing.max_value,
            now,
        }
    }

    /// Sends what was decided as one write, or asks for the proof that nothing is to be written.
    fn send(
        &mut self,
        key: &E::Key,
        mut busy: KeyState<E, T>,
        next: Option<(Stored<E::Record>, Content)>,
        now: Now,
    ) {
        if busy.decided.is_empty() {
            return;
        }
        let Some((next, content)) = next else {
            self.ask_for_proof(key, &mut busy);
            busy.phase = Phase::Verifying;
            self.busy.insert(key.clone(), busy);
            return;
        };
        let (write, expected) = (self.next_number(), self.slots.get(key).map_or(0, |s| s.rev));
        self.writes.insert(write, key.clone());
        let deadlines = busy.decided.iter().map(|each| each.job.deadline_ms);
        let not_after_ms = deadlines.min().unwrap_or(u64::MAX);
        let visible = busy.decided.iter().filter_map(|each| each.event.as_ref()).next_back();
        self.effects.push(Effect::Write {
            key: key.clone(),
            write,
            expected,
            content: content.clone(),
            visible: visible.map(|event| event.version),
            not_after_ms,
        });
        let sent = Sent { write, epoch: self.epoch, expected, next, content };
        busy.phase = Phase::Writing { sent, since_ms: now.mono_ms };
        self.busy.insert(key.clone(), busy);
    }

    fn ask_for_proof(&mut self, key: &E::Key, busy: &mut KeyState<E, T>) {
        if busy.decided.iter().all(|each| each.verify.is_some()) {
            return;
        }
        let verify = self.next_number();
        for each in busy.decided.iter_mut().filter(|each| each.verify.is_none()) {
            each.verify = Some(verify);
        }
        self.effects.push(Effect::Verify { key: key.clone(), verify });
    }

    /// Announces and answers what was decided, and goes on with what waits.
    pub(super) fn finish(&mut self, key: &E::Key, mut busy: KeyState<E, T>, rev: u64, now: Now) {
        self.tell(&mut busy, rev);
        busy.conflicts = 0;
        self.go_on(key, busy, now);
    }

    /// Announces and answers what was decided; each event before its answer.
    pub(super) fn tell(&mut self, busy: &mut KeyState<E, T>, rev: u64) {
        let announced = busy.announced;
        for decided in busy.decided.drain(..) {
            let event = decided.event.filter(|event| event.version > announced);
            self.effects.extend(event.map(Effect::Announce));
            if let Some(ticket) = decided.job.ticket {
                let result = decided.result.map(|outcome| Answer { outcome, rev });
                self.effects.push(Effect::Answer { ticket, result });
            }
        }
    }

    /// Answers all that was decided with `refusal`, and goes on with what waits.
    pub(super) fn refuse(
        &mut self,
        key: &E::Key,
        mut busy: KeyState<E, T>,
        refusal: &Refusal,
        now: Now,
    ) {
        for decided in std::mem::take(&mut busy.decided) {
            let refusal = decided.job.outcome_unknown(refusal.clone());
            if let Some(ticket) = decided.job.ticket {
                self.effects.push(Effect::Answer { ticket, result: Err(refusal) });
            }
        }
        busy.conflicts = 0;
        self.go_on(key, busy, now);
    }

    fn go_on(&mut self, key: &E::Key, busy: KeyState<E, T>, now: Now) {
        if !busy.waiting.is_empty() {
            self.decide_waiting(key, busy, &[], now);
        }
    }
}

/// What a decision takes beside the record and the command.
struct Decider<'a, E: Entity> {
    key: &'a E::Key,
    rules: &'a E::Rules,
    daemon: crate::presence::entity::DaemonId,
    max_value: usize,
    now: Now,
}

/// Decides one command on top of `next`, or of what is known if nothing is decided yet.
fn decide_on<E: Entity, T>(
    by: Decider<'_, E>,
    slot: Option<&Slot<E::Record>>,
    next: &mut Option<(Stored<E::Record>, Content)>,
    job: Pending<E, T>,
    verify: Option<u64>,
) -> Decided<E, T> {
    let nothing = Stored::default();
    let base = match next {
        Some((stored, _)) => stored,
        None => slot.map_or(&nothing, |slot| &slot.stored),
    };
    let decision = E::decide(by.key, base, &job.command, by.rules, by.daemon, by.now);
    let decision = match decision {
        Ok(decision) => decision,
        Err(refusal) => return refused(job, refusal, verify),
    };
    if let Some(stored) = decision.next {
        let content = match &stored {
            Stored::Present(record) => Content::Put(E::encode(record).into()),
            Stored::Absent { version, changed_by } => {
                Content::Purge { version: *version, changed_by: *changed_by }
            }
            Stored::Unreadable => unreachable!("a decision never makes something unreadable"),
        };
        if let Content::Put(value) = &content
            && value.len() > by.max_value
        {
            return refused(job, too_large(value.len(), by.max_value), verify);
        }
        *next = Some((stored, content));
    }
    Decided { job, result: Ok(decision.outcome), event: decision.event, verify }
}

fn refused<E: Entity, T>(
    job: Pending<E, T>,
    refusal: Refusal,
    verify: Option<u64>,
) -> Decided<E, T> {
    Decided { result: Err(job.outcome_unknown(refusal)), job, event: None, verify }
}

fn too_large(bytes: usize, limit: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!(
            "the record would have {bytes} bytes, and the NATS server's `max_payload` leaves room for {limit}: raise it, or lower `limits.connections_per_user`"
        ),
    )
    .limit(limit as u64)
}
