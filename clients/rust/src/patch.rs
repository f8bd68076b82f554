//! Changes to a user's own record.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::id::Id;

/// The availability that a user chooses to show while online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// As the connections are: active, or away when all are idle.
    Auto,
    /// Away.
    Away,
    /// Busy.
    Busy,
}

impl Availability {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Away => "away",
            Self::Busy => "busy",
        }
    }
}

const RESERVED: [&str; 14] = [
    "id",
    "online",
    "status",
    "last_active",
    "offline_since",
    "availability",
    "availability_choice",
    "devices",
    "status_expires_at",
    "hide_last_active",
    "created_at",
    "updated_at",
    "version",
    "invisible",
];

/// A partial change of a user: what is not named stays as it is.
///
/// ```
/// use presenced_client::Patch;
/// let patch = Patch::new().status("in a meeting").set("room", 7)?.unset("seat")?;
/// # Ok::<(), presenced_client::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch(Map<String, Value>);

impl Patch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the status, or removes it with `None`. A status set so has no end.
    pub fn status<'a>(mut self, status: impl Into<Option<&'a str>>) -> Self {
        self.0.insert("status".to_owned(), status.into().map_or(Value::Null, Value::from));
        self.0.remove("status_expires_at");
        self
    }

    /// Sets the status, and when it ends: RFC 3339, at most 366 days ahead.
    pub fn status_until(self, status: &str, expires_at: &str) -> Self {
        let mut patch = self.status(status);
        patch.0.insert("status_expires_at".to_owned(), expires_at.into());
        patch
    }

    /// Hides the user from all others, or shows it again. It stays so over disconnects.
    pub fn invisible(self, invisible: bool) -> Self {
        self.put("invisible", invisible.into())
    }

    /// Hides `last_active` and `offline_since` from others, or shows them.
    pub fn hide_last_active(self, hide: bool) -> Self {
        self.put("hide_last_active", hide.into())
    }

    /// The availability that the user wants to show.
    pub fn availability(self, availability: Availability) -> Self {
        self.put("availability", availability.as_str().into())
    }

    /// Sets a custom field. Names of the contract, empty ones and such with `$` are refused.
    pub fn set(self, name: &str, value: impl Serialize) -> Result<Self, Error> {
        check_field(name)?;
        let value = serde_json::to_value(value)
            .map_err(|error| Error::invalid("invalid_request", &format!("`{name}`: {error}")))?;
        Ok(self.put(name, value))
    }

    /// Removes a custom field.
    pub fn unset(self, name: &str) -> Result<Self, Error> {
        check_field(name)?;
        Ok(self.put(name, Value::Null))
    }

    fn put(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// The patch for one user, for [`Service::upsert`](crate::Service::upsert).
    pub fn of(self, user: impl AsRef<str>) -> Result<UserPatch, Error> {
        Ok(UserPatch { id: Id::parse(user)?, patch: self })
    }

    /// Returns whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in a later patch: what that names counts.
    pub(crate) fn merge(&mut self, later: Patch) {
        if later.0.contains_key("status") {
            self.0.remove("status_expires_at");
        }
        self.0.extend(later.0);
    }

    /// Forgets what was acknowledged, unless it was set again to something else meanwhile. A status
    /// and its end are one value: the same status without the end is another.
    pub(crate) fn acknowledge(&mut self, sent: &Patch) {
        let same = |name: &str| self.0.get(name) == sent.0.get(name);
        let same_status = same("status") && same("status_expires_at");
        self.0.retain(|name, value| match name.as_str() {
            "status" | "status_expires_at" => !same_status,
            _ => sent.0.get(name) != Some(value),
        });
    }

    /// The patch as the fields of a user object.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        self.0.clone()
    }

    /// The fields that decide how the user appears: they must survive a record that is gone
    /// (`defaults`).
    pub(crate) fn defaults_from(me: &Map<String, Value>) -> Map<String, Value> {
        let mut defaults = Map::new();
        if me.get("invisible") == Some(&Value::Bool(true)) {
            defaults.insert("invisible".to_owned(), true.into());
        }
        match me.get("availability_choice").and_then(Value::as_str) {
            None | Some("auto") => {}
            Some(choice) => {
                defaults.insert("availability".to_owned(), choice.into());
            }
        }
        defaults
    }
}

/// A [`Patch`] of a named user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserPatch {
    id: Id,
    patch: Patch,
}

impl UserPatch {
    pub(crate) fn body(&self) -> Value {
        let mut fields = self.patch.fields();
        fields.insert("id".to_owned(), self.id.as_str().into());
        Value::Object(fields)
    }
}

fn check_field(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.starts_with('$') || RESERVED.contains(&name) {
        let message = format!("`{name}` is no name of a custom field");
        return Err(Error::invalid("invalid_request", &message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_forgotten_key_by_key() {
        let sent = Patch::new().status("here").set("room", 7).unwrap().set("seat", 1).unwrap();
        let mut pending = sent.clone();
        pending.merge(Patch::new().set("seat", 2).unwrap());
        pending.acknowledge(&sent);
        assert_eq!(pending, Patch::new().set("seat", 2).unwrap());
    }

    #[test]
    fn the_same_status_without_its_end_is_another() {
        let sent = Patch::new().status_until("here", "2031-01-01T00:00:00Z");
        let mut pending = sent.clone();
        pending.merge(Patch::new().status("here"));
        pending.acknowledge(&sent);
        assert_eq!(pending, Patch::new().status("here"));
        pending.acknowledge(&Patch::new().status("here"));
        assert!(pending.is_empty());
    }
}
