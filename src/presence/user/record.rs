//! The private record of a user, and the JSON text under which it is stored
//! (`PROTOCOL`, section 6).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::own_leases::ConnectionGen;
use crate::presence::custom::{Custom, Unknown};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::Time;

/// The schema number of the records that this version writes and reads.
const SCHEMA: u64 = 1;

/// All that is known of a user. Only the projection decides what of it anyone sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub created_at: Time,
    /// When `status` or a custom field last changed its value.
    pub updated_at: Time,
    /// Grows with every change of what others see of `online` or `status`.
    pub version: u64,
    /// Who made the change that `version` counts.
    pub changed_by: Option<DaemonId>,
    /// When the user was last active, in truth.
    pub last_active: Option<Time>,
    /// The `last_active` that others see: frozen while the user is invisible.
    pub shown_last_active: Option<Time>,
    pub invisible: bool,
    pub status: Option<Box<str>>,
    pub custom: Custom,
    pub connections: Vec<Connection>,
    /// How often any connection connected: what a connection's own count goes on from, so that one
    /// that ended and came again is not taken for what it was.
    pub generation: u64,
    /// The end of the last connection, while the user is still shown online for a moment. It
    /// identifies the grace; how long it lasts is measured by whoever watches it.
    pub grace_since: Option<Time>,
    /// Members of the stored object that this version does not know, kept as they are.
    pub unknown: Option<Box<str>>,
}

/// One connection of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    pub id: Id,
    /// The shared lease that keeps it alive; `None` if its own heartbeats do.
    pub lease: Option<Id>,
    /// which of the generations was its last. Only its own `connect` moves it, so whoever sees it
    /// move has heard from the client.
    pub generation: u64,
    /// As [`Record::unknown`].
    pub unknown: Option<Box<str>>,
}

impl Record {
    /// A user that was just made, at `now`, in the place of one that left `version` behind. Its
    /// generations are counted from there, or an end that was meant for the one before could fit.
    pub fn new(now: Time, version: u64) -> Self {
        Self {
            created_at: now,
            updated_at: now,
            version,
            changed_by: None,
            last_active: None,
            shown_last_active: None,
            invisible: false,
            status: None,
            custom: Custom::default(),
            connections: Vec::new(),
            generation: version,
            grace_since: None,
            unknown: None,
        }
    }

    /// Whether the user is online in truth.
    pub fn is_online(&self) -> bool {
        !self.connections.is_empty() || self.grace_since.is_some()
    }

    /// The `last_active` that must not grow old while the user is connected: that which all see, or,
    /// while the user is invisible, the one that it sees itself. They may differ where a clock was
    /// put back, and what was done in hiding must not move what is refreshed visibly.
    pub fn refreshed_last_active(&self) -> Option<Time> {
        if self.invisible { self.last_active } else { self.shown_last_active }
    }

    /// The connections that hang on a shared lease.
    pub fn generations_on(&self, lease: &Id) -> Vec<ConnectionGen> {
        let held = self.connections.iter().filter(|each| each.lease.as_ref() == Some(lease));
        let connection_gen = |each: &Connection| ConnectionGen {
            connection: each.id.clone(),
            generation: each.generation,
        };
        held.map(connection_gen).collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        json::push(&mut out, "{\"v\":1");
        push_member(&mut out, "created_at", self.created_at.0);
        push_member(&mut out, "updated_at", self.updated_at.0);
        push_member(&mut out, "version", self.version);
        if let Some(daemon) = self.changed_by {
            json::push(&mut out, ",\"changed_by\":");
            json::push_str(&mut out, &daemon.to_string());
        }
        if let Some(time) = self.last_active {
            push_member(&mut out, "last_active", time.0);
        }
        if let Some(time) = self.shown_last_active {
            push_member(&mut out, "shown_last_active", time.0);
        }
        if self.invisible {
            json::push(&mut out, ",\"invisible\":true");
        }
        if let Some(status) = &self.status {
            json::push(&mut out, ",\"status\":");
            json::push_str(&mut out, status);
        }
        if !self.custom.is_empty() {
            json::push(&mut out, ",\"custom\":{");
            json::push(&mut out, self.custom.as_members());
            out.push(b'}');
        }
        if !self.connections.is_empty() {
            json::push(&mut out, ",\"connections\":");
            json::push_array(&mut out, &self.connections, |out, c| c.push(out));
        }
        if self.generation > last_connect(&self.connections) {
            push_member(&mut out, "connects", self.generation);
        }
        if let Some(time) = self.grace_since {
            push_member(&mut out, "grace_since", time.0);
        }
        push_unknown(&mut out, self.unknown.as_deref());
        out.push(b'}');
        out
    }

