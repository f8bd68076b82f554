//! `delete_users`: removes up to 100 users.

use super::context::Context;
use super::reply::Reply;
use super::writes;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};

/// The most users in one call.
const MAX_USERS: usize = 100;

/// A parsed `delete_users`.
#[derive(Debug)]
pub struct DeleteUsers {
    ids: Vec<Id>,
}

impl DeleteUsers {
    pub fn parse(mut fields: Fields) -> Result<Self, Refusal> {
        let ids =
            fields.ids("ids", MAX_USERS)?.ok_or_else(|| missing("ids", "an array of user ids"))?;
        fields.finish()?;
        Ok(Self { ids })
    }

    /// The number of users named.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let commands = self.ids.into_iter().map(|user| (user, Command::Delete)).collect();
        let written = writes::submit(commands, ctx).await?;
        let is_deleted = |(_, outcome): &(Id, Outcome)| *outcome == Outcome::Deleted(true);
        let deleted = written.outcomes.into_iter().filter(is_deleted);
        let mut out = b"{\"deleted\":".to_vec();
        json::push_array(&mut out, deleted, |out, (id, _)| json::push_str(out, id.as_str()));
        writes::push_rev(&mut out, written.rev, &Door::Trusted);
        out.push(b'}');
        Ok(out)
    }
}
