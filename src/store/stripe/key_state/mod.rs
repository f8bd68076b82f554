//! The state machine of one key: its phase, the decided commands and the waiting ones.

mod commit;

use std::collections::VecDeque;
use std::sync::Arc;

use super::Timing;
use super::decision::Decided;
use super::effect::{Content, Effect, Entry, Failure, Found, Job};
use super::pending::Pending;
use super::shared::Shared;
use crate::presence::entity::{Entity, Stored};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// The time for which a conflict waits for the feed to show its cause, before the record is read.
const FEED_WAIT_MS: u64 = 20;

/// The time of one wait of commands for the end of a replay.
pub(super) const REPLAY_WAIT_MS: u64 = 100;

/// The time for which a write that JetStream could not take waits for the next try.
const RETRY_MS: u64 = 75;

/// The number of conflicts in a row that are retried at once. Later retries wait a little, so that
/// two daemons at one key do not run in step.
const EAGER_CONFLICTS: u32 = 4;

/// A write that was sent.
#[derive(Debug)]
struct Sent<R> {
    write: u64,
    /// The bucket that the write was meant for.
    epoch: u32,
    expected: u64,
    next: Stored<R>,
    content: Content,
    /// Another write was stored on the revision that it expects, so it never will be.
    is_lost: bool,
}

/// The phase of a key, named by what the key waits for.
#[derive(Debug)]
enum Phase<R> {
    /// Nothing: no command is decided or waits.
    Idle,
    /// The acknowledgement of a write.
    Writing { sent: Sent<R>, since_ms: u64 },
    /// A read: the acknowledgement did not come, or the feed did not explain a conflict. Revision
    /// `known` was known when it began.
    Reading { read: u64, asked_ms: u64, known: u64, sent: Option<Sent<R>> },
    /// A better moment, or an entry newer than revision `newer_than`.
    Waiting { until_ms: u64, newer_than: Option<u64> },
    /// The proof that decisions which write nothing were made on the newest record.
    Verifying,
}

#[derive(Debug)]
pub(super) struct KeyState<E: Entity, T> {
    key: E::Key,
    phase: Phase<E::Record>,
    /// In the order of arrival.
    decided: Vec<Decided<E, T>>,
    waiting: VecDeque<Pending<E, T>>,
    /// Conflicts in a row.
    conflicts: u32,
    /// Events up to this version were announced before their write was acknowledged.
    announced: u64,
    /// The reason why JetStream did not take the last write.
    trouble: Option<Arc<str>>,
}

