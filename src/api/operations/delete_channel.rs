//! `delete_channel`: a channel is removed.

use super::channel;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::api::transport::responder::Responder;
use crate::presence::channel::{ChannelKey, Command, Outcome};
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// A parsed `delete_channel`.
#[derive(Debug)]
pub struct DeleteChannel {
    key: ChannelKey,
}

impl DeleteChannel {
    pub fn parse(mut fields: Fields) -> Result<Self, Refusal> {
        let key = channel::key(&mut fields)?;
        fields.finish()?;
        Ok(Self { key })
    }

    pub fn run(self, service: &Service, deadline_ms: u64, responder: Responder) {
        let reply = Box::new(move |result: super::channel::Done| {
            responder.result(result.map(|answer| {
                let mut out = b"{\"deleted\":".to_vec();
                json::push_bool(&mut out, answer.outcome == Outcome::Deleted(true));
                writes::push_rev(&mut out, answer.rev, &Door::Trusted);
                out.push(b'}');
                out
            }));
        });
        service.channel_command(self.key, Command::Delete, deadline_ms, reply);
    }
}
