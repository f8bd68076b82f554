//! The fields of users and channels that filters and sorts can name, and a record's values in them
//! (`docs/protocol.md`, *Filters*).
//!
//! Architecture Invariant: a filter or a sort sees a record only through [`Subject`], that is as
//! the viewer may see it. Nothing here knows of connections or of the private half of a record.

use std::borrow::Cow;

use serde_json::Value;

use super::id::Id;
use super::number::Number;

/// The kind of record that is queried. It decides which field names mean something and which are
/// custom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Users,
    Channels,
}

impl Kind {
    /// The names that no custom field can have (`docs/protocol.md`, *User*).
    pub fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::Users => &[
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
            ],
            Self::Channels => &[
                "type",
                "id",
                "cid",
                "members",
                "member_count",
                "online_count",
                "last_message_at",
                "created_at",
                "updated_at",
                "presence",
                "presence_disabled",
            ],
        }
    }

    /// The unique field, by which ties are broken.
    pub fn key_field(self) -> Field {
        match self {
            Self::Users => Field::Id,
            Self::Channels => Field::Cid,
        }
    }
}

/// A field that can be filtered by. Of users there are `id`, `online`, `invisible`, `status`,
/// `availability`, `devices`, `last_active`, `offline_since`, `created_at` and `updated_at`; of
/// channels `id`, `cid`, `type`,
/// `last_message_at`, `created_at`, `updated_at`, `members` and `member_count`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    Id,
    Cid,
    Type,
    Online,
    Invisible,
    Status,
    Availability,
    Devices,
    LastActive,
    OfflineSince,
    LastMessageAt,
    CreatedAt,
    UpdatedAt,
    Members,
    MemberCount,
    /// Any other name. A dot in it is a part of the name, not a path.
    Custom(Box<str>),
}

impl Field {
    /// The field of this name. `None` if a filter cannot name it: it is empty, begins with `$`,
    /// or is reserved without being a field to filter by (`version`, `presence`).
    pub fn named(kind: Kind, name: &str) -> Option<Self> {
        let field = match (kind, name) {
            (_, "id") => Self::Id,
            (_, "created_at") => Self::CreatedAt,
            (_, "updated_at") => Self::UpdatedAt,
            (Kind::Users, "online") => Self::Online,
            (Kind::Users, "invisible") => Self::Invisible,
            (Kind::Users, "status") => Self::Status,
            (Kind::Users, "availability") => Self::Availability,
            (Kind::Users, "devices") => Self::Devices,
            (Kind::Users, "last_active") => Self::LastActive,
            (Kind::Users, "offline_since") => Self::OfflineSince,
            (Kind::Channels, "cid") => Self::Cid,
            (Kind::Channels, "type") => Self::Type,
            (Kind::Channels, "last_message_at") => Self::LastMessageAt,
            (Kind::Channels, "members") => Self::Members,
            (Kind::Channels, "member_count") => Self::MemberCount,
            _ if name.is_empty() || name.starts_with('$') => return None,
            _ if kind.reserved().contains(&name) => return None,
            _ => Self::Custom(name.into()),
        };
        Some(field)
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Id => "id",
            Self::Cid => "cid",
            Self::Type => "type",
            Self::Online => "online",
            Self::Invisible => "invisible",
            Self::Status => "status",
            Self::Availability => "availability",
            Self::Devices => "devices",
            Self::LastActive => "last_active",
            Self::OfflineSince => "offline_since",
            Self::LastMessageAt => "last_message_at",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
            Self::Members => "members",
            Self::MemberCount => "member_count",
            Self::Custom(name) => name,
        }
    }
}

/// A record as one viewer may see it.
pub trait Subject {
    /// The value of the record in `field`. A custom field is best given by [`Datum::from_json`].
    fn datum(&self, field: &Field) -> Datum<'_>;
}