impl<E: Entity, T> KeyState<E, T> {
    pub(super) fn new(key: E::Key) -> Self {
        Self {
            key,
            phase: Phase::Idle,
            // Commands of one key seldom meet.
            decided: Vec::with_capacity(1),
            waiting: VecDeque::with_capacity(1),
            conflicts: 0,
            announced: 0,
            trouble: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    pub(super) fn on_command(&mut self, job: Job<E, T>, shared: &mut Shared<E, T>, now: Now) {
        let Job { command, ticket, deadline_ms } = job;
        let ticket = Some(ticket);
        self.waiting.push_back(Pending { command, ticket, deadline_ms, maybe_stored_on: None });
        if matches!(self.phase, Phase::Idle | Phase::Verifying) {
            self.decide_waiting(&[], usize::MAX, shared, now);
        }
    }

    pub(super) fn on_acked(&mut self, write: u64, rev: u64, shared: &mut Shared<E, T>, now: Now) {
        let Some(sent) = self.sent_mut().filter(|sent| sent.write == write) else { return };
        if sent.epoch != shared.epoch {
            // The write may have been stored in a bucket that is gone.
            self.read(shared, now);
            return;
        }
        let next = std::mem::take(&mut sent.next);
        if rev > shared.rev(&self.key) {
            shared.store(&self.key, next, rev, now);
        }
        self.finish(rev, shared, now);
    }

    pub(super) fn on_conflicted(&mut self, write: u64, shared: &mut Shared<E, T>, now: Now) {
        let Some(sent) = self.sent().filter(|sent| sent.write == write) else { return };
        let expected = sent.expected;
        self.conflicts += 1;
        if self.conflicts > shared.timing.attempts {
            let refusal = Refusal::new(
                Code::Contended,
                "others changed the record again and again at the same time; repeat the request",
            );
            self.refuse(&refusal, shared, now);
            return;
        }
        let is_explained = shared.rev(&self.key) != expected;
        if is_explained && self.conflicts <= EAGER_CONFLICTS {
            self.decide_again(shared, now);
            return;
        }
        let wait_ms = if is_explained { jitter_ms(write, self.conflicts) } else { FEED_WAIT_MS };
        let until_ms = now.mono_ms + wait_ms;
        let newer_than = (!is_explained).then_some(expected);
        self.phase = Phase::Waiting { until_ms, newer_than };
    }

    pub(super) fn on_failed(
        &mut self,
        write: u64,
        failure: &Failure,
        shared: &mut Shared<E, T>,
        now: Now,
    ) {
        if self.sent().is_none_or(|sent| sent.write != write) {
            return;
        }
        match failure {
            Failure::Retry(reason) => {
                self.trouble.clone_from(reason);
                let until_ms = now.mono_ms + RETRY_MS;
                self.phase = Phase::Waiting { until_ms, newer_than: None };
            }
            Failure::Refused(refusal) => self.refuse(refusal, shared, now),
        }
    }

    pub(super) fn on_found(
        &mut self,
        read: u64,
        found: Found,
        shared: &mut Shared<E, T>,
        now: Now,
    ) {
        if !self.is_reading(read) {
            return;
        }
        if self.is_suspect(&found, shared) {
            shared.effects.push(Effect::Suspect);
        }
        match found {
            // The read is repeated by the first tick that finds it overdue.
            Found::Failed => return,
            Found::Entry(entry) => self.on_fed(entry, shared, now),
            Found::Nothing => shared.take_absence(&self.key, now),
        }
        if self.is_reading(read) {
            // The write was not done, or was overwritten.
            self.drop_write(shared);
            self.decide_again(shared, now);
        }
    }

    pub(super) fn on_fed(&mut self, entry: Entry, shared: &mut Shared<E, T>, now: Now) {
        if entry.rev <= shared.rev(&self.key) {
            return;
        }
        let (is_own, epoch) = (entry.writer == Some(shared.daemon), shared.epoch);
        let is_sent = |sent: &&mut Sent<_>| sent.epoch == epoch && sent.content == entry.content;
        if let Some(sent) = self.sent_mut().filter(is_sent).filter(|_| is_own) {
            let next = std::mem::take(&mut sent.next);
            self.drop_write(shared);
            shared.store(&self.key, next, entry.rev, now);
            self.finish(entry.rev, shared, now);
            return;
        }
        if let Some(sent) = self.sent_mut().filter(|sent| entry.base == Some(sent.expected)) {
            sent.is_lost = true;
        }
        if let Some(version) = shared.take_entry(&self.key, entry, now) {
            self.announced = version;
        }
        self.reconsider(shared, now);
    }

    pub(super) fn on_verified(&mut self, verify: u64, shared: &mut Shared<E, T>, now: Now) {
        if !matches!(self.phase, Phase::Verifying) {
            return;
        }
        let is_proven = |each: &&Decided<E, T>| each.verify.is_some_and(|own| own <= verify);
        let proven = self.decided.iter().take_while(is_proven).count();
        let rev = shared.rev(&self.key);
        if proven == self.decided.len() {
            self.finish(rev, shared, now);
        } else {
            self.answer_first(proven, rev, shared);
        }
    }

    pub(super) fn on_tick(&mut self, shared: &mut Shared<E, T>, now: Now) {
        let is_over = |job: &Pending<E, T>| job.deadline_ms <= now.mono_ms;
        for decided in self.decided.iter_mut().filter(|each| is_over(&each.job)) {
            decided.job.expire(&mut shared.effects, self.trouble.as_deref());
        }
        self.waiting.retain_mut(|job| {
            let over = is_over(job);
            if over {
                job.expire(&mut shared.effects, self.trouble.as_deref());
            }
            !over
        });
        self.pass_time(shared, now);
    }

    /// Decides again, after the replay, what is decided without a write. The write in flight gets
    /// its own answer. A read is repeated: its answer may show the stream that was.
    pub(super) fn on_stream_lost(&mut self, shared: &mut Shared<E, T>, now: Now) {
        self.announced = 0;
        match self.phase {
            Phase::Verifying => self.decide_again(shared, now),
            Phase::Reading { .. } => self.read(shared, now),
            Phase::Idle | Phase::Writing { .. } | Phase::Waiting { .. } => {}
        }
    }

    /// Events up to this version were announced.
    pub(super) fn on_announced(&mut self, version: u64) {
        self.announced = version;
    }

    pub(super) fn on_replayed(&mut self, shared: &mut Shared<E, T>, now: Now) {
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.decide_again(shared, now);
        }
    }

    /// Returns whether the leader holds less than what was known when it was asked.
    fn is_suspect(&self, found: &Found, shared: &Shared<E, T>) -> bool {
        let Phase::Reading { known, .. } = self.phase else { return false };
        let is_same_epoch = known > 0 && known <= shared.rev(&self.key);
        is_same_epoch && matches!(found, Found::Entry(entry) if entry.rev < known)
    }

    /// Does what is due in this phase.
    fn pass_time(&mut self, shared: &mut Shared<E, T>, now: Now) {
        let Timing { ack_timeout_ms, read_timeout_ms, .. } = shared.timing;
        match self.phase {
            Phase::Writing { since_ms, .. } if since_ms + ack_timeout_ms <= now.mono_ms => {
                self.read(shared, now);
            }
            Phase::Reading { asked_ms, .. } if asked_ms + read_timeout_ms <= now.mono_ms => {
                self.read(shared, now);
            }
            Phase::Waiting { until_ms, newer_than } if until_ms <= now.mono_ms => {
                if newer_than == Some(shared.rev(&self.key)) {
                    self.read(shared, now);
                } else {
                    self.decide_again(shared, now);
                }
            }
            Phase::Verifying if self.is_all_answered() => {
                self.decided.clear();
                self.phase = Phase::Idle;
            }
            _ => {}
        }
    }

    /// Goes on after news about the key.
    fn reconsider(&mut self, shared: &mut Shared<E, T>, now: Now) {
        match self.phase {
            Phase::Verifying | Phase::Reading { .. } => {
                self.drop_write(shared);
                self.decide_again(shared, now);
            }
            Phase::Waiting { newer_than: Some(_), .. } if self.conflicts <= EAGER_CONFLICTS => {
                self.decide_again(shared, now);
            }
            // The write in flight gets its own answer; a pause is waited out.
            Phase::Idle | Phase::Writing { .. } | Phase::Waiting { .. } => {}
        }
    }

    /// Asks the leader of the stream what is stored.
    fn read(&mut self, shared: &mut Shared<E, T>, now: Now) {
        let read = shared.next_number();
        let sent = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Writing { sent, .. } => Some(sent),
            Phase::Reading { sent, .. } => sent,
            Phase::Idle | Phase::Waiting { .. } | Phase::Verifying => None,
        };
        let known = shared.rev(&self.key);
        self.phase = Phase::Reading { read, asked_ms: now.mono_ms, known, sent };
        shared.effects.push(Effect::Read { key: self.key.clone(), read });
    }

