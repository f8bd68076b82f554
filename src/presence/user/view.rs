//! The one projection. Every public answer and every event is made from here and from nothing
//! else; that is what makes invisible leak-proof (`PROTOCOL`, sections 2 and 5).

use super::record::Record;
use crate::presence::entity::{Event, Stored};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::{Now, Time};

/// The largest user, as others see it, in bytes of JSON.
pub const MAX_USER_BYTES: usize = 5 * 1024;

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer<'a> {
    /// Anyone who is not the user.
    Other,
    /// This user, who sees the truth about itself.
    User(&'a Id),
}

impl Viewer<'_> {
    /// Whether this viewer is the user with that id.
    pub fn is(self, id: &Id) -> bool {
        matches!(self, Self::User(own) if own == id)
    }
}

/// What a viewer sees of the fields that presence is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    pub online: bool,
    pub status: Option<&'a str>,
    pub last_active: Option<Time>,
}

impl Shown<'_> {
    /// Whether an event tells the two apart (`PROTOCOL`, section 2, *Event*).
    pub fn differs_from(&self, other: &Shown<'_>) -> bool {
        self.online != other.online || self.status != other.status
    }
}

/// What others see of a record. A user who does not exist is offline, without a status.
pub fn shown(record: Option<&Record>) -> Shown<'_> {
    record.map_or(Shown { online: false, status: None, last_active: None }, |record| Shown {
        online: record.is_online() && !record.invisible,
        status: record.status.as_deref(),
        last_active: record.shown_last_active,
    })
}

impl Record {
    /// What the user sees of itself.
    pub fn truth(&self) -> Shown<'_> {
        Shown {
            online: self.is_online(),
            status: self.status.as_deref(),
            last_active: self.last_active,
        }
    }
}

/// Appends the user as `viewer` sees it.
pub fn push_seen_by(out: &mut Vec<u8>, id: &Id, record: &Record, viewer: Viewer<'_>) {
    if viewer.is(id) {
        push_own(out, id, record, true);
    } else {
        push_public(out, id, record);
    }
}

/// Appends the user as it sees itself, with or without its custom fields.
pub fn push_own(out: &mut Vec<u8>, id: &Id, record: &Record, custom: bool) {
    let truth = record.truth();
    push_fields(out, id, record, truth);
    json::push(out, ",\"invisible\":");
    json::push_bool(out, record.invisible);
    if custom {
        push_custom(out, record);
    }
    out.push(b'}');
}

/// Appends a member of a channel as `viewer` sees it; one whom nobody has made is offline.
pub fn push_member(out: &mut Vec<u8>, id: &Id, record: Option<&Record>, viewer: Viewer<'_>) {
    match record {
        Some(record) => push_seen_by(out, id, record, viewer),
        None => push_bare(out, id, 0),
    }
}

/// Appends a member of a channel whose type has presence switched off: nothing that presence is
/// about, for anyone. A wrong value would poison a client that merges by version.
pub fn push_member_without_presence(out: &mut Vec<u8>, id: &Id, record: Option<&Record>) {
    json::push(out, "{\"id\":");
    json::push_str(out, id.as_str());
    if let Some(record) = record {
        push_times(out, record);
        push_custom(out, record);
    }
    out.push(b'}');
}

/// The event of a change that has just been made, or of the present state once more.
pub fn event(id: &Id, record: &Record, now: Now) -> Event {
    let mut body = begin_event(now);
    push_public(&mut body, id, record);
    body.push(b'}');
    Event { user: id.clone(), version: record.version, body }
}

/// The last event of a user that is deleted.
pub fn deletion_event(id: &Id, version: u64, now: Now) -> Event {
    let mut body = begin_event(now);
    push_bare(&mut body, id, version);
    body.push(b'}');
    Event { user: id.clone(), version, body }
}

/// The present state as an event; nothing if there never was a change to announce.
pub fn announcement(id: &Id, stored: &Stored<Record>, now: Now) -> Option<Event> {
    match stored {
        Stored::Present(record) if record.version > 0 => Some(event(id, record, now)),
        Stored::Absent { version, .. } if *version > 0 => Some(deletion_event(id, *version, now)),
        _ => None,
    }
}

/// Appends the user as others see it.
pub(super) fn push_public(out: &mut Vec<u8>, id: &Id, record: &Record) {
    push_fields(out, id, record, shown(Some(record)));
    push_custom(out, record);
    out.push(b'}');
}

fn begin_event(now: Now) -> Vec<u8> {
    let mut body = Vec::with_capacity(320);
    json::push(&mut body, "{\"type\":\"user.presence.changed\",\"created_at\":");
    json::push_optional_time(&mut body, Some(now.wall));
    json::push(&mut body, ",\"user\":");
    body
}

/// Appends the fields that every view has, and leaves the object open.
fn push_fields(out: &mut Vec<u8>, id: &Id, record: &Record, shown: Shown<'_>) {
    json::push(out, "{\"id\":");
    json::push_str(out, id.as_str());
    json::push(out, ",\"online\":");
    json::push_bool(out, shown.online);
    json::push(out, ",\"status\":");
    json::push_optional_str(out, shown.status);
    json::push(out, ",\"last_active\":");
    json::push_optional_time(out, shown.last_active);
    push_times(out, record);
    json::push(out, ",\"version\":");
    json::push_number(out, record.version);
}

fn push_times(out: &mut Vec<u8>, record: &Record) {
    json::push(out, ",\"created_at\":");
    json::push_optional_time(out, Some(record.created_at));
    json::push(out, ",\"updated_at\":");
    json::push_optional_time(out, Some(record.updated_at));
}

fn push_custom(out: &mut Vec<u8>, record: &Record) {
    if !record.custom.is_empty() {
        out.push(b',');
        json::push(out, record.custom.as_members());
    }
}

fn push_bare(out: &mut Vec<u8>, id: &Id, version: u64) {
    json::push(out, "{\"id\":");
    json::push_str(out, id.as_str());
    json::push(out, ",\"online\":false,\"status\":null,\"last_active\":null,\"version\":");
    json::push_number(out, version);
    out.push(b'}');
}
