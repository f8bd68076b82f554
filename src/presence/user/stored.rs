//! The JSON text under which a user is stored (`PROTOCOL`, section 6).
//!
//! Older daemons read what this one writes, and the other way round. They know of one grace of a
//! user (`grace_since`) and keep `leaving` as it is:
//!
//! - While no connection is live and some are leaving, `grace_since` is written too; an older
//!   daemon ends it, and thereby all of them.
//! - A `grace_since` that no leaving connection has was written by an older daemon, and counts as
//!   one leaving connection.
//! - Leaving connections without a live one and without `grace_since` were ended by an older daemon.
//! - An older daemon changes `status` and keeps `status_end`, which therefore names its status.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize as DeriveDeserialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::availability::Choice;
use super::connection::{Connection, Device, Leaving};
use super::record::Record;
use crate::presence::custom::{Custom, Unknown};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::Time;

/// The schema number of the records that this version writes and reads.
const SCHEMA: u64 = 1;

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        json::push(&mut out, "{\"v\":1");
        push_member(&mut out, "created_at", self.created_at.0);
        push_member(&mut out, "updated_at", self.updated_at.0);
        push_member(&mut out, "version", self.version);
        if let Some(daemon) = self.changed_by {
            push_text(&mut out, "changed_by", &daemon.to_string());
        }
        if let Some(time) = self.last_active {
            push_member(&mut out, "last_active", time.0);
        }
        if let Some(time) = self.shown_last_active {
            push_member(&mut out, "shown_last_active", time.0);
        }
        if let Some(time) = self.offline_since {
            push_member(&mut out, "offline_since", time.0);
        }
        if let Some(time) = self.shown_offline_since {
            push_member(&mut out, "shown_offline_since", time.0);
        }
        if let Some(time) = self.settings_at {
            push_member(&mut out, "settings_at", time.0);
        }
        if self.invisible {
            json::push(&mut out, ",\"invisible\":true");
        }
        if self.hide_last_active {
            json::push(&mut out, ",\"hide_last_active\":true");
        }
        if self.choice != Choice::Auto {
            push_text(&mut out, "availability_choice", self.choice.name());
        }
        if let Some(status) = &self.status {
            push_text(&mut out, "status", status);
            if let Some(time) = self.status_expires_at {
                json::push(&mut out, ",\"status_end\":{\"at\":");
                json::push_number(&mut out, time.0);
                push_text(&mut out, "status", status);
                out.push(b'}');
            }
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
        if !self.leaving.is_empty() {
            json::push(&mut out, ",\"leaving\":");
            json::push_array(&mut out, &self.leaving, |out, each| each.push(out));
        }
        if let Some(time) = self.grace_since() {
            push_member(&mut out, "grace_since", time.0);
        }
        push_unknown(&mut out, self.unknown.as_deref());
        out.push(b'}');
        out
    }

    pub fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text).map(|FromJson(record)| record)
    }

    /// What an older daemon takes for the end of the last connection.
    fn grace_since(&self) -> Option<Time> {
        let newest = self.leaving.iter().map(|each| each.since).max();
        newest.filter(|_| self.connections.is_empty())
    }

    /// Makes of what an older daemon may have written what it means.
    fn reconcile(&mut self, grace_since: Option<Time>) {
        if self.invisible || (self.connections.is_empty() && grace_since.is_none()) {
            self.leaving.clear();
        } else if let Some(since) = grace_since
            && self.leaving.iter().all(|each| each.since != since)
        {
            self.leaving.push(Leaving::of_user(since, self.generation));
        }
    }
}

impl Connection {
    fn push(&self, out: &mut Vec<u8>) {
        json::push(out, "{\"id\":");
        json::push_str(out, self.id.as_str());
        if let Some(lease) = &self.lease {
            push_text(out, "lease", lease.as_str());
        }
        push_kind(out, self.device.as_ref(), self.idle);
        push_member(out, "connects", self.generation);
        push_unknown(out, self.unknown.as_deref());
        out.push(b'}');
    }
}

impl Leaving {
    fn push(&self, out: &mut Vec<u8>) {
        json::push(out, "{\"since\":");
        json::push_number(out, self.since.0);
        if let Some(connection) = &self.connection {
            push_text(out, "id", connection.as_str());
        }
        push_kind(out, self.device.as_ref(), self.idle);
        if let Some(grace_ms) = self.grace_ms {
            push_member(out, "grace_ms", grace_ms);
        }
        push_member(out, "connects", self.generation);
        push_unknown(out, self.unknown.as_deref());
        out.push(b'}');
    }
}

/// Read from the stored JSON text.
struct FromJson<T>(T);

fn list<T>(items: Vec<FromJson<T>>) -> Vec<T> {
    items.into_iter().map(|FromJson(item)| item).collect()
}

/// The last connect of any of these connections. What is no more than that is not stored.
fn last_connect(connections: &[Connection]) -> u64 {
    connections.iter().map(|each| each.generation).max().unwrap_or(0)
}

