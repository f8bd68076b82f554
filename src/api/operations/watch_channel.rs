//! `watch_channel`: a channel, made if there is none, and whom of its members to watch.

use serde_json::{Map, Value};

use super::channel::{self, Done, MAX_MEMBERS_PER_CALL};
use super::query_users::min_rev;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::api::transport::responder::Responder;
use crate::config::Limits;
use crate::presence::channel::{
    ChannelKey, Command, MAX_WATCHED, Outcome, Page, Patch, Record, Watched, choose, watch,
};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::Service;
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
    viewer: Option<Id>,
    min_rev: Option<u64>,
    door: Door,
}

impl WatchChannel {
    pub fn parse(mut fields: Fields, door: Door, limits: &Limits) -> Result<Self, Refusal> {
        let key = channel::key(&mut fields)?;
        let mut data =
            Fields::of(fields.take("data").unwrap_or_else(|| Value::Object(Map::new())), "data")?;
        let members = data.ids("members", MAX_MEMBERS_PER_CALL)?.unwrap_or_default();
        let patch = Patch::parse(data.rest(), "data")?;
        if !door.is_trusted()
            && let Some((name, _)) =
                patch.custom.iter().find(|(name, _)| limits.trusted_fields.contains(&**name))
        {
            let field = format!("data.{name}");
            let message = format!("`{field}` can be set only by trusted services");
            return Err(Refusal::new(Code::ForbiddenField, message).field(field));
        }
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let chosen = match fields.ids("users", usize::MAX)? {
            Some(users) => Some(choose(users, "users")?),
            None => None,
        };
        let member_limit = channel::member_limit(&mut fields)?;
        let viewer = door.viewer(fields.id("as")?)?;
        let min_rev = min_rev(&mut fields, &door)?;
        fields.finish()?;
        Ok(Self { key, patch, members, presence, chosen, member_limit, viewer, min_rev, door })
    }

    pub fn run(self, service: &Service, events: &str, deadline_ms: u64, responder: Responder) {
        let all_stored = self.presence || !self.door.is_trusted();
        let (then, events) = (service.clone(), events.to_owned());
        service.when_fresh(all_stored, self.min_rev, deadline_ms, move |fresh| match fresh {
            Ok(()) => self.get_or_create(then, events, deadline_ms, responder),
            Err(refusal) => responder.refuse(&refusal),
        });
    }

    fn get_or_create(
        mut self,
        service: Service,
        events: String,
        deadline_ms: u64,
        responder: Responder,
    ) {
        let found = service.store.channels.with_record(&self.key, |record| record.cloned());
        if let Some(record) = found {
            return responder.result(self.answer(&service, &events, &record));
        }
        if let Door::Own(user) = &self.door {
            if !service.channel_type(&self.key).client_create {
                return responder.refuse(&not_found());
            }
            // Whoever makes a channel is in it, and was so first.
            if !self.members.contains(user) {
                self.members.insert(0, user.clone());
            }
        }
        let command = Command::Create {
            patch: std::mem::take(&mut self.patch),
            members: self.members.clone(),
            chosen: self.chosen.clone(),
        };
        // Nothing is made that could not be answered.
        let preview =
            service.preview_channel(&self.key, &command).and_then(|record| match record {
                Some(record) => self.answer(&service, &events, &record).map(|answer| answer.len()),
                None => Ok(0),
            });
        if let Err(refusal) = preview.and_then(|bytes| responder.has_room_for(bytes)) {
            return responder.refuse(&refusal);
        }
        let (key, then) = (self.key.clone(), service.clone());
        let reply = Box::new(move |result: Done| {
            responder.result(result.and_then(|answer| match answer.outcome {
                Outcome::Channel(record) => self.answer(&then, &events, &record),
                Outcome::Deleted(_) => Err(not_found()),
            }));
        });
        service.channel_command(key, command, deadline_ms, reply);
    }

    fn answer(&self, service: &Service, events: &str, record: &Record) -> Result<Vec<u8>, Refusal> {
        if let Door::Own(user) = &self.door
            && !record.is_member(user)
        {
            return Err(not_found());
        }
        let watched = watch(&record.members, self.member_limit, self.chosen.as_deref())?;
        let page = Page::of(&self.key, record, self.member_limit.max(MAX_WATCHED));
        let mut out = b"{\"channel\":".to_vec();
        service.push_channel(&mut out, &page, self.member_limit, self.viewer.as_ref(), None);
        if self.presence {
            let enabled = service.channel_type(&self.key).presence;
            let watched = if enabled { watched } else { Watched::default() };
            json::push(&mut out, ",\"presence\":");
            push_watched(&mut out, events, &watched);
        }
        out.push(b'}');
        Ok(out)
    }
}

fn not_found() -> Refusal {
    Refusal::new(Code::ChannelNotFound, "there is no such channel, or you are no member of it")
}
