//! `watch_channel`: a channel, created if it does not exist, and the members to watch.

use serde_json::{Map, Value};

use super::channel::{self, MAX_MEMBERS_PER_CALL};
use super::context::Context;
use super::queries::Freshness;
use super::reply::Reply;
use super::rules::RequestRules;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::presence::channel::{
    ChannelKey, Command, MAX_WATCHED, Outcome, Page, Patch, Record, Watched, choose, watch,
};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::channels::push_watched;

/// A parsed `watch_channel`.
#[derive(Debug)]
pub struct WatchChannel {
    key: ChannelKey,
    patch: Patch,
    members: Vec<Id>,
    presence: bool,
    chosen: Option<Vec<Id>>,
    member_limit: usize,
    online_count: bool,
    viewer: Option<Id>,
    freshness: Freshness,
}

impl WatchChannel {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let key = channel::key(&mut fields)?;
        let mut data =
            Fields::of(fields.take("data").unwrap_or_else(|| Value::Object(Map::new())), "data")?;
        let members = data.ids("members", MAX_MEMBERS_PER_CALL)?.unwrap_or_default();
        let patch = Patch::parse(data.rest(), "data")?;
        rules.check_custom(&patch.custom, "data")?;
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let chosen = match fields.ids("users", usize::MAX)? {
            Some(users) => Some(choose(users, "users")?),
            None => None,
        };
        let member_limit = channel::member_limit(&mut fields)?;
        let online_count = fields.boolean("online_count")?.unwrap_or(false);
        let viewer = rules.door.viewer(fields.id("as")?)?;
        let freshness = Freshness::parse(&mut fields, presence, rules.door)?;
        fields.finish()?;
        Ok(Self {
            key,
            patch,
            members,
            presence,
            chosen,
            member_limit,
            online_count,
            viewer,
            freshness,
        })
    }

    pub async fn run(mut self, ctx: &Context) -> Result<Reply, Refusal> {
        self.freshness.wait(ctx).await?;
        let service = &ctx.service;
        let found = service.store.channels.with_record(&self.key, |record| record.cloned());
        if let Some(record) = found {
            return self.answer(ctx, &record).await;
        }
        if let Door::Own(user) = &ctx.door {
            if !service.channel_type(&self.key).client_create {
                return Err(not_found());
            }
            // The creator of a channel is its first member.
            if !self.members.contains(user) {
                self.members.insert(0, user.clone());
            }
        }
        let command = Command::Create {
            patch: std::mem::take(&mut self.patch),
            members: self.members.clone(),
            chosen: self.chosen.clone(),
        };
        // Nothing is created whose answer would be too large.
        if let Some(record) = service.preview_channel(&self.key, &command)? {
            let (page, watched) = self.page(ctx, &record)?;
            let most = self.online_count.then_some(page.member_count);
            let page = Page { online_count: most, ..page };
            ctx.has_room_for(self.reply(ctx, &page, watched).len())?;
        }
        let key = self.key.clone();
        match service.channel_command(key, command, ctx.deadline_ms).await?.outcome {
            Outcome::Channel(record) => self.answer(ctx, &record).await,
            Outcome::Deleted(_) => Err(not_found()),
        }
    }

    async fn answer(&self, ctx: &Context, record: &Record) -> Result<Reply, Refusal> {
        let (page, watched) = self.page(ctx, record)?;
        let page = if self.online_count {
            let viewer = self.viewer.clone();
            let counted = ctx.service.with_online_counts(vec![page.clone()], viewer).await?;
            counted.into_iter().next().unwrap_or(page)
        } else {
            page
        };
        Ok(self.reply(ctx, &page, watched))
    }

    /// What is shown of the channel, and whom the watch follows.
    fn page(&self, ctx: &Context, record: &Record) -> Result<(Page, Watched), Refusal> {
        if let Door::Own(user) = &ctx.door
            && !record.is_member(user)
        {
            return Err(not_found());
        }
        let watched = watch(&record.members, self.member_limit, self.chosen.as_deref())?;
        Ok((Page::of(&self.key, record, self.member_limit.max(MAX_WATCHED)), watched))
    }

    fn reply(&self, ctx: &Context, page: &Page, watched: Watched) -> Reply {
        let (service, viewer) = (&ctx.service, self.viewer.as_ref());
        let mut out = b"{\"channel\":".to_vec();
        service.push_channel(&mut out, page, self.member_limit, viewer, None);
        if self.presence {
            let enabled = service.channel_type(&self.key).presence;
            let watched = if enabled { watched } else { Watched::default() };
            let occupancy = service.occupancy_subject(&self.key);
            json::push(&mut out, ",\"presence\":");
            push_watched(&mut out, &ctx.event_prefix, &watched, occupancy.as_deref());
        }
        out.push(b'}');
        out
    }
}

fn not_found() -> Refusal {
    Refusal::new(Code::ChannelNotFound, "there is no such channel, or you are no member of it")
}
