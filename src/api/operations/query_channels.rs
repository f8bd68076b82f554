//! `query_channels`: the channels that match, and the members to watch.

use std::collections::HashSet;

use super::channel;
use super::context::Context;
use super::queries::{Freshness, to_usize};
use super::reply::Reply;
use super::rules::RequestRules;
use crate::api::request::fields::Fields;
use crate::presence::channel::{Page, Watched, watch};
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::sort::Sort;
use crate::service::Service;
use crate::service::channels::{ChannelQuery, push_watched};

const MAX_LIMIT: u64 = 30;
const DEFAULT_LIMIT: u64 = 10;
const MAX_OFFSET: u64 = 1000;

/// A parsed `query_channels`.
#[derive(Debug)]
pub struct QueryChannels {
    query: ChannelQuery,
    limit: usize,
    presence: bool,
    online_count: bool,
    viewer: Option<Id>,
    freshness: Freshness,
}

impl QueryChannels {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Channels, &filter));
        let sort = fields.take("sort");
        let limit = fields.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let limit = to_usize(limit);
        let offset = fields.number("offset", 0..=MAX_OFFSET)?.unwrap_or(0);
        let member_limit = channel::member_limit(&mut fields)?;
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let online_count = fields.boolean("online_count")?.unwrap_or(false);
        let viewer = rules.door.viewer(fields.id("as")?)?;
        let freshness = Freshness::parse(&mut fields, presence, rules.door)?;
        fields.finish()?;
        let query = ChannelQuery {
            filter: filter.transpose()?,
            sort: Sort::parse(Kind::Channels, sort.as_ref())?,
            // One more tells whether others match behind this page.
            limit: limit + 1,
            offset: to_usize(offset),
            member_limit,
            of_member: if rules.door.is_trusted() { None } else { viewer.clone() },
        };
        Ok(Self { query, limit, presence, online_count, viewer, freshness })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.freshness.wait(ctx).await?;
        let (members, viewer) = (self.query.member_limit, self.viewer.as_ref());
        let mut pages = ctx.service.query_channels(self.query, ctx.deadline_ms).await?;
        let more = pages.len() > self.limit;
        pages.truncate(self.limit);
        if self.online_count {
            pages = ctx.service.with_online_counts(pages, self.viewer.clone()).await?;
        }
        let event_prefix = self.presence.then_some(&*ctx.event_prefix);
        reply(&ctx.service, &pages, more, members, viewer, event_prefix)
    }
}

fn reply(
    service: &Service,
    pages: &[Page],
    more: bool,
    members: usize,
    viewer: Option<&Id>,
    event_prefix: Option<&str>,
) -> Result<Reply, Refusal> {
    let mut out = b"{\"channels\":[".to_vec();
    let mut union = Union::default();
    for (index, page) in pages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let watched = watched(service, page, members)?;
        let presence = event_prefix.map(|prefix| (prefix, &watched));
        service.push_channel(&mut out, page, members, viewer, presence);
        union.add(watched);
    }
    json::push(&mut out, "],\"more\":");
    json::push_bool(&mut out, more);
    if let Some(event_prefix) = event_prefix {
        json::push(&mut out, ",\"presence\":");
        push_watched(&mut out, event_prefix, &union.finish(), None);
    }
    out.push(b'}');
    Ok(out)
}

/// The members that a watch of one channel follows.
fn watched(service: &Service, page: &Page, members: usize) -> Result<Watched, Refusal> {
    if !service.channel_type(&page.key).presence {
        return Ok(Watched::default());
    }
    let watched = watch(&page.record.members, members, None)?;
    Ok(Watched { truncated: page.member_count > watched.users.len(), ..watched })
}

/// The union of the watches of several channels, each user once.
#[derive(Default)]
struct Union {
    watched: Watched,
    followed: HashSet<Id>,
    left_out: HashSet<Id>,
}

impl Union {
    fn add(&mut self, watched: Watched) {
        self.watched.truncated |= watched.truncated;
        for id in watched.users {
            if self.followed.insert(id.clone()) {
                self.watched.users.push(id);
            }
        }
        for id in watched.not_watched {
            if self.left_out.insert(id.clone()) {
                self.watched.not_watched.push(id);
            }
        }
    }

    /// A user who is left out of one channel and followed in another is not left out.
    fn finish(mut self) -> Watched {
        let followed = self.followed;
        self.watched.not_watched.retain(|id| !followed.contains(id));
        self.watched
    }
}
