//! The JSON text under which a user is stored (`docs/protocol.md`, *The store*).
//!
//! Older daemons read what this one writes, and the other way round. They know of one grace of a
//! user (`grace_since`) and keep `leaving` as it is:
//!
//! - While no connection is live and some are leaving, `grace_since` is written too; an older
//!   daemon ends it, and thereby all of them.
//! - A `grace_since` that no leaving connection has was written by an older daemon, and counts as
//!   one leaving connection.
//! - Leaving connections without a live one and without `grace_since` were ended by an older
//!   daemon.
//! - An older daemon changes `status` and keeps `status_end`, which therefore names its status.
//! - An older daemon moves `last_active` and keeps `offline_since`: a user who is offline went so
//!   no earlier than it was last active.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::availability::Choice;
use super::connection::{Connection, Device, Leaving};
use super::record::Record;
use crate::presence::custom::Custom;
use crate::presence::entity::DaemonId;
use crate::presence::field::Kind;
use crate::presence::id::{Id, shared as shared_lease};
use crate::presence::json;
use crate::presence::stored::{Text, Unknown, check_schema};
use crate::presence::time::Time;

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        json::push(&mut out, "{\"v\":1");
        self.push_times(&mut out);
        self.push_choices(&mut out);
        self.push_status(&mut out);
        if !self.custom.is_empty() {
            json::push(&mut out, ",\"custom\":{");
            json::push(&mut out, self.custom.as_members());
            out.push(b'}');
        }
        self.push_connections(&mut out);
        push_unknown(&mut out, self.unknown.as_deref());
        out.push(b'}');
        out
    }

    fn push_times(&self, out: &mut Vec<u8>) {
        push_member(out, "created_at", self.created_at.0);
        push_member(out, "updated_at", self.updated_at.0);
        push_member(out, "version", self.version);
        if let Some(daemon) = self.changed_by {
            push_text(out, "changed_by", &daemon.to_string());
        }
        for (name, time) in [
            ("last_active", self.last_active),
            ("shown_last_active", self.shown_last_active),
            ("offline_since", self.offline_since),
            ("shown_offline_since", self.shown_offline_since),
            ("settings_at", self.settings_at),
        ] {
            if let Some(time) = time {
                push_member(out, name, time.0);
            }
        }
    }

    fn push_choices(&self, out: &mut Vec<u8>) {
        if self.invisible {
            json::push(out, ",\"invisible\":true");
        }
        if self.hide_last_active {
            json::push(out, ",\"hide_last_active\":true");
        }
        if self.choice != Choice::Auto {
            push_text(out, "availability_choice", self.choice.name());
        }
    }

    fn push_status(&self, out: &mut Vec<u8>) {
        let Some(status) = &self.status else { return };
        push_text(out, "status", status);
        if let Some(time) = self.status_expires_at {
            json::push(out, ",\"status_end\":{\"at\":");
            json::push_number(out, time.0);
            push_text(out, "status", status);
            out.push(b'}');
        }
    }

    fn push_connections(&self, out: &mut Vec<u8>) {
        if !self.connections.is_empty() {
            json::push(out, ",\"connections\":");
            json::push_array(out, &self.connections, |out, c| c.push(out));
        }
        if self.generation > last_connect(&self.connections) {
            push_member(out, "connects", self.generation);
        }
        if !self.leaving.is_empty() {
            json::push(out, ",\"leaving\":");
            json::push_array(out, &self.leaving, |out, each| each.push(out));
        }
        if let Some(time) = self.grace_since() {
            push_member(out, "grace_since", time.0);
        }
    }

    pub fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        let stored: StoredUser<'_> = serde_json::from_slice(text)?;
        check_schema(stored.v)?;
        Ok(stored.into())
    }

    /// The time at which the last connection ended, as an older daemon stores it.
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
        self.settle_offline();
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

/// The last connect of any of these connections. A value that does not exceed it is not stored.
fn last_connect(connections: &[Connection]) -> u64 {
    connections.iter().map(|each| each.generation).max().unwrap_or(0)
}

fn push_member(out: &mut Vec<u8>, name: &str, number: impl Serialize) {
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

/// The stored object of a user.
#[derive(Deserialize)]
struct StoredUser<'a> {
    v: u64,
    created_at: Time,
    updated_at: Option<Time>,
    #[serde(default)]
    version: u64,
    #[serde(borrow)]
    changed_by: Option<Text<'a>>,
    last_active: Option<Time>,
    shown_last_active: Option<Time>,
    offline_since: Option<Time>,
    shown_offline_since: Option<Time>,
    settings_at: Option<Time>,
    #[serde(default)]
    invisible: bool,
    #[serde(default)]
    hide_last_active: bool,
    #[serde(borrow)]
    availability_choice: Option<Text<'a>>,
    status: Option<Box<str>>,
    #[serde(borrow)]
    status_end: Option<StatusEnd<'a>>,
    #[serde(default)]
    custom: BTreeMap<String, Value>,
    #[serde(borrow, default)]
    connections: Vec<StoredConnection<'a>>,
    #[serde(default)]
    connects: u64,
    #[serde(borrow, default)]
    leaving: Vec<StoredLeaving<'a>>,
    grace_since: Option<Time>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// The end of a status, with the status that it is the end of.
#[derive(Deserialize)]
struct StatusEnd<'a> {
    at: Time,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

#[derive(Deserialize)]
struct StoredConnection<'a> {
    id: Id,
    #[serde(with = "shared_lease", default)]
    lease: Option<Id>,
    #[serde(borrow)]
    device: Option<Text<'a>>,
    #[serde(default)]
    idle: bool,
    #[serde(default)]
    connects: u64,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Deserialize)]
