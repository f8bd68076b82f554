//! A channel as a filter or a sort sees it. Nothing of it depends on who looks.

use std::borrow::Cow;

use super::key::ChannelKey;
use super::record::Record;
use crate::presence::field::{Datum, Field, Subject};
use crate::presence::number::Number;

/// A channel as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub key: &'a ChannelKey,
    pub record: &'a Record,
}

impl Subject for Seen<'_> {
    fn datum(&self, field: &Field) -> Datum<'_> {
        let Self { key, record } = self;
        match field {
            Field::Id => Datum::Text(Cow::Borrowed(key.id())),
            Field::Cid => Datum::Text(Cow::Borrowed(key.cid())),
            Field::Type => Datum::Text(Cow::Borrowed(key.kind())),
            Field::LastMessageAt => Datum::time(record.last_message_at.map(|time| time.0)),
            Field::CreatedAt => Datum::Time(record.created_at.0),
            Field::UpdatedAt => Datum::Time(record.updated_at.0),
            Field::Members => Datum::Members(&record.members),
            Field::MemberCount => Datum::Number(Number::from(record.members.len() as u64)),
            Field::Custom(name) => record.custom.text(name).map_or(Datum::Absent, Datum::from_json),
            Field::Online
            | Field::Invisible
            | Field::Status
            | Field::Availability
            | Field::Devices
            | Field::LastActive
            | Field::OfflineSince => Datum::Absent,
        }
    }
}
