//! `connect`: adds a connection of a user, who comes online.

use serde_json::{Map, Value};

use super::context::{Context, UsersShown};
use super::reply::{Reply, push_heartbeat};
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{BeforeConnect, Command, Device, NewConnection, Outcome, Patch};
use crate::service::Service;
use crate::store::stripe::Answer;

/// A parsed `connect`.
#[derive(Debug)]
pub struct Connect {
    pub user: Id,
    patch: Patch,
    defaults: Option<Box<Patch>>,
    connection: NewConnection,
}

impl Connect {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let path = fields.path("user");
        let user_fields = match (fields.object("user")?, rules.door) {
            (Some(user), _) => user,
            (None, Door::Own(_)) => Map::<String, Value>::new(),
            (None, Door::Trusted) => {
                return Err(missing(&path, "an object with the `id` of the user"));
            }
        };
        let (user, patch) = writes::user(&user_fields, &path, rules)?;
        let connection = fields.id("connection_id")?;
        let lease = fields.lease()?;
        let defaults = defaults(&mut fields, rules)?;
        let device = device(&mut fields)?;
        let idle = fields.boolean("idle")?.unwrap_or(false);
        fields.finish()?;
        let id = match connection {
            Some(connection) => connection,
            None => Id::parse(&fresh_connection_id(), "connection_id")?,
        };
        let connection = NewConnection { id, lease, device, idle };
        Ok(Self { user, patch, defaults, connection })
    }

    /// The id of the connection.
    pub fn connection(&self) -> &Id {
        &self.connection.id
    }

    /// An upper bound of the answer without custom fields, in bytes.
    pub fn answer_bytes(&self, shows: UsersShown, service: &Service) -> usize {
        let patches = std::iter::once(&self.patch).chain(self.defaults.as_deref());
        let me = match shows {
            UsersShown::None => 0,
            _ => patches.map(|patch| writes::me_bytes(service, &self.user, patch)).sum(),
        };
        2 * self.connection.id.as_str().len() + 128 + me
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let Self { user, patch, defaults, connection } = self;
        let was_invisible = ctx.service.is_invisible(&user);
        let custom_in_answer = ctx.shows.with_custom();
        let before = ctx.service.before_connect(&user, &connection, ctx.arrived_ms);
        let command = Command::Connect { patch, defaults, connection, custom_in_answer };
        let connected = ctx.service.command(user.clone(), command, ctx.deadline_ms);
        let result = match before {
            BeforeConnect::Nothing => connected.await,
            BeforeConnect::Ended(early) => {
                // Submitted right behind the connect, so that nothing comes between them. What
                // fails is ended when the replica shows the connection.
                let ended = ctx.service.command(user, early.command(), ctx.deadline_ms);
                let result = connected.await;
                let _ = ended.await;
                result
            }
            BeforeConnect::TooLate(void) => {
                // Rare, and large.
                Box::pin(ctx.service.void_disconnects(&user, void)).await;
                connected.await
            }
        };
        ctx.set_invisible(writes::is_invisible(&result, was_invisible));
        Ok(reply(result?, ctx))
    }
}

fn reply(answer: Answer<Outcome>, ctx: &Context) -> Reply {
    let mut out = Vec::with_capacity(512);
    if let Outcome::Connected { connection, me, created, .. } = answer.outcome {
        json::push(&mut out, "{\"connection_id\":");
        json::push_str(&mut out, connection.as_str());
        if ctx.shows != UsersShown::None {
            json::push(&mut out, ",\"me\":");
            out.extend_from_slice(&me);
        }
        json::push(&mut out, ",\"created\":");
        json::push_bool(&mut out, created);
        out.push(b',');
        push_heartbeat(&mut out, &ctx.service);
        writes::push_rev(&mut out, answer.rev, &ctx.door);
        out.push(b'}');
    }
    out
}

/// The fields that count only if the request makes the user.
fn defaults(fields: &mut Fields, rules: &RequestRules<'_>) -> Result<Option<Box<Patch>>, Refusal> {
    let path = fields.path("defaults");
    let Some(defaults) = fields.object("defaults")? else { return Ok(None) };
    if defaults.contains_key("id") {
        return Err(wrong(&format!("{path}.id"), "is named in `user`"));
    }
    Ok(Some(Box::new(writes::patch(&defaults, &path, rules)?)))
}

/// The kind of device that a request names.
pub fn device(fields: &mut Fields) -> Result<Option<Device>, Refusal> {
    let path = fields.path("device");
    fields.text("device")?.map(|device| Device::parse(&device, &path)).transpose()
}

/// The id of a connection whose client named none: 128 random bits.
fn fresh_connection_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
