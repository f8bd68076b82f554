//! `delete_users`: up to 100 users are removed.

use super::writes::{self, Done, Gather};
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing};
use crate::api::transport::responder::Responder;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};
use crate::service::Service;

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

    /// How many users are named.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn run(self, service: &Service, deadline_ms: u64, responder: Responder) {
        let ids = self.ids;
        if ids.is_empty() {
            return responder.ok(body(Vec::new(), service.store.context.barrier.position()));
        }
        let named = ids.clone();
        let gather =
            Gather::new(ids.len(), move |results| responder.result(answer(&named, results)));
        for (index, user) in ids.into_iter().enumerate() {
            service.command(user, Command::Delete, deadline_ms, gather.place(index));
        }
    }
}

fn answer(ids: &[Id], results: Vec<Done>) -> Result<Vec<u8>, Refusal> {
    if let Some(failure) = results.iter().find_map(|result| result.as_ref().err()) {
        let written = ids.iter().zip(&results).filter(|(_, result)| result.is_ok());
        return Err(writes::partly(failure, written.map(|(id, _)| id.clone())));
    }
    let mut rev = 0;
    let mut deleted = Vec::new();
    for (id, answer) in ids.iter().zip(results.into_iter().flatten()) {
        rev = rev.max(answer.rev);
        if answer.outcome == Outcome::Deleted(true) {
            deleted.push(id);
        }
    }
    Ok(body(deleted, rev))
}

fn body(deleted: Vec<&Id>, rev: u64) -> Vec<u8> {
    let mut out = b"{\"deleted\":".to_vec();
    json::push_array(&mut out, deleted, |out, id| json::push_str(out, id.as_str()));
    writes::push_rev(&mut out, rev, &Door::Trusted);
    out.push(b'}');
    out
}
