//! The decision on one command. Pure.

use super::effect::Content;
use super::pending::Pending;
use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// A command with the decision on it, which holds if its base holds.
#[derive(Debug)]
pub(super) struct Decided<E: Entity, T> {
    pub(super) job: Pending<E, T>,
    pub(super) result: Result<E::Outcome, Refusal>,
    pub(super) event: Option<Event>,
    /// The verification that proves the base of a decision which writes nothing.
    pub(super) verify: Option<u64>,
}

/// The record that the next write stores, decoded and as written.
pub(super) type Next<R> = (Stored<R>, Content);

/// The inputs of a decision beside the record and the command.
#[derive(Debug)]
pub(super) struct Decider<'a, E: Entity> {
    pub(super) key: &'a E::Key,
    pub(super) rules: &'a E::Rules,
    pub(super) daemon: DaemonId,
    /// The largest value that the server takes, in bytes.
    pub(super) max_value: usize,
    pub(super) now: Now,
}

impl<E: Entity> Decider<'_, E> {
    /// Decides one command on top of `next`, or of the `known` content if nothing is decided yet.
    pub(super) fn decide<T>(
        &self,
        known: &Stored<E::Record>,
        next: &mut Option<Next<E::Record>>,
        job: Pending<E, T>,
        verify: Option<u64>,
    ) -> Decided<E, T> {
        let base = next.as_ref().map_or(known, |(stored, _)| stored);
        let decision = E::decide(self.key, base, &job.command, self.rules, self.daemon, self.now);
        let decision = match decision {
            Ok(decision) => decision,
            Err(refusal) => return refused(job, refusal, verify),
        };
        if let Some(stored) = decision.next {
            let content = content_of::<E>(&stored);
            if let Content::Put(value) = &content
                && let Some(bytes) = self.excess(value, decision.event.as_ref())
            {
                return refused(job, too_large(bytes, self.max_value), verify);
            }
            *next = Some((stored, content));
        }
        Decided { job, result: Ok(decision.outcome), event: decision.event, verify }
    }

    /// The size of a record, with its event, if one of them is beyond the limit.
    fn excess(&self, value: &[u8], event: Option<&Event>) -> Option<usize> {
        let bytes = value.len().max(event.map_or(0, |event| event.body.len()));
        (bytes > self.max_value).then_some(bytes)
    }
}

fn content_of<E: Entity>(stored: &Stored<E::Record>) -> Content {
    match stored {
        Stored::Present(record) => Content::Put(E::encode(record).into()),
        Stored::Absent { version, changed_by } => {
            Content::Purge { version: *version, changed_by: *changed_by }
        }
        Stored::Unreadable => unreachable!("a decision never makes something unreadable"),
    }
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
            "the record would have {bytes} bytes, and the NATS server's `max_payload` leaves room \
             for {limit}: raise it, or lower `limits.connections_per_user`"
        ),
    )
    .limit(limit as u64)
}
