//! `connect`: adds a connection of a user, who comes online.

use serde_json::{Map, Value};

use super::context::Context;
use super::reply::{Reply, push_heartbeat};
use super::writes::{self, UsersShown};
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::config::Limits;
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

    /// An upper bound of the answer without custom fields, in bytes.
    pub fn answer_bytes(&self, shows: UsersShown, service: &Service) -> usize {
        let me = match shows {
            UsersShown::None => 0,
            _ => writes::me_bytes(service, &self.user, &self.patch),
        };
        2 * self.connection.as_str().len() + 128 + me
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.run_with(UsersShown::All, ctx).await
    }

    /// Runs with an answer that shows users by `shows`.
    pub async fn run_with(self, shows: UsersShown, ctx: &Context) -> Result<Reply, Refusal> {
        let Self { user, patch, connection, lease } = self;
        let was_invisible = ctx.service.is_invisible(&user);
        let command =
            Command::Connect { patch, connection, lease, custom_in_answer: shows.with_custom() };
        let result = ctx.service.command(user, command, ctx.deadline_ms).await;
        ctx.set_invisible(writes::is_invisible(&result, was_invisible));
        Ok(reply(result?, shows, ctx))
    }
}

fn reply(answer: Answer<Outcome>, shows: UsersShown, ctx: &Context) -> Reply {
    let mut out = Vec::with_capacity(512);
    if let Outcome::Connected { connection, me, .. } = answer.outcome {
        json::push(&mut out, "{\"connection_id\":");
        json::push_str(&mut out, connection.as_str());
        if shows != UsersShown::None {
            json::push(&mut out, ",\"me\":");
            out.extend_from_slice(&me);
        }
        out.push(b',');
        push_heartbeat(&mut out, &ctx.service.liveness);
        writes::push_rev(&mut out, answer.rev, &ctx.door);
        out.push(b'}');
    }
    out
}

/// The id of a connection whose client named none: 128 random bits.
fn fresh_connection_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
