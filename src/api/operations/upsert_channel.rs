//! `upsert_channel`: creates a channel, or changes its data and members.

use super::channel::{self, MAX_MEMBERS_PER_CALL};
use super::context::Context;
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, too_many, wrong};
use crate::presence::channel::{ChannelKey, Command, Edit, Outcome, Page, Patch, Record};
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// A parsed `upsert_channel`.
#[derive(Debug)]
pub struct UpsertChannel {
    key: ChannelKey,
    patch: Patch,
    edit: Edit,
}

impl UpsertChannel {
    pub fn parse(mut fields: Fields, _: &RequestRules<'_>) -> Result<Self, Refusal> {
        let key = channel::key(&mut fields)?;
        let data = fields.object("data")?.unwrap_or_default();
        let patch = Patch::parse(data, "data")?;
        let mut members = |name| fields.ids(name, MAX_MEMBERS_PER_CALL);
        let edit = Edit {
            replace: members("members")?,
            add: members("add_members")?.unwrap_or_default(),
            remove: members("remove_members")?.unwrap_or_default(),
        };
        fields.finish()?;
        let named = edit.replace.as_ref().map_or(0, Vec::len) + edit.add.len() + edit.remove.len();
        if named > MAX_MEMBERS_PER_CALL {
            return Err(too_many("members", named, MAX_MEMBERS_PER_CALL));
        }
        let joined = edit.replace.iter().flatten().chain(&edit.add);
        if let Some(both) = joined.into_iter().find(|id| edit.remove.contains(id)) {
            let what = format!("names {both:?}, who is to be a member by the same request");
            return Err(wrong("remove_members", &what));
        }
        Ok(Self { key, patch, edit })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let Self { key, patch, edit } = self;
        let (service, command) = (&ctx.service, Command::Upsert { patch, edit });
        // Nothing is written whose answer would be too large.
        if let Some(record) = service.preview_channel(&key, &command)? {
            ctx.has_room_for(reply(service, &key, &record, 0).len())?;
        }
        let answer = service.channel_command(key.clone(), command, ctx.deadline_ms).await?;
        Ok(match answer.outcome {
            Outcome::Channel(record) => reply(service, &key, &record, answer.rev),
            Outcome::Deleted(_) => Vec::new(),
        })
    }
}

fn reply(service: &Service, key: &ChannelKey, record: &Record, rev: u64) -> Reply {
    let mut out = b"{\"channel\":".to_vec();
    let page = Page::of(key, record, channel::MAX_SHOWN);
    service.push_channel(&mut out, &page, channel::MAX_SHOWN, None, None);
    writes::push_rev(&mut out, rev, &Door::Trusted);
    out.push(b'}');
    out
}
