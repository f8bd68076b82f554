//! A user as a filter or a sort sees it: as the viewer may see it, and no more.

use serde_json::Value;

use super::record::Record;
use super::view::{Shown, Viewer, shown};
use crate::presence::field::{Datum, Field, Subject};
use crate::presence::id::Id;

/// A user as one viewer may see it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub id: &'a Id,
    pub record: &'a Record,
    pub viewer: Viewer<'a>,
}

impl Seen<'_> {
    fn shown(&self) -> Shown<'_> {
        if self.viewer.sees_truth_of(self.id) {
            self.record.truth()
        } else {
            shown(Some(self.record))
        }
    }
}

impl Subject for Seen<'_> {
    fn datum(&self, field: &Field) -> Datum<'_> {
        match field {
            Field::Id => Datum::text(self.id.as_str()),
            Field::Online => Datum::Bool(self.shown().online),
            Field::Invisible if self.viewer.sees_truth_of(self.id) => {
                Datum::Bool(self.record.invisible)
            }
            Field::Invisible => Datum::Concealed,
            Field::Status => self.shown().status.map_or(Datum::Absent, Datum::text),
            Field::LastActive => Datum::time(self.shown().last_active.map(|time| time.0)),
            Field::OfflineSince => Datum::time(self.shown().offline_since.map(|time| time.0)),
            Field::Availability => Datum::text(self.shown().availability.name()),
            Field::Devices => match self.shown().devices {
                devices if devices.is_empty() => Datum::Absent,
                devices => Datum::Array(devices.into_iter().map(Value::from).collect()),
            },
            Field::CreatedAt => Datum::Time(self.record.created_at.0),
            Field::UpdatedAt => Datum::Time(self.record.updated_at.0),
            Field::Custom(name) => {
                self.record.custom.text(name).map_or(Datum::Absent, Datum::from_json)
            }
            Field::Cid
            | Field::Type
            | Field::LastMessageAt
            | Field::Members
            | Field::MemberCount => Datum::Absent,
        }
    }
}
