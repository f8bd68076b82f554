//! `query_users`: the users that match, as the viewer sees them, and the subjects to subscribe to.

use super::context::Context;
use super::queries::{Freshness, sort_text, to_usize};
use super::reply::Reply;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::presence::channel::Watched;
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::sort::Sort;
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
    freshness: Freshness,
}

impl QueryUsers {
    /// Parses `fields`, which were read from `body`: only the text has the order of sort keys.
    pub fn parse(mut fields: Fields, body: &[u8], door: &Door) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Users, &filter));
        let sort = fields.take("sort").and_then(|_| sort_text(body));
        let limit = fields.number("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let offset = fields.number("offset", 0..=MAX_OFFSET)?.unwrap_or(0);
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = door.viewer(fields.id("as")?)?;
        let freshness = Freshness::parse(&mut fields, presence, door)?;
        fields.finish()?;
        let query = UserQuery {
            filter: filter.transpose()?,
            sort: Sort::parse(Kind::Users, sort.as_deref())?,
            limit: to_usize(limit),
            offset: to_usize(offset),
            viewer,
        };
        Ok(Self { query, presence, freshness })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.freshness.wait(ctx).await?;
        let users = ctx.service.query_users(self.query, ctx.deadline_ms).await?;
        Ok(reply(&users, self.presence.then_some(&*ctx.event_prefix)))
    }
}

fn reply(users: &[(Id, Vec<u8>)], event_prefix: Option<&str>) -> Reply {
    let mut out =
        Vec::with_capacity(64 + users.iter().map(|(_, user)| user.len() + 64).sum::<usize>());
    json::push(&mut out, "{\"users\":");
    json::push_array(&mut out, users, |out, (_, user)| out.extend_from_slice(user));
    if let Some(event_prefix) = event_prefix {
        json::push(&mut out, ",\"presence\":");
        let users = users.iter().map(|(id, _)| id.clone()).collect();
        push_watched(&mut out, event_prefix, &Watched { users, ..Watched::default() });
    }
    out.push(b'}');
    out
}
