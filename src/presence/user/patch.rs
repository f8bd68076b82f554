//! A partial update of a user: the fields that `connect` and `upsert_users` carry.

use serde_json::{Map, Value};

use super::record::Record;
use crate::presence::custom::Changes;
use crate::presence::field::Kind;
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// The longest status, in bytes of UTF-8.
pub const MAX_STATUS_BYTES: usize = 1024;

/// Fields to change; those that are absent stay as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    pub invisible: Option<bool>,
    /// `Some(None)` removes the status.
    pub status: Option<Option<Box<str>>>,
    pub custom: Changes,
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

    /// Applies `status` and the custom fields; whether a value really changed.
    pub(super) fn apply_fields(&self, record: &mut Record, now: Now) -> bool {
        let mut changed = false;
        if let Some(status) = &self.status
            && *status != record.status
        {
            record.status.clone_from(status);
            changed = true;
        }
        if let Some(custom) = record.custom.changed(&self.custom) {
            record.custom = custom;
            changed = true;
        }
        if changed {
            record.updated_at = record.updated_at.max(now.wall);
        }
        changed
    }

    /// The first custom field that only trusted services may set.
    pub fn forbidden<'a>(
        &'a self,
        trusted: &std::collections::BTreeSet<String>,
    ) -> Option<&'a str> {
        self.custom.iter().map(|(name, _)| &**name).find(|name| trusted.contains(*name))
    }
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
