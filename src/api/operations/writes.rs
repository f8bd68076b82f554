//! What the operations that write have in common: the users they name, and the answers of several
//! commands gathered into one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::api::request::door::Door;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::user::{Outcome, Patch, Users};
use crate::service::Service;
use crate::store::keyspace::Reply;
use crate::store::stripe::Answer;

/// A user and the fields to change, as they stand at `path` of a request.
pub fn user(
    fields: &Map<String, Value>,
    path: &str,
    door: &Door,
    trusted_fields: &BTreeSet<String>,
) -> Result<(Id, Patch), Refusal> {
    let id = door.user(Patch::id(fields, path)?, &format!("{path}.id"))?;
    let patch = Patch::parse(fields, path)?;
    if !door.is_trusted()
        && let Some(name) = patch.forbidden(trusted_fields)
    {
        let field = format!("{path}.{name}");
        let message = format!("`{field}` can be set only by trusted services");
        return Err(Refusal::new(Code::ForbiddenField, message).field(field));
    }
    Ok((id, patch))
}

/// Appends `,"rev":…`, which only trusted services are told: it would tell of others' invisible
/// writes.
pub fn push_rev(out: &mut Vec<u8>, rev: u64, door: &Door) {
    if door.is_trusted() {
        json::push(out, ",\"rev\":");
        json::push_number(out, rev);
    }
}

/// At most how many bytes a user takes in an answer after a patch, without custom fields.
pub fn me_bytes(service: &Service, user: &Id, patch: &Patch) -> usize {
    let json_bytes = |text: &str| {
        let mut out = Vec::new();
        json::push_str(&mut out, text);
        out.len()
    };
    let status = match &patch.status {
        Some(status) => status.as_deref().map_or(4, json_bytes),
        None => service.store.users.with_record(user, |record| {
            record.and_then(|record| record.status.as_deref()).map_or(4, json_bytes)
        }),
    };
    // The names, times and numbers of a user take less than 256 bytes.
    256 + json_bytes(user.as_str()) + status
}

/// What became of one command.
pub type Done = Result<Answer<Outcome>, Refusal>;

/// Whether nobody but the user may know of a connect or disconnect that came to this. A refusal does
/// not tell; then it counts whether the user was invisible before.
pub fn is_invisible(result: &Done, was_invisible: bool) -> bool {
    match result {
        Ok(Answer { outcome, .. }) => matches!(
            outcome,
            Outcome::Connected { invisible: true, .. }
                | Outcome::Disconnected { invisible: true, .. }
        ),
        Err(_) => was_invisible,
    }
}

/// Gathers the answers of several commands, in their order.
pub struct Gather {
    inner: Mutex<Gathered>,
}

struct Gathered {
    results: Vec<Option<Done>>,
    missing: usize,
    then: Option<Box<dyn FnOnce(Vec<Done>) + Send>>,
}

impl Gather {
    /// Awaits `count` answers and then calls `then` with them.
    pub fn new(count: usize, then: impl FnOnce(Vec<Done>) + Send + 'static) -> Arc<Self> {
        let results = (0..count).map(|_| None).collect();
        Arc::new(Self {
            inner: Mutex::new(Gathered { results, missing: count, then: Some(Box::new(then)) }),
        })
    }

    /// The place for the answer of command `index`.
    pub fn place(self: &Arc<Self>, index: usize) -> Reply<Users> {
        let this = Arc::clone(self);
        Box::new(move |result| this.put(index, result))
    }

    fn put(&self, index: usize, result: Done) {
        let complete = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.results[index] = Some(result);
            inner.missing -= 1;
            if inner.missing > 0 {
                return;
            }
            let results = std::mem::take(&mut inner.results);
            inner.then.take().map(|then| (then, results))
        };
        if let Some((then, results)) = complete {
            then(results.into_iter().flatten().collect());
        }
    }
}

/// The refusal of a whole request of which a part failed: the first failure, with the ids that are
/// known to be written.
pub fn partly(failure: &Refusal, written: impl Iterator<Item = Id>) -> Refusal {
    let written: BTreeSet<_> = written.map(|id| id.as_str().to_owned()).collect();
    let mut refusal = failure.clone();
    if !written.is_empty() && !matches!(failure.code, Code::Contended | Code::Unavailable) {
        // All was in order when it was checked, and others came in between: a repeat will say
        // what is wrong and change nothing.
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
