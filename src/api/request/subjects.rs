//! The subjects of requests.

use super::door::Door;
use super::operation::Operation;
use crate::config::INTERNAL;
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};

/// The subjects of this cell.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// `P` of the protocol.
    pub prefix: String,
    /// `E` of the protocol.
    pub events: String,
    /// The prefix of announced counts.
    pub channel_events: String,
}

impl Subjects {
    /// Returns whether the daemon must not answer to `reply`, which cannot be the requester's own
    /// (`docs/protocol.md`, *Basics*).
    pub fn is_forbidden_reply(&self, reply: &str) -> bool {
        let lies_under = |subject: &str| {
            reply.strip_prefix(subject).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        reply.starts_with('$')
            || [&self.prefix, &self.events, &self.channel_events].iter().any(|own| lies_under(own))
            || lies_under(INTERNAL)
    }

    /// All requests of the cell.
    pub fn all_requests(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// The operation and the user's token that a subject names.
    pub fn name_and_token<'a>(&self, subject: &'a str) -> Option<(&'a str, Option<&'a str>)> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        match rest.split_once('.') {
            None => Some((rest, None)),
            Some((name, token)) if !token.contains('.') => Some((name, Some(token))),
            Some(_) => None,
        }
    }

    /// The door through which a request for `operation` came.
    pub fn door(&self, operation: Operation, subject: &str) -> Result<Door, Refusal> {
        let Some((_, Some(token))) = self.name_and_token(subject) else {
            return Ok(Door::Trusted);
        };
        if operation.is_trusted() {
            let message = format!("`{}` is for trusted services only", operation.name());
            return Err(Refusal::new(Code::InvalidRequest, message));
        }
        Id::from_token(token).map(Door::Own).ok_or_else(|| {
            Refusal::new(
                Code::InvalidId,
                "the last token of the subject is not the canonical encoding of a user id",
            )
        })
    }
}
