//! The record of a channel, and the JSON text under which it is stored (`docs/protocol.md`,
//! *The store*).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::presence::custom::Custom;
use crate::presence::field::Kind;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::stored::{Unknown, check_schema};
use crate::presence::time::Time;

/// All that is known of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub created_at: Time,
    /// The time at which its data or its members last really changed.
    pub updated_at: Time,
    pub last_message_at: Option<Time>,
    pub custom: Custom,
    /// In order of joining, each once.
    pub members: Vec<Id>,
    /// Members of the stored object that this version does not know, kept as they are.
    pub unknown: Option<Box<str>>,
}

impl Record {
    /// A channel that was just made.
    pub fn new(now: Time) -> Self {
        Self {
            created_at: now,
            updated_at: now,
            last_message_at: None,
            custom: Custom::default(),
            members: Vec::new(),
            unknown: None,
        }
    }

    pub fn is_member(&self, user: &Id) -> bool {
        self.members.contains(user)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 16 * self.members.len());
        json::push(&mut out, "{\"v\":1,\"created_at\":");
        json::push_number(&mut out, self.created_at.0);
        json::push(&mut out, ",\"updated_at\":");
        json::push_number(&mut out, self.updated_at.0);
        if let Some(time) = self.last_message_at {
            json::push(&mut out, ",\"last_message_at\":");
            json::push_number(&mut out, time.0);
        }
        if !self.custom.is_empty() {
            json::push(&mut out, ",\"custom\":{");
            json::push(&mut out, self.custom.as_members());
            out.push(b'}');
        }
        json::push(&mut out, ",\"members\":");
        json::push_array(&mut out, &self.members, |out, id| json::push_str(out, id.as_str()));
        if let Some(members) = &self.unknown {
            out.push(b',');
            json::push(&mut out, members);
        }
        out.push(b'}');
        out
    }

    pub fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        let stored: StoredChannel = serde_json::from_slice(text)?;
        check_schema(stored.v)?;
        Ok(stored.into())
    }
}

/// The stored object of a channel.
#[derive(Deserialize)]
struct StoredChannel {
    v: u64,
    created_at: Time,
    updated_at: Option<Time>,
    last_message_at: Option<Time>,
    #[serde(default)]
    custom: BTreeMap<String, Value>,
    #[serde(default)]
    members: Vec<Id>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl From<StoredChannel> for Record {
    fn from(stored: StoredChannel) -> Self {
        Self {
            created_at: stored.created_at,
            updated_at: stored.updated_at.unwrap_or(Time(0)),
            last_message_at: stored.last_message_at,
            custom: Custom::from_stored(stored.custom, Kind::Channels),
            members: stored.members,
            unknown: stored.unknown.into_members(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_not_know_is_kept() {
        let text = br#"{"v":1,"created_at":5,"updated_at":6,"team":[1,2],"members":["b","a"]}"#;
        let record = Record::decode(text).unwrap();
        let again = String::from_utf8(record.encode()).unwrap();
        assert!(again.contains(r#""team":[1,2]"#), "{again}");
        assert_eq!(Record::decode(again.as_bytes()).unwrap(), record);
    }

    #[test]
    fn a_custom_field_whose_name_is_reserved_by_now_is_left_out() {
        let text = br#"{"v":1,"created_at":5,"custom":{"online_count":7,"color":"green"}}"#;
        let record = Record::decode(text).unwrap();
        assert_eq!(record.custom.as_members(), r#""color":"green""#);
    }

    #[test]
    fn another_schema_or_another_thing_is_not_read() {
        for text in [
            r#"{"v":2,"created_at":5}"#,
            r#"{"v":1}"#,
            "[]",
            r#"{"v":1,"created_at":1,"members":[""]}"#,
        ] {
            assert!(Record::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