    pub fn decode(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}

impl Connection {
    fn push(&self, out: &mut Vec<u8>) {
        json::push(out, "{\"id\":");
        json::push_str(out, self.id.as_str());
        if let Some(lease) = &self.lease {
            json::push(out, ",\"lease\":");
            json::push_str(out, lease.as_str());
        }
        push_member(out, "connects", self.generation);
        push_unknown(out, self.unknown.as_deref());
        out.push(b'}');
    }
}

/// The last connect of any of these connections. What is no more than that is not stored.
fn last_connect(connections: &[Connection]) -> u64 {
    connections.iter().map(|each| each.generation).max().unwrap_or(0)
}

fn push_member(out: &mut Vec<u8>, name: &str, number: impl Into<i128>) {
    out.push(b',');
    json::push_str(out, name);
    out.push(b':');
    json::push_number(out, number);
}

fn push_unknown(out: &mut Vec<u8>, members: Option<&str>) {
    if let Some(members) = members {
        out.push(b',');
        json::push(out, members);
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the record of a user")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut record = Record::new(Time(0), 0);
                let (mut schema, mut created) = (None, false);
                let mut unknown = Unknown::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "v" => schema = Some(map.next_value::<u64>()?),
                        "created_at" => {
                            record.created_at = Time(map.next_value()?);
                            created = true;
                        }
                        "updated_at" => record.updated_at = Time(map.next_value()?),
                        "version" => record.version = map.next_value()?,
                        "changed_by" => {
                            record.changed_by =
                                DaemonId::parse(&map.next_value::<Cow<'de, str>>()?);
                        }
                        "last_active" => record.last_active = Some(Time(map.next_value()?)),
                        "shown_last_active" => {
                            record.shown_last_active = Some(Time(map.next_value()?));
                        }
                        "invisible" => record.invisible = map.next_value()?,
                        "status" => record.status = Some(map.next_value()?),
                        "custom" => {
                            let values: std::collections::BTreeMap<String, Value> =
                                map.next_value()?;
                            record.custom = Custom::from_values(&values);
                        }
                        "connections" => record.connections = map.next_value()?,
                        "connects" => record.generation = map.next_value()?,
                        "grace_since" => record.grace_since = Some(Time(map.next_value()?)),
                        _ => unknown.add(&name, map.next_value::<&RawValue>()?),
                    }
                }
                match schema {
                    Some(SCHEMA) if created => {}
                    Some(SCHEMA) => return Err(A::Error::missing_field("created_at")),
                    Some(other) => {
                        return Err(A::Error::custom(format_args!(
                            "it has schema {other}, and this version reads schema {SCHEMA}"
                        )));
                    }
                    None => return Err(A::Error::missing_field("v")),
                }
                record.generation = record.generation.max(last_connect(&record.connections));
                record.unknown = unknown.into_members();
                Ok(record)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Connection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Connection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a connection")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Connection, A::Error> {
                let (mut id, mut lease, mut generation) = (None, None, 0);
                let mut unknown = Unknown::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "id" => {
                            id = Some(stored_id::<A::Error>(&map.next_value::<Cow<'de, str>>()?)?)
                        }
                        "lease" => {
                            lease =
                                Some(stored_id::<A::Error>(&map.next_value::<Cow<'de, str>>()?)?);
                        }
                        "connects" => generation = map.next_value()?,
                        _ => unknown.add(&name, map.next_value::<&RawValue>()?),
                    }
                }
                let id = id.ok_or_else(|| A::Error::missing_field("id"))?;
                Ok(Connection { id, lease, generation, unknown: unknown.into_members() })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn stored_id<E: Error>(text: &str) -> Result<Id, E> {
    Id::parse(text, "id").map_err(|refusal| E::custom(refusal.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_not_know_is_kept() {
        let text = br#"{"v":1,"created_at":5,"updated_at":6,"version":7,"mood":{"b":[1, 2]},
            "connections":[{"id":"c","connects":2,"via":"tls"}],"custom":{"z":1,"a":"x"}}"#;
        let record = Record::decode(text).unwrap();
        let again = String::from_utf8(record.encode()).unwrap();
        assert!(again.contains(r#""mood":{"b":[1, 2]}"#), "{again}");
        assert!(again.contains(r#""via":"tls""#), "{again}");
        assert!(again.contains(r#""custom":{"a":"x","z":1}"#), "{again}");
        assert_eq!(Record::decode(again.as_bytes()).unwrap(), record);
    }

    #[test]
    fn another_schema_or_another_thing_is_not_read() {
        for text in [
            r#"{"v":2,"created_at":5}"#,
            r#"{"created_at":5}"#,
            r#"{"v":1}"#,
            r#"[]"#,
            r#"hello"#,
            "",
            r#"{"v":1,"created_at":5,"connections":[{"id":""}]}"#,
        ] {
            assert!(Record::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
