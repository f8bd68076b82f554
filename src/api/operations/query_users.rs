//! `query_users`: the users that match, as the viewer sees them, and what to subscribe to.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, wrong};
use crate::api::transport::responder::Responder;
use crate::presence::channel::Watched;
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::sort::Sort;
use crate::service::Service;
use crate::service::channels::push_watched;
use crate::service::query::UserQuery;

const MAX_LIMIT: u64 = 100;
const DEFAULT_LIMIT: u64 = 30;
const MAX_OFFSET: u64 = 1000;

/// A parsed `query_users`.
#[derive(Debug)]
pub struct QueryUsers {
    query: UserQuery,
    presence: bool,
    min_rev: Option<u64>,
}

impl QueryUsers {
    /// `body` is the text that `fields` were read from: the order of sort keys is only there.
    pub fn parse(mut fields: Fields, body: &[u8], door: &Door) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Users, &filter));
        let sort = fields.take("sort").and_then(|_| sort_text(body));
        let limit = fields.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let offset = fields.number("offset", 0..=MAX_OFFSET)?.unwrap_or(0);
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = door.viewer(fields.id("as")?)?;
        let min_rev = min_rev(&mut fields, door)?;
        fields.finish()?;
        let query = UserQuery {
            filter: filter.transpose()?,
            sort: Sort::parse(Kind::Users, sort.as_deref())?,
            limit: to_usize(limit),
            offset: to_usize(offset),
            viewer,
        };
        Ok(Self { query, presence, min_rev })
    }

    pub fn run(
        self,
        service: &Service,
        events: &str,
        door: Door,
        deadline_ms: u64,
        responder: Responder,
    ) {
        let Self { query, presence, min_rev } = self;
        let (then, events) = (service.clone(), presence.then(|| events.to_owned()));
        let all_stored = presence || !door.is_trusted();
        service.when_fresh(all_stored, min_rev, deadline_ms, move |fresh| {
            if let Err(refusal) = fresh {
                return responder.refuse(&refusal);
            }
            then.query_users(query, deadline_ms, move |found| {
                responder.result(found.map(|users| body(&users, events.as_deref())));
            });
        });
    }
}

/// Takes `min_rev`, which tells of others' hidden writes and is for trusted services only.
pub fn min_rev(fields: &mut Fields, door: &Door) -> Result<Option<u64>, Refusal> {
    let min_rev = fields.number("min_rev", 0..=u64::MAX)?;
    if min_rev.is_some() && !door.is_trusted() {
        return Err(wrong(
            "min_rev",
            "is for trusted services; this door always waits for all that is stored",
        ));
    }
    Ok(min_rev)
}

/// The text of the field `sort` of a request.
pub fn sort_text(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Sorted<'a> {
        #[serde(borrow)]
        sort: &'a RawValue,
    }
    serde_json::from_slice::<Sorted<'_>>(body).ok().map(|sorted| sorted.sort.get().to_owned())
}

pub fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn body(users: &[(Id, Vec<u8>)], events: Option<&str>) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(64 + users.iter().map(|(_, user)| user.len() + 64).sum::<usize>());
    json::push(&mut out, "{\"users\":");
    json::push_array(&mut out, users, |out, (_, user)| out.extend_from_slice(user));
    if let Some(events) = events {
        json::push(&mut out, ",\"presence\":");
        let users = users.iter().map(|(id, _)| id.clone()).collect();
        push_watched(&mut out, events, &Watched { users, ..Watched::default() });
    }
    out.push(b'}');
    out
}
