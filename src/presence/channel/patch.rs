//! A partial update of a channel's data.

use serde_json::{Map, Value};

use super::record::Record;
use crate::presence::custom::Changes;
use crate::presence::field::Kind;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};
use crate::presence::user::check_custom_name;

/// Data to change; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    /// `Some(None)` removes it.
    pub last_message_at: Option<Option<Time>>,
    pub custom: Changes,
}

impl Patch {
    /// Takes a channel's data out of a request. `path` is where it stands in it.
    pub fn parse(data: Map<String, Value>, path: &str) -> Result<Self, Refusal> {
        let mut patch = Self::default();
        for (name, value) in data {
            let field = format!("{path}.{name}");
            match (name.as_str(), value) {
                ("last_message_at", Value::Null) => patch.last_message_at = Some(None),
                ("last_message_at", value) => {
                    let time = value.as_str().and_then(Time::parse);
                    let time =
                        time.ok_or_else(|| wrong(&field, "takes an RFC 3339 time, or null"))?;
                    patch.last_message_at = Some(Some(time));
                }
                (name, _) if Kind::Channels.reserved().contains(&name) => {
                    return Err(wrong(&field, "is kept by the service and cannot be set here"));
                }
                (name, value) => {
                    check_custom_name(name, &field)?;
                    patch.custom.push((name.into(), (!value.is_null()).then_some(value)));
                }
            }
        }
        Ok(patch)
    }

    /// Applies the data; whether a value really changed.
    pub(super) fn apply(&self, record: &mut Record, now: Now) -> bool {
        let mut changed = false;
        if let Some(time) = self.last_message_at {
            // No time of a record moves backwards, but it may be taken away. One that lies far
            // ahead counts as absent.
            let old = record.last_message_at.filter(|old| old.counts_at(now.stream));
            let next = time.map(|time| old.map_or(time, |old| old.max(time)));
            changed |= next != record.last_message_at;
            record.last_message_at = next;
        }
        if let Some(custom) = record.custom.changed(&self.custom) {
            record.custom = custom;
            changed = true;
        }
        changed
    }
}

fn wrong(field: &str, what: &str) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("`{field}` {what}")).field(field)
}
