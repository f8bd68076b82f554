//! Changes to a user's own record.

use std::time::{Duration, SystemTime};

use chrono::DateTime;
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
pub struct Patch {
    fields: Map<String, Value>,
    /// The end of the status, if that was ahead when it was set.
    ends_at: Option<SystemTime>,
}

/// The longest time that the clock of this machine may be behind the service's.
const MAX_SKEW: Duration = Duration::from_secs(3600);

impl Patch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the status, or removes it with `None`. A status set so has no end.
    pub fn status<'a>(mut self, status: impl Into<Option<&'a str>>) -> Self {
        self.fields.insert("status".to_owned(), status.into().map_or(Value::Null, Value::from));
        self.fields.remove("status_expires_at");
        self.ends_at = None;
        self
    }

    /// Sets the status, and when it ends: RFC 3339, at most 366 days ahead. If it has ended before
    /// it could be sent, the status is removed.
    pub fn status_until(self, status: &str, expires_at: &str) -> Self {
        let mut patch = self.status(status);
        patch.fields.insert("status_expires_at".to_owned(), expires_at.into());
        let ends_at = DateTime::parse_from_rfc3339(expires_at).ok().map(SystemTime::from);
        patch.ends_at = ends_at.filter(|at| *at > wall_clock());
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
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// The patch for one user, for [`Service::upsert`](crate::Service::upsert).
    pub fn of(self, user: impl AsRef<str>) -> Result<UserPatch, Error> {
        Ok(UserPatch { id: Id::parse(user)?, patch: self })
    }

    /// Returns whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Takes in a later patch: what that names counts.
    pub(crate) fn merge(&mut self, later: Patch) {
        if later.fields.contains_key("status") {
            self.fields.remove("status_expires_at");
            self.ends_at = later.ends_at;
        }
        self.fields.extend(later.fields);
    }

    /// Forgets what was acknowledged, unless it was set again to something else meanwhile. A status
    /// and its end are one value: the same status without the end is another.
    pub(crate) fn acknowledge(&mut self, sent: &Patch) {
        let same = |name: &str| self.fields.get(name) == sent.fields.get(name);
        let same_status = same("status") && same("status_expires_at");
        self.fields.retain(|name, value| match name.as_str() {
            "status" | "status_expires_at" => !same_status,
            _ => sent.fields.get(name) != Some(value),
        });
    }

    /// Removes the status that was `sent` if it is refused as it has ended meanwhile; returns
    /// whether it is so.
    pub(crate) fn drop_ended(&mut self, sent: &Patch, refusal: &Error) -> bool {
        let names_the_end = refusal.field().is_some_and(|at| at.ends_with(".status_expires_at"));
        let has_ended = sent.ends_at.is_some_and(|at| at < wall_clock() + MAX_SKEW);
        if !names_the_end || !has_ended {
            return false;
        }
        if self.ends_at == sent.ends_at {
            *self = std::mem::take(self).status(None);
        }
        true
    }

    /// The patch as the fields of a user object.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        self.fields.clone()
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

/// The time of day, for the end of a status, which the application names by it. All else goes by the
/// monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the end of a status is a time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
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
        assert_eq!(pending.fields, Patch::new().status("here").fields);
        pending.acknowledge(&Patch::new().status("here"));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_status_that_has_ended_since_it_was_set_is_removed_and_nothing_else() {
        let refusal = |field: &str| {
            let error = serde_json::json!({"code": "invalid_request", "message": "m",
                "details": {"field": field}});
            Error::of_reply(None, &error)
        };
        let end = refusal("user.status_expires_at");
        let now = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap();
        let in_s = |s: i64| (DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(s)).to_rfc3339();
        let sent = Patch::new().status_until("lunch", &in_s(now + 2)).invisible(true);
        let mut pending = sent.clone();
        assert!(!pending.drop_ended(&sent, &refusal("user.status")));
        assert!(pending.drop_ended(&sent, &end));
        assert_eq!(pending, Patch::new().status(None).invisible(true));
        // Set meanwhile.
        let mut pending = sent.clone();
        pending.merge(Patch::new().status("back"));
        assert!(pending.drop_ended(&sent, &end));
        assert_eq!(pending, Patch::new().status("back").invisible(true));
        // The fault of the program.
        for wrong in [in_s(now - 2), in_s(now + 400 * 86_400), "tomorrow".to_owned()] {
            let sent = Patch::new().status_until("lunch", &wrong);
            assert!(!sent.clone().drop_ended(&sent, &end), "{wrong}");
        }
    }
}
