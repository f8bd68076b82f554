//! The one projection. Every public answer and every event is made from here and from nothing
//! else; that is what makes invisible leak-proof (`docs/protocol.md`, *Being invisible*).

use std::collections::BTreeSet;

use super::availability::Availability;
use super::record::{Reachability, Record};
use crate::presence::custom::Custom;
use crate::presence::entity::{Event, Stored};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::{Now, Time};

/// The largest user, as others see it, in bytes of JSON.
pub const MAX_USER_BYTES: usize = 5 * 1024;

/// More than the names, times and numbers of a user take, in bytes.
const FIXED_BYTES: usize = 512;

/// The most bytes of JSON for one byte of a text (`\u001f`).
const MAX_ESCAPED: usize = 6;

/// A version with as many digits as any clock gives in this century.
const LARGE_VERSION: u64 = 1_000_000_000_000;

/// The viewer of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer<'a> {
    /// Anyone who is not the user.
    Other,
    /// This user, who sees the truth about itself.
    User(&'a Id),
    /// A trusted service that chooses users to erase, by the truth about all. Nothing is shown.
    Eraser,
}

impl Viewer<'_> {
    /// Returns whether this viewer sees the truth about the user with that id.
    pub fn sees_truth_of(self, id: &Id) -> bool {
        match self {
            Self::Other => false,
            Self::User(own) => own == id,
            Self::Eraser => true,
        }
    }
}

/// The presence fields of a user as a viewer sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown<'a> {
    pub online: bool,
    pub status: Option<&'a str>,
    pub status_expires_at: Option<Time>,
    pub last_active: Option<Time>,
    pub offline_since: Option<Time>,
    pub availability: Availability,
    /// Each once, sorted.
    pub devices: Vec<&'a str>,
}

/// The custom fields whose changes are announced by events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnnouncedFields {
    All,
    Listed(BTreeSet<String>),
}

impl Default for AnnouncedFields {
    fn default() -> Self {
        Self::Listed(BTreeSet::new())
    }
}

impl AnnouncedFields {
    fn differ(&self, before: &Custom, after: &Custom) -> bool {
        match self {
            Self::All => before != after,
            Self::Listed(names) => {
                !names.is_empty()
                    && before != after
                    && names.iter().any(|name| before.text(name) != after.text(name))
            }
        }
    }
}

/// Returns whether others see a difference in what is announced (`docs/protocol.md`, *Event*). A
/// user who does not exist counts as offline, without a status or fields.
pub fn is_announced(
    before: Option<&Record>,
    after: Option<&Record>,
    fields: &AnnouncedFields,
) -> bool {
    let (old, new) = (shown(before), shown(after));
    let none = Custom::default();
    let (old_custom, new_custom) = (
        before.map_or(&none, |record| &record.custom),
        after.map_or(&none, |record| &record.custom),
    );
    old.online != new.online
        || old.status != new.status
        || old.availability != new.availability
        || old.devices != new.devices
        || fields.differ(old_custom, new_custom)
}

/// The view that others have of a record. A user who does not exist is offline, without a status.
pub fn shown(record: Option<&Record>) -> Shown<'_> {
    let Some(record) = record else { return Shown::default() };
    let reached = if record.invisible { Reachability::default() } else { record.reachability() };
    let shows_times = !record.hide_last_active;
    Shown {
        online: reached.online,
        status: record.status.as_deref(),
        status_expires_at: record.status_expires_at,
        last_active: record.shown_last_active.filter(|_| shows_times),
        offline_since: record.shown_offline_since.filter(|_| shows_times && !reached.online),
        availability: reached.availability,
        devices: reached.devices,
    }
}

impl Record {
    /// The view that the user has of itself.
    pub fn truth(&self) -> Shown<'_> {
        let reached = self.reachability();
        Shown {
            online: reached.online,
            status: self.status.as_deref(),
            status_expires_at: self.status_expires_at,
            last_active: self.last_active,
            offline_since: self.offline_since.filter(|_| !reached.online),
            availability: reached.availability,
            devices: reached.devices,
        }
    }

    /// Returns whether `viewer` sees the user, whose id is `id`, online.
    pub fn is_online_for(&self, id: &Id, viewer: Viewer<'_>) -> bool {
        if viewer.sees_truth_of(id) { self.is_online() } else { self.is_shown_online() }
    }

    /// The availability that others see.
    pub fn shown_availability(&self) -> Availability {
        if !self.is_shown_online() {
            return Availability::Offline;
        }
        let all_idle = self.connections.iter().all(|each| each.idle)
            && self.leaving.iter().all(|each| each.idle);
        Availability::of(self.choice, all_idle)
    }

    /// Returns whether others see the user online.
    pub fn is_shown_online(&self) -> bool {
        self.is_online() && !self.invisible
    }
}

