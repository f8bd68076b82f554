//! `disconnect`: ends one connection, or all connections on a lease.

use super::context::Context;
use super::reply::Reply;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};

/// A parsed `disconnect`.
#[derive(Debug)]
pub enum Disconnect {
    /// With a lease, only a connection that hangs on it.
    Connection {
        user: Id,
        connection: Id,
        lease: Option<Id>,
    },
    Lease(Id),
}

impl Disconnect {
    pub fn parse(mut fields: Fields, door: &Door) -> Result<Self, Refusal> {
        let lease = fields.id("lease")?;
        if let Some(lease) = &lease
            && !fields.has("user_id")
            && !fields.has("connection_id")
        {
            fields.finish()?;
            return Ok(Self::Lease(lease.clone()));
        }
        let user_path = fields.path("user_id");
        let user = door.user(fields.id("user_id")?, &user_path)?;
        let connection = fields.id("connection_id")?.ok_or_else(|| {
            missing(&fields.path("connection_id"), "the id of the connection that ends")
        })?;
        fields.finish()?;
        Ok(Self::Connection { user, connection, lease })
    }

    /// The user named, if a single connection is.
    pub fn user(&self) -> Option<&Id> {
        match self {
            Self::Connection { user, .. } => Some(user),
            Self::Lease(_) => None,
        }
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        match self {
            Self::Connection { user, connection, lease } => {
                let was_invisible = ctx.service.is_invisible(&user);
                let command = Command::Disconnect { connection, lease };
                let result = ctx.service.command(user, command, ctx.deadline_ms).await;
                ctx.set_invisible(writes::is_invisible(&result, was_invisible));
                let answer = result?;
                let count = match answer.outcome {
                    Outcome::Disconnected { count, .. } => count,
                    _ => 0,
                };
                Ok(reply(count, answer.rev, &ctx.door))
            }
            Self::Lease(lease) => {
                let ended = ctx.service.end_lease(&lease, ctx.deadline_ms).await?;
                Ok(reply(ended.count, ended.rev, &ctx.door))
            }
        }
    }
}

fn reply(count: usize, rev: u64, door: &Door) -> Reply {
    let mut out = Vec::with_capacity(48);
    json::push(&mut out, "{\"disconnected\":");
    json::push_number(&mut out, count as u64);
    writes::push_rev(&mut out, rev, door);
    out.push(b'}');
    out
}
