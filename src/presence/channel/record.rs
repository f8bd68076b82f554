//! The record of a channel, and the JSON text under which it is stored (`PROTOCOL`, section 6).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::presence::custom::{Custom, Unknown};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::Time;

/// The schema number of the records that this version writes and reads.
const SCHEMA: u64 = 1;

/// All that is known of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub created_at: Time,
    /// When its data or its members last really changed.
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
        serde_json::from_slice(text)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the record of a channel")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut record = Record::new(Time(0));
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
                        "last_message_at" => record.last_message_at = Some(Time(map.next_value()?)),
                        "custom" => {
                            let values: BTreeMap<String, Value> = map.next_value()?;
                            record.custom = Custom::from_values(&values);
                        }
                        "members" => record.members = ids(map.next_value()?)?,
                        _ => unknown.add(&name, map.next_value::<&RawValue>()?),
                    }
                }
                if schema != Some(SCHEMA) || !created {
                    return Err(A::Error::custom(format_args!(
                        "it has schema {schema:?}, and this version reads schema {SCHEMA}"
                    )));
                }
                record.unknown = unknown.into_members();
                Ok(record)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn ids<E: Error>(texts: Vec<Cow<'_, str>>) -> Result<Vec<Id>, E> {
    let parse = |text: Cow<'_, str>| Id::parse(&text, "members");
    texts.into_iter().map(parse).collect::<Result<_, _>>().map_err(|r| E::custom(r.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_not_know_is_kept() {
        let text = br#"{"v":1,"created_at":5,"updated_at":6,"team":[1, 2],"members":["b","a"]}"#;
        let record = Record::decode(text).unwrap();
        let again = String::from_utf8(record.encode()).unwrap();
        assert!(again.contains(r#""team":[1, 2]"#), "{again}");
        assert_eq!(Record::decode(again.as_bytes()).unwrap(), record);
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
