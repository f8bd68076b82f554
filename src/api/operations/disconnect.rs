//! `disconnect`: ends one connection, or all connections on a lease.

use hashbrown::HashSet;

use super::context::Context;
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{EarlyDisconnect, Outcome};

/// A parsed `disconnect`.
#[derive(Debug)]
pub enum Disconnect {
    Connection {
        user: Id,
        connection: Id,
        lease: Option<Id>,
        grace_ms: Option<u64>,
        /// Whether a connect of the connection may still be under way.
        may_be_early: bool,
    },
    Lease {
        lease: Id,
        grace_ms: Option<u64>,
    },
}

impl Disconnect {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let grace_ms = fields.number("grace_ms", 0..=rules.lease_ms)?;
        let lease = fields.lease()?;
        if let Some(lease) = &lease
            && !fields.has("user_id")
            && !fields.has("connection_id")
        {
            fields.finish()?;
            return Ok(Self::Lease { lease: lease.clone(), grace_ms });
        }
        let (user, connection) = rules.door.connection(&mut fields)?;
        fields.finish()?;
        Ok(Self::Connection { user, connection, lease, grace_ms, may_be_early: true })
    }

    /// The user named, if a single connection is.
    pub fn user(&self) -> Option<&Id> {
        match self {
            Self::Connection { user, .. } => Some(user),
            Self::Lease { .. } => None,
        }
    }

    /// The connects that follow in the same request, by user and connection, came in this order.
    pub fn set_followed_by(&mut self, connects: &HashSet<(Id, Id)>) {
        if let Self::Connection { user, connection, may_be_early, .. } = self {
            *may_be_early = !connects.contains(&(user.clone(), connection.clone()));
        }
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        match self {
            Self::Connection { user, connection, lease, grace_ms, may_be_early } => {
                let was_invisible = ctx.service.is_invisible(&user);
                let early = EarlyDisconnect { connection, lease, grace_ms };
                let (service, command) = (&ctx.service, early.command());
                let result = service.command(user.clone(), command, ctx.deadline_ms).await;
                ctx.set_invisible(writes::is_invisible(&result, was_invisible));
                let answer = result?;
                let count = match answer.outcome {
                    Outcome::Disconnected { count, .. } => count,
                    _ => 0,
                };
                if count == 0 && may_be_early {
                    // Rare, and large.
                    Box::pin(service.publish_early(&user, early, ctx.arrived_ms)).await;
                }
                Ok(reply(count, answer.rev, &ctx.door))
            }
            Self::Lease { lease, grace_ms } => {
                let ended = ctx.service.end_lease(&lease, grace_ms, ctx.deadline_ms).await?;
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
