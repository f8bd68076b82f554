//! The connections of a user: live ones, and those that are leaving.

use serde::{Deserialize, Serialize};

use crate::presence::id::{Id, shared as shared_lease};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Time;

/// The longest name of a kind of device, in bytes.
const MAX_DEVICE_BYTES: usize = 32;

/// The kind of device that a connection comes from: 1 to 32 of `[a-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device(Box<str>);

impl Device {
    /// Accepts `text` if it names a kind of device; `field` is what the error names.
    pub fn parse(text: &str, field: &str) -> Result<Self, Refusal> {
        let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if (1..=MAX_DEVICE_BYTES).contains(&text.len()) && text.bytes().all(fits) {
            return Ok(Self(text.into()));
        }
        Err(Refusal::at(Code::InvalidRequest, field, "takes 1 to 32 characters of [a-z0-9_-]"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One live connection of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    pub id: Id,
    /// The shared lease that keeps it alive; `None` if its own heartbeats do.
    #[serde(with = "shared_lease")]
    pub lease: Option<Id>,
    pub device: Option<Device>,
    /// Whether the client reports its user as idle.
    pub idle: bool,
    /// The generation of its last connect. Only its own `connect` changes it, so that a change is a
    /// sign of life of the client.
    pub generation: u64,
    /// Members of the stored object that this version does not know, kept as they are.
    pub unknown: Option<Box<str>>,
}

/// A connection at a moment of its life: its next `connect` makes it another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionGen {
    pub connection: Id,
    pub generation: u64,
}

/// A connection that ended and counts as before for a grace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leaving {
    /// `None` if written by a daemon that knew only graces of users.
    pub connection: Option<Id>,
    pub device: Option<Device>,
    pub idle: bool,
    pub generation: u64,
    /// The time at which it ended. How long it stays is measured by the daemons, on their own
    /// clocks.
    pub since: Time,
    /// The time for which it stays, if not for `offline_grace`.
    pub grace_ms: Option<u64>,
    /// As [`Connection::unknown`].
    pub unknown: Option<Box<str>>,
}

impl Leaving {
    pub fn new(connection: Connection, since: Time, grace_ms: Option<u64>) -> Self {
        let Connection { id, device, idle, generation, unknown, lease: _ } = connection;
        Self { connection: Some(id), device, idle, generation, since, grace_ms, unknown }
    }

    /// The end of the last connection, as written by a daemon that knew only graces of users.
    pub fn of_user(since: Time, generation: u64) -> Self {
        Self {
            connection: None,
            device: None,
            idle: false,
            generation,
            since,
            grace_ms: None,
            unknown: None,
        }
    }

    /// The key that tells the connection from every other one of the user.
    pub fn key(&self) -> LeavingKey {
        LeavingKey {
            connection: self.connection.clone(),
            generation: self.generation,
            since: self.since,
        }
    }
}

/// Names one leaving connection of a user: a connection that came back and left again is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingKey {
    pub connection: Option<Id>,
    pub generation: u64,
    pub since: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaving_connection_keeps_what_this_version_does_not_know() {
        let id = Id::parse("c", "id").unwrap();
        let unknown: Option<Box<str>> = Some(r#""via":"tls""#.into());
        let connection = Connection {
            id,
            lease: None,
            device: None,
            idle: true,
            generation: 3,
            unknown: unknown.clone(),
        };
        assert_eq!(Leaving::new(connection, Time(5), None).unknown, unknown);
    }
}
