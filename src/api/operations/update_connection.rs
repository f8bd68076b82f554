//! `update_connection`: one connection becomes idle or active, or is another kind of device.

use super::connect::device;
use super::context::Context;
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Device, Outcome};
use crate::store::stripe::Answer;

/// A parsed `update_connection`.
#[derive(Debug)]
pub struct UpdateConnection {
    pub user: Id,
    pub connection: Id,
    idle: Option<bool>,
    device: Option<Device>,
}

impl UpdateConnection {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let (user, connection) = rules.door.connection(&mut fields)?;
        let idle = fields.boolean("idle")?;
        let device = device(&mut fields)?;
        fields.finish()?;
        Ok(Self { user, connection, idle, device })
    }

    fn command(&self) -> Command {
        Command::UpdateConnection {
            connection: self.connection.clone(),
            idle: self.idle,
            device: self.device.clone(),
        }
    }

    /// An upper bound of the answer, in bytes.
    pub fn answer_bytes(&self) -> usize {
        2 * (self.user.as_str().len() + self.connection.as_str().len()) + 128
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let was_invisible = ctx.service.is_invisible(&self.user);
        let (user, command) = (self.user.clone(), self.command());
        let result = ctx.service.command(user, command, ctx.deadline_ms).await;
        ctx.set_invisible(writes::is_invisible(&result, was_invisible));
        Ok(self.reply(&result?, &ctx.door))
    }

    /// The answer: the connection is `unknown` if it is not there.
    fn reply(&self, answer: &Answer<Outcome>, door: &Door) -> Reply {
        let known = matches!(answer.outcome, Outcome::ConnectionUpdated { known: true, .. });
        let mut out = b"{\"unknown\":".to_vec();
        json::push_array(&mut out, (!known).then_some(self), |out, each| {
            json::push(out, "{\"user_id\":");
            json::push_str(out, each.user.as_str());
            json::push(out, ",\"connection_id\":");
            json::push_str(out, each.connection.as_str());
            out.push(b'}');
        });
        writes::push_rev(&mut out, answer.rev, door);
        out.push(b'}');
        out
    }
}