    fn is_reading(&self, number: u64) -> bool {
        matches!(self.phase, Phase::Reading { read, .. } if read == number)
    }

    fn is_all_answered(&self) -> bool {
        self.waiting.is_empty() && self.decided.iter().all(|each| each.job.ticket.is_none())
    }

    /// The write with an unknown outcome.
    fn sent(&self) -> Option<&Sent<E::Record>> {
        match &self.phase {
            Phase::Writing { sent, .. } => Some(sent),
            Phase::Reading { sent, .. } => sent.as_ref(),
            Phase::Idle | Phase::Waiting { .. } | Phase::Verifying => None,
        }
    }

    fn sent_mut(&mut self) -> Option<&mut Sent<E::Record>> {
        match &mut self.phase {
            Phase::Writing { sent, .. } => Some(sent),
            Phase::Reading { sent, .. } => sent.as_mut(),
            Phase::Idle | Phase::Waiting { .. } | Phase::Verifying => None,
        }
    }

    /// Ignores the acknowledgement of the write in flight from here on.
    fn drop_write(&self, shared: &mut Shared<E, T>) {
        if let Some(sent) = self.sent() {
            shared.writes.remove(&sent.write);
        }
    }
}

/// A pause of 1 to 2 × `conflicts` milliseconds that differs from write to write.
fn jitter_ms(write: u64, conflicts: u32) -> u64 {
    1 + write.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % u64::from(2 * conflicts)
}