/// The value of a record in a field.
#[derive(Debug, Clone)]
pub enum Datum<'a> {
    /// The field is not there, or `null`.
    Absent,
    /// The viewer may not know: `invisible` of another user. No comparison matches it, not even
    /// `$ne`.
    Concealed,
    Text(Cow<'a, str>),
    Number(Number),
    Bool(bool),
    /// Milliseconds since 1970.
    Time(i64),
    Array(Vec<Value>),
    /// A custom object: it is there, and equals nothing.
    Object,
    /// The members of a channel, each once.
    Members(&'a [Id]),
}

impl<'a> Datum<'a> {
    /// A text that is borrowed.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// A time in milliseconds since 1970, if there is one.
    pub fn time(ms: Option<i64>) -> Self {
        ms.map_or(Self::Absent, Self::Time)
    }

    /// Reads the JSON text of one custom field. A string without escapes is borrowed. Text that is
    /// not JSON counts as absent.
    pub fn from_json(json: &'a str) -> Self {
        match json.trim_ascii_start().as_bytes().first() {
            Some(b'"') => match serde_json::from_str::<&str>(json) {
                Ok(text) => Self::text(text),
                Err(_) => serde_json::from_str(json)
                    .map_or(Self::Absent, |text| Self::Text(Cow::Owned(text))),
            },
            Some(b'{') => Self::Object,
            Some(b'[') => serde_json::from_str(json).map_or(Self::Absent, Self::Array),
            Some(b't' | b'f') => serde_json::from_str(json).map_or(Self::Absent, Self::Bool),
            Some(b'-' | b'0'..=b'9') => serde_json::from_str::<serde_json::Number>(json)
                .map_or(Self::Absent, |number| Self::Number(Number::from(&number))),
            _ => Self::Absent,
        }
    }
}

/// Returns whether two JSON values are the same, numbers by their mathematical value.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Number::from(a) == Number::from(b),
        (Value::Array(a), Value::Array(b)) => same_all(a, b),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Returns whether two arrays are the same, element by element.
pub(super) fn same_all(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// A subject for tests: an object as an answer would show it.
#[cfg(test)]
pub(super) mod sample {
    use super::*;

    #[derive(Debug, Clone)]
    pub struct Sample {
        fields: Vec<(String, String)>,
        members: Vec<Id>,
        cid: String,
    }

    /// `record` is a user as the viewer sees it (`invisible` only of oneself), or a channel whose
    /// `members` are ids. It is a channel if it has a `type`.
    pub fn sample(record: &Value) -> Sample {
        let object = record.as_object().unwrap();
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let members = object.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        Sample {
            fields: object.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
            members: members.iter().filter_map(|m| Id::parse(m.as_str()?, "m").ok()).collect(),
            cid: format!("{}:{}", text("type"), text("id")),
        }
    }

    impl Subject for Sample {
        fn datum(&self, field: &Field) -> Datum<'_> {
            let custom = self
                .fields
                .iter()
                .find(|(name, _)| name == field.name())
                .map_or(Datum::Absent, |(_, json)| Datum::from_json(json));
            match (field, custom) {
                (Field::Cid, _) => Datum::text(&self.cid),
                (Field::Members, _) => Datum::Members(&self.members),
                (Field::MemberCount, _) => Datum::Number((self.members.len() as u64).into()),
                (Field::Invisible, Datum::Absent) => Datum::Concealed,
                (
                    Field::LastActive
                    | Field::OfflineSince
                    | Field::LastMessageAt
                    | Field::CreatedAt
                    | Field::UpdatedAt,
                    Datum::Text(text),
                ) => Datum::Time(
                    chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_millis(),
                ),
                (_, custom) => custom,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_reserved_for_one_kind_is_custom_for_the_other() {
        assert_eq!(Field::named(Kind::Users, "members"), Some(Field::Custom("members".into())));
        assert_eq!(Field::named(Kind::Channels, "online"), Some(Field::Custom("online".into())));
        assert_eq!(Field::named(Kind::Channels, "version"), Some(Field::Custom("version".into())));
        assert_eq!(Field::named(Kind::Channels, "members"), Some(Field::Members));
    }

    #[test]
    fn empty_names_operators_and_reserved_names_without_a_meaning_are_no_fields() {
        for name in ["", "$", "$where", "version", "availability_choice", "status_expires_at"] {
            assert_eq!(Field::named(Kind::Users, name), None, "{name}");
        }
        for name in ["presence", "presence_disabled", "online_count"] {
            assert_eq!(Field::named(Kind::Channels, name), None, "{name}");
        }
    }

    #[test]
    fn every_field_is_found_by_its_name() {
        for kind in [Kind::Users, Kind::Channels] {
            for name in kind.reserved().iter().chain(&["color"]) {
                if let Some(field) = Field::named(kind, name) {
                    assert_eq!(field.name(), *name);
                }
            }
        }
    }

    #[test]
    fn a_datum_is_read_from_json_text() {
        assert!(matches!(Datum::from_json(r#""a""#), Datum::Text(Cow::Borrowed("a"))));
        assert!(matches!(Datum::from_json(r#""\n""#), Datum::Text(Cow::Owned(t)) if t == "\n"));
        assert!(matches!(Datum::from_json("-1"), Datum::Number(n) if n == Number::from(-1i64)));
        assert!(matches!(Datum::from_json(" true"), Datum::Bool(true)));
        assert!(matches!(Datum::from_json("[1]"), Datum::Array(a) if a == [json!(1)]));
        assert!(matches!(Datum::from_json("{}"), Datum::Object));
        for absent in ["null", "", "nonsense", "\"", "[", "1x", "tru"] {
            assert!(matches!(Datum::from_json(absent), Datum::Absent), "{absent}");
        }
    }

    #[test]
    fn arrays_are_the_same_if_their_numbers_are() {
        assert!(same(&json!([1, {"a": [2.0]}]), &json!([1.0, {"a": [2]}])));
        assert!(!same(&json!([1, 2]), &json!([2, 1])));
        assert!(!same(&json!([1]), &json!(["1"])));
    }
}
