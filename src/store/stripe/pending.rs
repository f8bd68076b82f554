//! A pending command, and its refusal if it is not carried out.

use super::effect::Effect;
use crate::presence::entity::Entity;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

#[derive(Debug)]
pub(super) struct Pending<E: Entity, T> {
    pub(super) command: E::Command,
    /// `None` once the command is answered.
    pub(super) ticket: Option<T>,
    pub(super) deadline_ms: u64,
    /// The revision on which a write of it may have been stored, so that no answer may claim that
    /// nothing changed.
    pub(super) maybe_stored_on: Option<u64>,
}

impl<E: Entity, T> Pending<E, T> {
    /// Returns whether it is not answered and its deadline has not passed.
    pub(super) fn is_wanted(&self, now: Now) -> bool {
        self.ticket.is_some() && self.deadline_ms > now.mono_ms
    }

    /// Returns whether it may have been carried out and undone since, on a record that is at `rev`
    /// now. Carried out again, it would undo what came after it.
    pub(super) fn may_be_undone(&self, rev: u64) -> bool {
        self.maybe_stored_on.is_some_and(|base| base != rev)
    }

    /// Answers it after its deadline; `trouble` is why JetStream did not take its write.
    pub(super) fn expire(&mut self, effects: &mut Vec<Effect<E, T>>, trouble: Option<&str>) {
        if let Some(ticket) = self.ticket.take() {
            let message = match trouble {
                Some(reason) => format!("the store does not take writes: {reason}"),
                None => {
                    "the store did not answer within `limits.request_timeout`; repeat the request"
                        .to_owned()
                }
            };
            let refusal = Refusal::new(Code::Unavailable, message);
            effects.push(Effect::Answer { ticket, result: Err(refusal) });
        }
    }

    /// Answers it as one whose outcome is unknown.
    pub(super) fn answer_unknown(&mut self, effects: &mut Vec<Effect<E, T>>) {
        if let Some(ticket) = self.ticket.take() {
            effects.push(Effect::Answer { ticket, result: Err(unknown()) });
        }
    }

    /// The refusal for the command: if a write of it may have been stored, its outcome is unknown,
    /// whatever the reason of `refusal`.
    pub(super) fn outcome_unknown(&self, refusal: Refusal) -> Refusal {
        if self.maybe_stored_on.is_none() { refusal } else { unknown() }
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the store did not say whether the request was carried out; repeat it",
    )
}
