//! `upsert_users`: a partial update of up to 100 users.

use serde_json::Value;

use super::context::{Context, UsersShown};
use super::reply::Reply;
use super::rules::RequestRules;
use super::writes::{self, Written};
use crate::api::request::fields::{Fields, missing, wrong};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome, Patch};
use crate::service::Service;

/// The most users in one call.
const MAX_USERS: usize = 100;

/// A parsed `upsert_users`.
#[derive(Debug)]
pub struct UpsertUsers {
    users: Vec<(Id, Patch)>,
}

impl UpsertUsers {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let path = fields.path("users");
        let values =
            fields.array("users", MAX_USERS)?.ok_or_else(|| missing(&path, "an array of users"))?;
        fields.finish()?;
        let parse = |(index, value): (usize, Value)| {
            let path = format!("{path}[{index}]");
            match value {
                Value::Object(user) => writes::user(&user, &path, rules),
                _ => Err(wrong(&path, "takes an object")),
            }
        };
        let users = values.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { users })
    }

    /// The users that are named.
    pub fn named(&self) -> impl Iterator<Item = &Id> {
        self.users.iter().map(|(user, _)| user)
    }

    /// The number of users named.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// An upper bound of the answer without custom fields, in bytes.
    pub fn answer_bytes(&self, shows: UsersShown, service: &Service) -> usize {
        if shows == UsersShown::None {
            return 64;
        }
        let user = |(user, patch): &(Id, Patch)| {
            2 * user.as_str().len() + 8 + writes::me_bytes(service, user, patch)
        };
        64 + self.users.iter().map(user).sum::<usize>()
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.checked(ctx).await?.run(ctx).await
    }

    /// Refuses the whole request if one user of it would be refused.
    pub async fn checked(self, ctx: &Context) -> Result<CheckedUpsert, Refusal> {
        let custom_in_answer = ctx.shows.with_custom();
        let command = |(user, patch)| (user, Command::Upsert { patch, custom_in_answer });
        let commands = self.users.into_iter().map(command).collect();
        let checked = CheckedUpsert { commands };
        if checked.check(ctx).is_err() {
            // The reason may be a write that this daemon has not seen.
            ctx.service.all_stored(ctx.deadline_ms).await?;
            checked.check(ctx)?;
        }
        Ok(checked)
    }
}

/// An `upsert_users` of which no user is refused.
#[derive(Debug)]
pub struct CheckedUpsert {
    commands: Vec<(Id, Command)>,
}

impl CheckedUpsert {
    fn check(&self, ctx: &Context) -> Result<(), Refusal> {
        let bytes = ctx.service.check(&self.commands)?;
        if ctx.shows == UsersShown::None { Ok(()) } else { ctx.has_room_for(bytes) }
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        Ok(reply(writes::submit(self.commands, ctx).await?, ctx))
    }
}

fn reply(written: Written, ctx: &Context) -> Reply {
    let mut out = Vec::with_capacity(64 + 400 * written.outcomes.len());
    json::push(&mut out, "{\"users\":{");
    let mut first = true;
    let shown = if ctx.shows == UsersShown::None { &[] } else { written.outcomes.as_slice() };
    for (index, (id, outcome)) in shown.iter().enumerate() {
        // A user who is named twice is shown as the last change left it.
        if shown[index + 1..].iter().any(|(later, _)| later == id) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        json::push_str(&mut out, id.as_str());
        out.push(b':');
        if let Outcome::Upserted { me } = outcome {
            out.extend_from_slice(me);
        }
    }
    out.push(b'}');
    writes::push_rev(&mut out, written.rev, &ctx.door);
    out.push(b'}');
    out
}