/// A bound of [`largest_view`] that costs no rendering: each byte of a text may be escaped, and
/// names, times and numbers take less than [`FIXED_BYTES`].
pub fn view_bound(id: &Id, record: &Record) -> usize {
    let live = record.connections.iter().filter_map(|each| each.device.as_ref());
    let leaving = record.leaving.iter().filter_map(|each| each.device.as_ref());
    let devices: usize = live.chain(leaving).map(|device| device.as_str().len() + 3).sum();
    let texts = id.as_str().len() + record.status.as_deref().map_or(0, str::len);
    FIXED_BYTES + MAX_ESCAPED * texts + devices + record.custom.as_members().len()
}

/// The largest size of the user for others, in bytes of JSON, online or offline, whichever
/// availability it chooses, and whether or not it shows its times: none of that can be too large.
pub fn largest_view(id: &Id, record: &Record) -> usize {
    let bytes = |shown: &Shown<'_>, version| {
        let mut view = Vec::with_capacity(512);
        push_fields(&mut view, id, record, shown, version);
        push_custom(&mut view, record);
        // The brace that closes it.
        view.len() + 1
    };
    let shown = shown(Some(record));
    let last_active = record.shown_last_active;
    if !shown.online {
        let offline_since = record.shown_offline_since;
        return bytes(&Shown { last_active, offline_since, ..shown }, record.version);
    }
    let now = Shown { last_active, availability: Availability::Active, ..shown };
    let later = Shown {
        online: false,
        availability: Availability::Offline,
        devices: Vec::new(),
        offline_since: last_active,
        ..now.clone()
    };
    let version = record.version.max(LARGE_VERSION);
    bytes(&now, version).max(bytes(&later, version))
}

/// Appends the user as `viewer` sees it.
pub fn push_seen_by(out: &mut Vec<u8>, id: &Id, record: &Record, viewer: Viewer<'_>) {
    if viewer.sees_truth_of(id) {
        push_own(out, id, record, true);
    } else {
        push_public(out, id, record);
    }
}

/// Appends the user as it sees itself, with or without its custom fields.
pub fn push_own(out: &mut Vec<u8>, id: &Id, record: &Record, custom: bool) {
    push_fields(out, id, record, &record.truth(), record.version);
    json::push(out, ",\"invisible\":");
    json::push_bool(out, record.invisible);
    json::push(out, ",\"availability_choice\":");
    json::push_str(out, record.choice.name());
    json::push(out, ",\"hide_last_active\":");
    json::push_bool(out, record.hide_last_active);
    if custom {
        push_custom(out, record);
    }
    out.push(b'}');
}

/// Appends a member of a channel as `viewer` sees it. A user who does not exist is offline, with
/// the version that its deletion left.
pub fn push_member(
    out: &mut Vec<u8>,
    id: &Id,
    stored: Option<&Stored<Record>>,
    viewer: Viewer<'_>,
) {
    match stored {
        Some(Stored::Present(record)) => push_seen_by(out, id, record, viewer),
        Some(Stored::Absent { version, .. }) => push_bare(out, id, *version),
        Some(Stored::Unreadable) | None => push_bare(out, id, 0),
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
    push_fields(out, id, record, &shown(Some(record)), record.version);
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
fn push_fields(out: &mut Vec<u8>, id: &Id, record: &Record, shown: &Shown<'_>, version: u64) {
    json::push(out, "{\"id\":");
    json::push_str(out, id.as_str());
    json::push(out, ",\"online\":");
    json::push_bool(out, shown.online);
    json::push(out, ",\"status\":");
    json::push_optional_str(out, shown.status);
    json::push(out, ",\"last_active\":");
    json::push_optional_time(out, shown.last_active);
    json::push(out, ",\"offline_since\":");
    json::push_optional_time(out, shown.offline_since);
    json::push(out, ",\"availability\":");
    json::push_str(out, shown.availability.name());
    if !shown.devices.is_empty() {
        json::push(out, ",\"devices\":");
        json::push_array(out, &shown.devices, |out, device| json::push_str(out, device));
    }
    if shown.status_expires_at.is_some() {
        json::push(out, ",\"status_expires_at\":");
        json::push_optional_time(out, shown.status_expires_at);
    }
    push_times(out, record);
    json::push(out, ",\"version\":");
    json::push_number(out, version);
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
    json::push(
        out,
        ",\"online\":false,\"status\":null,\"last_active\":null,\"offline_since\":null,\
         \"availability\":\"offline\",\"version\":",
    );
    json::push_number(out, version);
    out.push(b'}');
}
