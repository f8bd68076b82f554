//! `delete_users`: removes up to 100 users, by id or by a filter.

use std::sync::Arc;

use super::context::Context;
use super::queries::to_usize;
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};

/// The most users in one call.
const MAX_USERS: usize = 100;

/// A parsed `delete_users`.
#[derive(Debug)]
pub enum DeleteUsers {
    Named(Vec<Id>),
    /// The first by id that match.
    Matching {
        filter: Arc<Filter>,
        limit: usize,
    },
}

impl DeleteUsers {
    pub fn parse(mut fields: Fields, _: &RequestRules<'_>) -> Result<Self, Refusal> {
        let ids = fields.ids("ids", MAX_USERS)?;
        let filter = fields.take("filter");
        let limit = fields.number("limit", 1..=MAX_USERS as u64)?.map(to_usize);
        fields.finish()?;
        match (ids, filter, limit) {
            (Some(ids), None, None) => Ok(Self::Named(ids)),
            (Some(_), Some(_), _) => Err(wrong("filter", "takes the place of `ids`; name one")),
            (Some(_), None, Some(_)) => Err(wrong("limit", "goes with `filter`")),
            (None, Some(filter), limit) => {
                let filter = Arc::new(Filter::parse(Kind::Users, &filter)?);
                Ok(Self::Matching { filter, limit: limit.unwrap_or(MAX_USERS) })
            }
            (None, None, _) => Err(missing("ids", "an array of user ids, or else `filter`")),
        }
    }

    /// The number of users named, or the most that match.
    pub fn len(&self) -> usize {
        match self {
            Self::Named(ids) => ids.len(),
            Self::Matching { limit, .. } => *limit,
        }
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        match self {
            Self::Named(ids) => {
                let delete = |user| (user, Command::Delete { only: None });
                answer(ids.into_iter().map(delete).collect(), false, ctx).await
            }
            Self::Matching { filter, limit } => {
                ctx.service.all_stored(ctx.deadline_ms).await?;
                let found = Arc::clone(&filter);
                // One more tells whether others match.
                let mut ids = ctx.service.find_to_erase(found, limit + 1, ctx.deadline_ms).await?;
                let more = ids.len() > limit;
                ids.truncate(limit);
                let delete = |user| (user, Command::Delete { only: Some(Arc::clone(&filter)) });
                answer(ids.into_iter().map(delete).collect(), more, ctx).await
            }
        }
    }
}

async fn answer(commands: Vec<(Id, Command)>, more: bool, ctx: &Context) -> Result<Reply, Refusal> {
    let written = writes::submit(commands, ctx).await?;
    let is_deleted = |(_, outcome): &(Id, Outcome)| *outcome == Outcome::Deleted(true);
    let deleted = written.outcomes.into_iter().filter(is_deleted);
    let mut out = b"{\"deleted\":".to_vec();
    json::push_array(&mut out, deleted, |out, (id, _)| json::push_str(out, id.as_str()));
    json::push(&mut out, ",\"more\":");
    json::push_bool(&mut out, more);
    writes::push_rev(&mut out, written.rev, &Door::Trusted);
    out.push(b'}');
    Ok(out)
}