fn push_member(out: &mut Vec<u8>, name: &str, number: impl itoa::Integer) {
    out.push(b',');
    json::push_str(out, name);
    out.push(b':');
    json::push_number(out, number);
}

fn push_text(out: &mut Vec<u8>, name: &str, text: &str) {
    out.push(b',');
    json::push_str(out, name);
    out.push(b':');
    json::push_str(out, text);
}

fn push_kind(out: &mut Vec<u8>, device: Option<&Device>, idle: bool) {
    if let Some(device) = device {
        push_text(out, "device", device.as_str());
    }
    if idle {
        json::push(out, ",\"idle\":true");
    }
}

fn push_unknown(out: &mut Vec<u8>, members: Option<&str>) {
    if let Some(members) = members {
        out.push(b',');
        json::push(out, members);
    }
}

impl<'de> Deserialize<'de> for FromJson<Record> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = FromJson<Record>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the record of a user")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<FromJson<Record>, A::Error> {
                let mut record = Record::new(Time(0), 0);
                let (mut schema, mut created) = (None, false);
                let (mut grace_since, mut status_end) = (None, None::<StatusEnd<'de>>);
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
                        "offline_since" => record.offline_since = Some(Time(map.next_value()?)),
                        "shown_offline_since" => {
                            record.shown_offline_since = Some(Time(map.next_value()?));
                        }
                        "settings_at" => record.settings_at = Some(Time(map.next_value()?)),
                        "invisible" => record.invisible = map.next_value()?,
                        "hide_last_active" => record.hide_last_active = map.next_value()?,
                        "availability_choice" => {
                            let name = map.next_value::<Cow<'de, str>>()?;
                            record.choice = Choice::parse(&name).unwrap_or_default();
                        }
                        "status" => record.status = Some(map.next_value()?),
                        "status_end" => status_end = Some(map.next_value()?),
                        "custom" => {
                            let values: std::collections::BTreeMap<String, Value> =
                                map.next_value()?;
                            record.custom = Custom::from_values(&values);
                        }
                        "connections" => {
                            record.connections = list(map.next_value()?);
                        }
                        "connects" => record.generation = map.next_value()?,
                        "leaving" => {
                            record.leaving = list(map.next_value()?);
                        }
                        "grace_since" => grace_since = Some(Time(map.next_value()?)),
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
                record.reconcile(grace_since);
                record.status_expires_at = status_end
                    .filter(|end| record.status.as_deref() == Some(&*end.status))
                    .map(|end| Time(end.at));
                Ok(FromJson(record))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for FromJson<Connection> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = FromJson<Connection>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a connection")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<FromJson<Connection>, A::Error> {
                let (mut id, mut lease, mut generation) = (None, None, 0);
                let (mut device, mut idle) = (None, false);
                let mut unknown = Unknown::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "id" => id = Some(map.next_value()?),
                        "lease" => {
                            let name = map.next_value::<Cow<'de, str>>()?;
                            let shared = Id::parse_shared(&name, "lease");
                            lease =
                                Some(shared.map_err(|refusal| A::Error::custom(refusal.message))?);
                        }
                        "device" => {
                            device = stored_device(&map.next_value::<Cow<'de, str>>()?);
                        }
                        "idle" => idle = map.next_value()?,
                        "connects" => generation = map.next_value()?,
                        _ => unknown.add(&name, map.next_value::<&RawValue>()?),
                    }
                }
                let id = id.ok_or_else(|| A::Error::missing_field("id"))?;
                let unknown = unknown.into_members();
                Ok(FromJson(Connection { id, lease, device, idle, generation, unknown }))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for FromJson<Leaving> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = FromJson<Leaving>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a leaving connection")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<FromJson<Leaving>, A::Error> {
                let mut leaving = Leaving::of_user(Time(0), 0);
                let (mut since, mut unknown) = (None, Unknown::default());
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "since" => since = Some(Time(map.next_value()?)),
                        "id" => {
                            leaving.connection = Some(map.next_value()?);
                        }
                        "device" => {
                            leaving.device = stored_device(&map.next_value::<Cow<'de, str>>()?);
                        }
                        "idle" => leaving.idle = map.next_value()?,
                        "grace_ms" => leaving.grace_ms = Some(map.next_value()?),
                        "connects" => leaving.generation = map.next_value()?,
                        _ => unknown.add(&name, map.next_value::<&RawValue>()?),
                    }
                }
                leaving.since = since.ok_or_else(|| A::Error::missing_field("since"))?;
                leaving.unknown = unknown.into_members();
                Ok(FromJson(leaving))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The end of a status, with the status that it is the end of.
#[derive(DeriveDeserialize)]
struct StatusEnd<'a> {
    at: i64,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

/// A kind of device that this version would not have written is left out.
fn stored_device(name: &str) -> Option<Device> {
    Device::parse(name, "device").ok()
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
