//! `disconnect`: one connection ends, or all that a lease holds.

use super::writes::{self, RequestRules};
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::api::transport::responder::Responder;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};
use crate::service::Service;
use crate::store::stripe::Answer;

/// A parsed `disconnect`.
#[derive(Debug)]
pub enum Disconnect {
    Connection { user: Id, connection: Id, lease: Option<Id>, grace_ms: Option<u64> },
    Lease { lease: Id, grace_ms: Option<u64> },
}

impl Disconnect {
    pub fn parse(mut fields: Fields, door: &Door, rules: &RequestRules) -> Result<Self, Refusal> {
        let grace_ms = fields.number("grace_ms", 0..=rules.lease_ms)?;
        let lease = fields.id("lease")?;
        if let Some(lease) = &lease
            && !fields.has("user_id")
            && !fields.has("connection_id")
        {
            fields.finish()?;
            return Ok(Self::Lease { lease: lease.clone(), grace_ms });
        }
        let user_path = fields.path("user_id");
        let user = door.user(fields.id("user_id")?, &user_path)?;
        let connection = fields.id("connection_id")?.ok_or_else(|| {
            missing(&fields.path("connection_id"), "the id of the connection that ends")
        })?;
        fields.finish()?;
        Ok(Self::Connection { user, connection, lease, grace_ms })
    }

    pub fn run(self, service: &Service, door: Door, deadline_ms: u64, responder: Responder) {
        match self {
            Self::Connection { user, connection, lease, grace_ms } => {
                let was_invisible = service.is_invisible(&user);
                let reply = move |result: writes::Done| {
                    let mut responder = responder;
                    responder.invisible = writes::is_invisible(&result, was_invisible);
                    responder.result(result.map(|answer| body(answer, &door)));
                };
                let command = Command::Disconnect { connection, lease, grace_ms };
                service.command(user, command, deadline_ms, Box::new(reply));
            }
            Self::Lease { lease, grace_ms } => {
                let (task, tracker) = (service.clone(), &service.store.context.tracker);
                tracker.spawn(async move {
                    let ended = task.end_lease(lease, grace_ms, deadline_ms).await;
                    responder.result(ended.map(|(count, rev)| {
                        let outcome = Outcome::Disconnected { count, invisible: false };
                        body(Answer { outcome, rev }, &door)
                    }));
                });
            }
        }
    }
}

/// The answer to a `disconnect`.
pub fn body(answer: Answer<Outcome>, door: &Door) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    if let Outcome::Disconnected { count, .. } = answer.outcome {
        json::push(&mut out, "{\"disconnected\":");
        json::push_number(&mut out, count as u64);
        writes::push_rev(&mut out, answer.rev, door);
        out.push(b'}');
    }
    out
}
