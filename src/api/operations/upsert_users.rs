//! `upsert_users`: a partial update of up to 100 users.

use serde_json::Value;

use super::writes::{self, Done, Gather};
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
use crate::api::transport::responder::Responder;
use crate::config::Limits;
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
    pub fn parse(mut fields: Fields, door: &Door, limits: &Limits) -> Result<Self, Refusal> {
        let path = fields.path("users");
        let values =
            fields.array("users", MAX_USERS)?.ok_or_else(|| missing(&path, "an array of users"))?;
        fields.finish()?;
        let parse = |(index, value): (usize, Value)| {
            let path = format!("{path}[{index}]");
            match value {
                Value::Object(user) => writes::user(&user, &path, door, &limits.trusted_fields),
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

    /// How many users are named.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// At most how many bytes the answer will have, without custom fields.
    pub fn answer_bytes(&self, service: &Service) -> usize {
        let user = |(user, patch): &(Id, Patch)| {
            2 * user.as_str().len() + 8 + writes::me_bytes(service, user, patch)
        };
        64 + self.users.iter().map(user).sum::<usize>()
    }

    /// What is to happen to which user.
    pub fn commands(self, custom_in_answer: bool) -> Vec<(Id, Command)> {
        let command = |(user, patch)| (user, Command::Upsert { patch, custom_in_answer });
        self.users.into_iter().map(command).collect()
    }

    pub fn run(self, service: &Service, door: Door, deadline_ms: u64, responder: Responder) {
        let commands = self.commands(true);
        if commands.is_empty() {
            let rev = service.store.context.barrier.position();
            return responder.ok(body(&[], Vec::new(), rev, &door));
        }
        if service.check(&commands).and_then(|bytes| responder.has_room_for(bytes)).is_ok() {
            return write(commands, service, door, deadline_ms, responder);
        }
        // Perhaps it is refused only by what this daemon has not seen yet.
        let then = service.clone();
        service.when_fresh(true, None, deadline_ms, move |fresh| {
            let checked = fresh.and_then(|()| then.check(&commands));
            match checked.and_then(|bytes| responder.has_room_for(bytes)) {
                Ok(()) => write(commands, &then, door, deadline_ms, responder),
                Err(refusal) => responder.refuse(&refusal),
            }
        });
    }
}

/// Writes users that were all found in order.
fn write(
    commands: Vec<(Id, Command)>,
    service: &Service,
    door: Door,
    deadline_ms: u64,
    responder: Responder,
) {
    let ids: Vec<_> = commands.iter().map(|(user, _)| user.clone()).collect();
    let gather =
        Gather::new(ids.len(), move |results| responder.result(answer(&ids, results, &door)));
    for (index, (user, command)) in commands.into_iter().enumerate() {
        service.command(user, command, deadline_ms, gather.place(index));
    }
}

/// The answer to an `upsert_users` of `ids` with those results.
pub fn answer(ids: &[Id], results: Vec<Done>, door: &Door) -> Result<Vec<u8>, Refusal> {
    if let Some(failure) = results.iter().find_map(|result| result.as_ref().err()) {
        let written = ids.iter().zip(&results).filter(|(_, result)| result.is_ok());
        return Err(writes::partly(failure, written.map(|(id, _)| id.clone())));
    }
    let answers: Vec<_> = results.into_iter().flatten().collect();
    let rev = answers.iter().map(|answer| answer.rev).max().unwrap_or(0);
    let users = answers.into_iter().map(|answer| match answer.outcome {
        Outcome::Upserted { me } => me,
        _ => Vec::new(),
    });
    Ok(body(ids, users.collect(), rev, door))
}

fn body(ids: &[Id], users: Vec<Vec<u8>>, rev: u64, door: &Door) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + 400 * ids.len());
    json::push(&mut out, "{\"users\":{");
    let mut first = true;
    for (index, (id, user)) in ids.iter().zip(users).enumerate() {
        // A user who is named twice is shown as the last of it left it.
        if ids[index + 1..].contains(id) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        json::push_str(&mut out, id.as_str());
        out.push(b':');
        out.extend_from_slice(&user);
    }
    out.push(b'}');
    writes::push_rev(&mut out, rev, door);
    out.push(b'}');
    out
}
