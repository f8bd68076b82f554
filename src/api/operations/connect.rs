//! `connect`: a user comes online on one connection.

use serde_json::{Map, Value};

use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::api::transport::responder::Responder;
use crate::config::{Limits, Liveness};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome, Patch};
use crate::service::Service;
use crate::store::stripe::Answer;

/// A parsed `connect`.
#[derive(Debug)]
pub struct Connect {
    pub user: Id,
    patch: Patch,
    connection: Id,
    lease: Option<Id>,
}

impl Connect {
    pub fn parse(mut fields: Fields, door: &Door, limits: &Limits) -> Result<Self, Refusal> {
        let path = fields.path("user");
        let user_fields = match (fields.object("user")?, door) {
            (Some(user), _) => user,
            (None, Door::Own(_)) => Map::<String, Value>::new(),
            (None, Door::Trusted) => {
                return Err(missing(&path, "an object with the `id` of the user"));
            }
        };
        let (user, patch) = writes::user(&user_fields, &path, door, &limits.trusted_fields)?;
        let connection = fields.id("connection_id")?;
        let lease = fields.id("lease")?;
        fields.finish()?;
        let connection = match connection {
            Some(connection) => connection,
            None => Id::parse(&fresh_connection_id(), "connection_id")?,
        };
        Ok(Self { user, patch, connection, lease })
    }

    /// The user and what is to happen to it.
    pub fn command(self, custom_in_answer: bool) -> (Id, Command) {
        let Self { user, patch, connection, lease } = self;
        (user, Command::Connect { patch, connection, lease, custom_in_answer })
    }

    /// At most how many bytes the answer will have, without custom fields.
    pub fn answer_bytes(&self, service: &Service) -> usize {
        2 * self.connection.as_str().len()
            + 128
            + writes::me_bytes(service, &self.user, &self.patch)
    }

    pub fn run(self, service: &Service, door: Door, deadline_ms: u64, responder: Responder) {
        let liveness = service.liveness.clone();
        let (user, command) = self.command(true);
        let was_invisible = service.is_invisible(&user);
        let reply = move |result: writes::Done| {
            let mut responder = responder;
            responder.invisible = writes::is_invisible(&result, was_invisible);
            responder.result(result.map(|answer| body(answer, &liveness, &door)));
        };
        service.command(user, command, deadline_ms, Box::new(reply));
    }
}

/// The answer to a `connect`.
pub fn body(answer: Answer<Outcome>, liveness: &Liveness, door: &Door) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let Outcome::Connected { connection, me, .. } = answer.outcome {
        json::push(&mut out, "{\"connection_id\":");
        json::push_str(&mut out, connection.as_str());
        json::push(&mut out, ",\"me\":");
        out.extend_from_slice(&me);
        json::push(&mut out, ",\"heartbeat\":{\"interval_ms\":");
        json::push_number(&mut out, millis(liveness.heartbeat_interval));
        json::push(&mut out, ",\"lease_ms\":");
        json::push_number(&mut out, millis(liveness.lease));
        out.push(b'}');
        writes::push_rev(&mut out, answer.rev, door);
        out.push(b'}');
    }
    out
}

/// A name for a connection of a client that did not name it: 128 random bits.
fn fresh_connection_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