struct StoredLeaving<'a> {
    since: Time,
    id: Option<Id>,
    #[serde(borrow)]
    device: Option<Text<'a>>,
    #[serde(default)]
    idle: bool,
    grace_ms: Option<u64>,
    #[serde(default)]
    connects: u64,
    #[serde(flatten)]
    unknown: Unknown,
}

impl From<StoredUser<'_>> for Record {
    fn from(stored: StoredUser<'_>) -> Self {
        let connections: Vec<_> = stored.connections.into_iter().map(Connection::from).collect();
        let status_end = stored.status_end;
        let status_end = status_end.filter(|end| stored.status.as_deref() == Some(&*end.status));
        let mut record = Self {
            created_at: stored.created_at,
            updated_at: stored.updated_at.unwrap_or(Time(0)),
            version: stored.version,
            changed_by: stored.changed_by.and_then(|Text(daemon)| DaemonId::parse(&daemon)),
            last_active: stored.last_active,
            shown_last_active: stored.shown_last_active,
            offline_since: stored.offline_since,
            shown_offline_since: stored.shown_offline_since,
            settings_at: stored.settings_at,
            invisible: stored.invisible,
            hide_last_active: stored.hide_last_active,
            choice: stored
                .availability_choice
                .and_then(|Text(name)| Choice::parse(&name))
                .unwrap_or_default(),
            status: stored.status,
            status_expires_at: status_end.map(|end| end.at),
            custom: Custom::from_stored(stored.custom, Kind::Users),
            generation: stored.connects.max(last_connect(&connections)),
            connections,
            leaving: stored.leaving.into_iter().map(Leaving::from).collect(),
            unknown: stored.unknown.into_members(),
        };
        record.reconcile(stored.grace_since);
        record
    }
}

impl From<StoredConnection<'_>> for Connection {
    fn from(stored: StoredConnection<'_>) -> Self {
        let StoredConnection { id, lease, idle, connects, .. } = stored;
        Self {
            id,
            lease,
            device: stored.device.and_then(stored_device),
            idle,
            generation: connects,
            unknown: stored.unknown.into_members(),
        }
    }
}

impl From<StoredLeaving<'_>> for Leaving {
    fn from(stored: StoredLeaving<'_>) -> Self {
        let StoredLeaving { id, idle, connects, since, grace_ms, .. } = stored;
        Self {
            connection: id,
            device: stored.device.and_then(stored_device),
            idle,
            generation: connects,
            since,
            grace_ms,
            unknown: stored.unknown.into_members(),
        }
    }
}

/// A kind of device that this version would not have written is left out.
fn stored_device(Text(name): Text<'_>) -> Option<Device> {
    Device::parse(&name, "device").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::user::view::push_own;

    #[test]
    fn what_this_version_does_not_know_is_kept() {
        let text = br#"{"v":1,"created_at":5,"updated_at":6,"version":7,"mood":{"b":[1,2]},
            "connections":[{"id":"c","connects":2,"via":"tls"}],"custom":{"z":1,"a":"x"}}"#;
        let record = Record::decode(text).unwrap();
        let again = String::from_utf8(record.encode()).unwrap();
        assert!(again.contains(r#""mood":{"b":[1,2]}"#), "{again}");
        assert!(again.contains(r#""via":"tls""#), "{again}");
        assert!(again.contains(r#""custom":{"a":"x","z":1}"#), "{again}");
        assert_eq!(Record::decode(again.as_bytes()).unwrap(), record);
    }

    #[test]
    fn a_custom_field_whose_name_is_reserved_by_now_is_left_out() {
        let text = br#"{"v":1,"created_at":5,"custom":{"availability":"x","devices":1,"a":"y"}}"#;
        let mut own = Vec::new();
        push_own(&mut own, &Id::parse("john", "id").unwrap(), &Record::decode(text).unwrap(), true);
        let own = String::from_utf8(own).unwrap();
        assert_eq!(own.matches(r#""availability":"#).count(), 1, "{own}");
        assert!(own.contains(r#""availability":"offline""#) && !own.contains("devices"), "{own}");
        assert!(own.ends_with(r#","a":"y"}"#), "{own}");
    }

    #[test]
    fn an_older_daemon_leaves_no_stale_offline_since() {
        let decode = |members: &str| {
            let text = format!(r#"{{"v":1,"created_at":5,{members}}}"#);
            Record::decode(text.as_bytes()).unwrap()
        };
        let since = |record: &Record| (record.offline_since, record.shown_offline_since);
        let times = r#""last_active":90,"shown_last_active":80,"offline_since":50,
            "shown_offline_since":40"#;
        let offline = decode(times);
        assert_eq!(since(&offline), (Some(Time(90)), Some(Time(80))));
        assert_eq!(Record::decode(&offline.encode()).unwrap(), offline);
        let connection = r#""connections":[{"id":"c"}]"#;
        let online = decode(&format!("{times},{connection}"));
        assert_eq!(since(&online), (Some(Time(50)), Some(Time(40))), "kept while online");
        let invisible = decode(&format!("{times},{connection},\"invisible\":true"));
        assert_eq!(since(&invisible), (Some(Time(50)), Some(Time(80))));
        let newer = decode(r#""last_active":90,"offline_since":95,"shown_offline_since":95"#);
        assert_eq!(since(&newer), (Some(Time(95)), Some(Time(95))));
        assert_eq!(since(&decode(r#""status":"s""#)), (None, None), "never online");
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
