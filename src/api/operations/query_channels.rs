//! `query_channels`: the channels that match, and whom of their members to watch.

use std::collections::HashSet;

use super::channel;
use super::query_users::{min_rev, sort_text, to_usize};
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::api::transport::responder::Responder;
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
    presence: bool,
    viewer: Option<Id>,
    min_rev: Option<u64>,
}

impl QueryChannels {
    /// `body` is the text that `fields` were read from: the order of sort keys is only there.
    pub fn parse(mut fields: Fields, body: &[u8], door: &Door) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Channels, &filter));
        let sort = fields.take("sort").and_then(|_| sort_text(body));
        let limit = fields.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let offset = fields.number("offset", 0..=MAX_OFFSET)?.unwrap_or(0);
        let member_limit = channel::member_limit(&mut fields)?;
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = door.viewer(fields.id("as")?)?;
        let min_rev = min_rev(&mut fields, door)?;
        fields.finish()?;
        let query = ChannelQuery {
            filter: filter.transpose()?,
            sort: Sort::parse(Kind::Channels, sort.as_deref())?,
            limit: to_usize(limit),
            offset: to_usize(offset),
            member_limit,
            of_member: if door.is_trusted() { None } else { viewer.clone() },
        };
        Ok(Self { query, presence, viewer, min_rev })
    }

    pub fn run(
        self,
        service: &Service,
        events: &str,
        door: &Door,
        deadline_ms: u64,
        responder: Responder,
    ) {
        let Self { query, presence, viewer, min_rev } = self;
        let (then, events) = (service.clone(), presence.then(|| events.to_owned()));
        let (members, all_stored) = (query.member_limit, presence || !door.is_trusted());
        service.when_fresh(all_stored, min_rev, deadline_ms, move |fresh| {
            if let Err(refusal) = fresh {
                return responder.refuse(&refusal);
            }
            let answers = then.clone();
            then.query_channels(query, deadline_ms, move |found| {
                responder.result(found.and_then(|pages| {
                    body(&answers, &pages, members, viewer.as_ref(), events.as_deref())
                }));
            });
        });
    }
}

fn body(
    service: &Service,
    pages: &[Page],
    members: usize,
    viewer: Option<&Id>,
    events: Option<&str>,
) -> Result<Vec<u8>, Refusal> {
    let mut out = b"{\"channels\":[".to_vec();
    let mut union = Union::default();
    for (index, page) in pages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let watched = watched(service, page, members)?;
        let presence = events.map(|events| (events, &watched));
        service.push_channel(&mut out, page, members, viewer, presence);
        union.add(watched);
    }
    out.push(b']');
    if let Some(events) = events {
        json::push(&mut out, ",\"presence\":");
        push_watched(&mut out, events, &union.close());
    }
    out.push(b'}');
    Ok(out)
}

/// Whom a watch of one of the channels follows.
fn watched(service: &Service, page: &Page, members: usize) -> Result<Watched, Refusal> {
    if !service.channel_type(&page.key).presence {
        return Ok(Watched::default());
    }
    let watched = watch(&page.record.members, members, None)?;
    Ok(Watched { truncated: page.member_count > watched.users.len(), ..watched })
}

/// The watches of several channels as one: each user once.
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

    /// Whoever is left out of one channel and followed in another is not left out.
    fn close(mut self) -> Watched {
        let followed = self.followed;
        self.watched.not_watched.retain(|id| !followed.contains(id));
        self.watched
    }
}
