//! `disconnect`: one connection ends, or all that a lease holds.

use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
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
    Connection { user: Id, connection: Id },
    Lease(Id),
}

impl Disconnect {
    pub fn parse(mut fields: Fields, door: &Door) -> Result<Self, Refusal> {
        if let Some(lease) = fields.id("lease")? {
            for name in ["user_id", "connection_id"] {
                if fields.take(name).is_some() {
                    return Err(wrong(
                        &fields.path(name),
                        "does not go with `lease`: name a lease, or one connection of a user",
                    ));
                }
            }
            fields.finish()?;
            return Ok(Self::Lease(lease));
        }
        let user_path = fields.path("user_id");
        let user = door.user(fields.id("user_id")?, &user_path)?;
        let connection = fields.id("connection_id")?.ok_or_else(|| {
            missing(&fields.path("connection_id"), "the id of the connection that ends")
        })?;
        fields.finish()?;
        Ok(Self::Connection { user, connection })
    }

    pub fn run(self, service: &Service, door: Door, deadline_ms: u64, responder: Responder) {
        match self {
            Self::Connection { user, connection } => {
                let was_invisible = service.is_invisible(&user);
                let reply = move |result: writes::Done| {
                    let mut responder = responder;
                    responder.invisible = writes::is_invisible(&result, was_invisible);
                    responder.result(result.map(|answer| body(answer, &door)));
                };
                let command = Command::Disconnect { connection };
                service.command(user, command, deadline_ms, Box::new(reply));
            }
            Self::Lease(lease) => {
                let (task, tracker) = (service.clone(), &service.store.context.tracker);
                tracker.spawn(async move {
                    let ended = task.end_lease(lease, deadline_ms).await;
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
