//! `query_users`: the users that match, as the viewer sees them, and the subjects to subscribe to.

use super::context::Context;
use super::queries::{Freshness, to_usize};
use super::reply::Reply;
use super::rules::RequestRules;
use crate::api::request::fields::Fields;
use crate::presence::channel::Watched;
use crate::presence::field::{Field, Kind};
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::sort::Sort;
use crate::service::channels::push_watched;
use crate::service::query::UserQuery;

const MAX_LIMIT: u64 = 100;
const DEFAULT_LIMIT: usize = 30;
const MAX_OFFSET: u64 = 1000;

/// A parsed `query_users`.
#[derive(Debug)]
pub struct QueryUsers {
    query: UserQuery,
    limit: usize,
    presence: bool,
    freshness: Freshness,
}

impl QueryUsers {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Users, &filter));
        let sort = fields.take("sort");
        let limit = fields.number("limit", 1..=MAX_LIMIT)?.map(to_usize);
        let offset = fields.number("offset", 0..=MAX_OFFSET)?.unwrap_or(0);
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = rules.door.viewer(fields.id("as")?)?;
        let freshness = Freshness::parse(&mut fields, presence, rules.door)?;
        fields.finish()?;
        let filter = filter.transpose()?;
        let limit = limit.unwrap_or_else(|| default_limit(filter.as_ref()));
        let query = UserQuery {
            filter,
            sort: Sort::parse(Kind::Users, sort.as_ref())?,
            // One more tells whether others match behind this page.
            limit: limit + 1,
            offset: to_usize(offset),
            viewer,
        };
        Ok(Self { query, limit, presence, freshness })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.freshness.wait(ctx).await?;
        let mut users = ctx.service.query_users(self.query, ctx.deadline_ms).await?;
        let more = users.len() > self.limit;
        users.truncate(self.limit);
        Ok(reply(&users, more, self.presence.then_some(&*ctx.event_prefix)))
    }
}

/// As many as the filter names in `id`, if those are more than the usual page.
fn default_limit(filter: Option<&Filter>) -> usize {
    let named = filter.and_then(|filter| filter.candidates(&Field::Id)).map_or(0, |ids| ids.len());
    named.clamp(DEFAULT_LIMIT, to_usize(MAX_LIMIT))
}

fn reply(users: &[(Id, Vec<u8>)], more: bool, event_prefix: Option<&str>) -> Reply {
    let mut out =
        Vec::with_capacity(64 + users.iter().map(|(_, user)| user.len() + 64).sum::<usize>());
    json::push(&mut out, "{\"users\":");
    json::push_array(&mut out, users, |out, (_, user)| out.extend_from_slice(user));
    json::push(&mut out, ",\"more\":");
    json::push_bool(&mut out, more);
    if let Some(event_prefix) = event_prefix {
        json::push(&mut out, ",\"presence\":");
        let users = users.iter().map(|(id, _)| id.clone()).collect();
        push_watched(&mut out, event_prefix, &Watched { users, ..Watched::default() }, None);
    }
    out.push(b'}');
    out
}
