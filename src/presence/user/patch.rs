//! A partial update of a user: the fields that `connect` and `upsert_users` carry.

use serde_json::{Map, Value};

use super::availability::Choice;
use super::record::Record;
use crate::presence::custom::Changes;
use crate::presence::field::Kind;
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};

/// The longest status, in bytes of UTF-8.
pub const MAX_STATUS_BYTES: usize = 1024;

/// How far ahead the end of a status may be, in milliseconds: 366 days.
const MAX_STATUS_MS: i64 = 366 * 24 * 3_600_000;

/// Fields to change; those that are absent stay as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    pub invisible: Option<bool>,
    pub hide_last_active: Option<bool>,
    pub choice: Option<Choice>,
    /// `Some(None)` removes the status.
    pub status: Option<Option<Box<str>>>,
    /// `Some(None)` removes the end of the status.
    pub status_expires_at: Option<Option<StatusEnd>>,
    pub custom: Changes,
}

/// The end of a status, as requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusEnd {
    pub at: Time,
    /// Where it stands in the request, for errors.
    pub field: Box<str>,
}

impl Patch {
    /// The id that the fields of a user name, if they name one.
    pub fn id(fields: &Map<String, Value>, path: &str) -> Result<Option<Id>, Refusal> {
        match fields.get("id") {
            None => Ok(None),
            Some(Value::String(id)) => Id::parse(id, &format!("{path}.id")).map(Some),
            Some(_) => Err(wrong(format!("{path}.id"), "takes a string")),
        }
    }

    /// Takes the user's fields out of a request, `id` excepted. `path` is where they stand in it.
    pub fn parse(fields: &Map<String, Value>, path: &str) -> Result<Self, Refusal> {
        let mut patch = Self::default();
        for (name, value) in fields {
            let field = || format!("{path}.{name}");
            match (name.as_str(), value) {
                ("id", _) => {}
                ("invisible", Value::Bool(invisible)) => patch.invisible = Some(*invisible),
                ("invisible", _) => return Err(wrong(field(), "takes only true and false")),
                ("hide_last_active", Value::Bool(hide)) => patch.hide_last_active = Some(*hide),
                ("hide_last_active", _) => return Err(wrong(field(), "takes only true and false")),
                ("availability", value) => {
                    let choice = value.as_str().and_then(Choice::parse);
                    let takes = "takes only \"auto\", \"away\" and \"busy\"";
                    patch.choice = Some(choice.ok_or_else(|| wrong(field(), takes))?);
                }
                ("status_expires_at", Value::Null) => patch.status_expires_at = Some(None),
                ("status_expires_at", value) => {
                    let time = value.as_str().and_then(Time::parse);
                    let takes = "takes an RFC 3339 time, or null";
                    let at = time.ok_or_else(|| wrong(field(), takes))?;
                    patch.status_expires_at = Some(Some(StatusEnd { at, field: field().into() }));
                }
                ("status", Value::Null) => patch.status = Some(None),
                ("status", Value::String(status)) if status.len() > MAX_STATUS_BYTES => {
                    return Err(Refusal::new(
                        Code::TooLarge,
                        format!(
                            "`{}` has {} bytes, and at most {MAX_STATUS_BYTES} are accepted",
                            field(),
                            status.len()
                        ),
                    )
                    .field(field())
                    .limit(MAX_STATUS_BYTES as u64));
                }
                ("status", Value::String(status)) => {
                    patch.status = Some(Some(status.as_str().into()));
                }
                ("status", _) => {
                    return Err(wrong(field(), "takes a string, or null to remove it"));
                }
                (name, _) if Kind::Users.reserved().contains(&name) => {
                    return Err(wrong(field(), "is kept by the service and cannot be set"));
                }
                (name, value) => {
                    check_custom_name(name, &field())?;
                    let value = (!value.is_null()).then(|| value.clone());
                    patch.custom.push((name.into(), value));
                }
            }
        }
        Ok(patch)
    }

    /// Applies all fields but `invisible`; whether anything really changed.
    pub(super) fn apply(&self, record: &mut Record, now: Now) -> Result<bool, Refusal> {
        let settings = (record.hide_last_active, record.choice, record.status_expires_at);
        record.hide_last_active = self.hide_last_active.unwrap_or(record.hide_last_active);
        record.choice = self.choice.unwrap_or(record.choice);
        let mut changed = false;
        if let Some(status) = &self.status {
            changed = *status != record.status;
            record.status.clone_from(status);
            // A status that comes without an end has none.
            record.status_expires_at = None;
        }
        if let Some(end) = &self.status_expires_at {
            if let Some(end) = end {
                check_end(end, record, now)?;
            }
            record.status_expires_at = end.as_ref().map(|end| end.at);
        }
        if let Some(custom) = record.custom.changed(&self.custom) {
            record.custom = custom;
            changed = true;
        }
        if changed {
            record.updated_at = now.latest(Some(record.updated_at));
        }
        Ok(changed
            || settings != (record.hide_last_active, record.choice, record.status_expires_at))
    }
}

/// Refuses what cannot be the end of the status of `record`.
fn check_end(end: &StatusEnd, record: &Record, now: Now) -> Result<(), Refusal> {
    let StatusEnd { at: end, field } = end;
    let flaw = if record.status.is_none() {
        "is the end of a status, and there is none"
    } else if *end <= now.stream {
        "takes a time in the future"
    } else if end.0 > now.stream.0.saturating_add(MAX_STATUS_MS) {
        "takes a time at most 366 days ahead"
    } else {
        return Ok(());
    };
    Err(wrong(field.to_string(), flaw))
}

/// Refuses what cannot be the name of a custom field.
pub fn check_custom_name(name: &str, field: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.starts_with('$') {
        return Err(wrong(
            field.to_owned(),
            "is no name of a custom field: it must not be empty or begin with `$`",
        ));
    }
    Ok(())
}

fn wrong(field: String, what: &str) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("`{field}` {what}")).field(field)
}
