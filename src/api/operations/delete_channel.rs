//! `delete_channel`: removes a channel.

use super::channel;
use super::context::Context;
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::presence::channel::{ChannelKey, Command, Outcome};
use crate::presence::json;
use crate::presence::refusal::Refusal;

/// A parsed `delete_channel`.
#[derive(Debug)]
pub struct DeleteChannel {
    key: ChannelKey,
}

impl DeleteChannel {
    pub fn parse(mut fields: Fields, _: &RequestRules<'_>) -> Result<Self, Refusal> {
        let key = channel::key(&mut fields)?;
        fields.finish()?;
        Ok(Self { key })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let answer =
            ctx.service.channel_command(self.key, Command::Delete, ctx.deadline_ms).await?;
        let mut out = b"{\"deleted\":".to_vec();
        json::push_bool(&mut out, answer.outcome == Outcome::Deleted(true));
        writes::push_rev(&mut out, answer.rev, &Door::Trusted);
        out.push(b'}');
        Ok(out)
    }
}
