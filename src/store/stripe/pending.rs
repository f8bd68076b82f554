//! A command under way, and what may be said of it when it is not carried out.

use super::effect::Effect;
use crate::presence::entity::Entity;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

#[derive(Debug)]
pub(super) struct Pending<E: Entity, T> {
    pub(super) command: E::Command,
    /// `None` once it is answered.
    pub(super) ticket: Option<T>,
    pub(super) deadline_ms: u64,
    /// Whether a write of it may have been stored, so that no answer may say that nothing changed.
    pub(super) maybe_stored: bool,
}

impl<E: Entity, T> Pending<E, T> {
    /// Whether someone still waits for it, and its time is not over. If it is, that is said.
    pub(super) fn still_wanted(&mut self, effects: &mut Vec<Effect<E, T>>, now: Now) -> bool {
        if self.ticket.is_some() && self.deadline_ms > now.mono_ms {
            return true;
        }
        self.expire(effects);
        false
    }

    /// Answers it when its time is over.
    pub(super) fn expire(&mut self, effects: &mut Vec<Effect<E, T>>) {
        if let Some(ticket) = self.ticket.take() {
            let refusal = Refusal::new(
                Code::Unavailable,
                "the store did not answer within `limits.request_timeout`; repeat the request",
            );
            effects.push(Effect::Answer { ticket, result: Err(refusal) });
        }
    }

    /// What it is refused with: if a write of it may have been stored, its outcome is open, whatever
    /// it would be refused for now.
    pub(super) fn outcome_unknown(&self, refusal: Refusal) -> Refusal {
        if !self.maybe_stored {
            return refusal;
        }
        Refusal::new(
            Code::Unavailable,
            "the store did not say whether the request was carried out; repeat it",
        )
    }
}
