//! The parts that writing operations share: users in a request, and one answer to several commands.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Map, Value};

use super::context::Context;
use super::rules::RequestRules;
use crate::api::request::door::Door;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::user::{Command, Outcome, Patch, Users};
use crate::service::Service;
use crate::store::keyspace::CommandResult;
use crate::store::stripe::Answer;

/// Parses a user and its changed fields, which stand at `path` of a request.
pub fn user(
    fields: &Map<String, Value>,
    path: &str,
    rules: &RequestRules<'_>,
) -> Result<(Id, Patch), Refusal> {
    let id = rules.door.user(Patch::id(fields, path)?, &format!("{path}.id"))?;
    Ok((id, patch(fields, path, rules)?))
}

/// Parses the changed fields of a user, as far as the request may change them.
pub fn patch(
    fields: &Map<String, Value>,
    path: &str,
    rules: &RequestRules<'_>,
) -> Result<Patch, Refusal> {
    let patch = Patch::parse(fields, path)?;
    rules.check_custom(&patch.custom, path)?;
    rules.check_invisible(patch.invisible, path)?;
    Ok(patch)
}

/// Appends `,"rev":…` for trusted services only: a revision reveals invisible writes of others.
pub fn push_rev(out: &mut Vec<u8>, rev: u64, door: &Door) {
    if door.is_trusted() {
        json::push(out, ",\"rev\":");
        json::push_number(out, rev);
    }
}

/// An upper bound of a patched user in an answer, without custom fields, in bytes.
pub fn me_bytes(service: &Service, user: &Id, patch: &Patch) -> usize {
    let (stored_status, devices) = service.store.users.with_record(user, |record| {
        let Some(record) = record else { return (4, 0) };
        let devices = record.reachability().devices;
        let devices: usize = devices.iter().map(|device| device.len() + 3).sum();
        (record.status.as_deref().map_or(4, json::str_bytes), devices)
    });
    let status = match &patch.status {
        Some(status) => status.as_deref().map_or(4, json::str_bytes),
        None => stored_status,
    };
    // The names, times and numbers of a user, and one more device, take less than 512 bytes.
    512 + json::str_bytes(user.as_str()) + status + devices
}

/// Whether only the user itself may know of a connect or disconnect with this result. A refusal
/// does not show it; then the visibility before the command counts.
pub fn is_invisible(result: &CommandResult<Users>, was_invisible: bool) -> bool {
    match result {
        Ok(Answer { outcome, .. }) => matches!(
            outcome,
            Outcome::Connected { invisible: true, .. }
                | Outcome::ConnectionUpdated { invisible: true, .. }
                | Outcome::Disconnected { invisible: true, .. }
        ),
        Err(_) => was_invisible,
    }
}

/// The outcomes of several commands of one request, in order.
#[derive(Debug)]
pub struct Written {
    pub outcomes: Vec<(Id, Outcome)>,
    /// The revision at which the store shows all of them.
    pub rev: u64,
}

/// Submits all commands in order before it first awaits, then awaits their answers.
pub async fn submit(commands: Vec<(Id, Command)>, ctx: &Context) -> Result<Written, Refusal> {
    if commands.is_empty() {
        let rev = ctx.service.store.context.barrier.position();
        return Ok(Written { outcomes: Vec::new(), rev });
    }
    let (ids, answers): (Vec<_>, Vec<_>) = commands
        .into_iter()
        .map(|(user, command)| {
            let answer = ctx.service.command(user.clone(), command, ctx.deadline_ms);
            (user, answer)
        })
        .unzip();
    let results = join_all(answers).await;
    if let Some(failure) = results.iter().find_map(|result| result.as_ref().err()) {
        let written = ids.iter().zip(&results).filter(|(_, result)| result.is_ok());
        return Err(partly(failure, written.map(|(id, _)| id)));
    }
    let mut written = Written { outcomes: Vec::with_capacity(ids.len()), rev: 0 };
    for (id, answer) in ids.into_iter().zip(results.into_iter().flatten()) {
        written.rev = written.rev.max(answer.rev);
        written.outcomes.push((id, answer.outcome));
    }
    Ok(written)
}

/// The refusal of a request of which a part failed: the first failure, with the ids that are known
/// to be written.
fn partly<'a>(failure: &Refusal, written: impl Iterator<Item = &'a Id>) -> Refusal {
    let written: BTreeSet<_> = written.map(|id| id.as_str().to_owned()).collect();
    let mut refusal = failure.clone();
    if !written.is_empty() && !matches!(failure.code, Code::Contended | Code::Unavailable) {
        // The check passed, and others wrote in between. A repeat names what is wrong and changes
        // nothing.
        refusal = Refusal::new(
            Code::Contended,
            format!(
                "others changed a user at the same time, so that a part failed: {}",
                failure.message
            ),
        );
    }
    refusal.detail("written", written.into_iter().collect::<Vec<_>>())
}
