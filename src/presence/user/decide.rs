//! The changes that each command makes to the record of a user. Pure: the same inputs, the same
//! decision.

use std::sync::Arc;

use super::Users;
use super::change::{Change, Departure, check_size, unchanged};
use super::connection::{Connection, ConnectionGen, Device, LeavingKey};
use super::patch::Patch;
use super::record::Record;
use super::seen::Seen;
use super::view::{self, AnnouncedFields, Viewer};
use crate::presence::entity::{DaemonId, Decision, Stored};
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};

/// The rules on which decisions depend, beside the record and the command.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The maximum number of connections of a user.
    pub connections_per_user: usize,
    /// Whether connections end without a grace unless one is requested.
    pub no_grace: bool,
    /// The custom fields that belong to what is announced.
    pub announced_fields: AnnouncedFields,
}

impl Rules {
    /// The rules of a service that announces no custom fields.
    pub fn new(connections_per_user: usize, no_grace: bool) -> Self {
        Self { connections_per_user, no_grace, announced_fields: AnnouncedFields::default() }
    }
}

/// Something that is to happen to a user.
#[derive(Debug)]
pub enum Command {
    /// Makes the user if there is none, applies the fields and adds or refreshes the connection.
    Connect {
        patch: Patch,
        /// Fields that count only if this makes the user; `patch` counts above them.
        defaults: Option<Box<Patch>>,
        connection: NewConnection,
        custom_in_answer: bool,
    },
    /// Changes what is named of one live connection.
    UpdateConnection { connection: Id, idle: Option<bool>, device: Option<Device> },
    /// Ends one connection; if a lease is named, only one that hangs on it.
    Disconnect { connection: Id, lease: Option<Id>, grace_ms: Option<u64> },
    /// Ends all connections on a lease.
    DisconnectLease { lease: Id, grace_ms: Option<u64> },
    /// Ends connections that have been silent for too long, unless they have connected again.
    Lapse { generations: Vec<ConnectionGen> },
    /// Sets `last_active` to now, if it still has the value that was seen.
    Refresh { seen: Option<Time> },
    /// Makes the user if there is none and applies the fields.
    Upsert { patch: Patch, custom_in_answer: bool },
    /// Removes the user; if a filter is named, only one that matches it as it truly is.
    Delete { only: Option<Arc<Filter>> },
    /// Removes the user, if it is offline and was last touched then.
    Forget { touched: Time },
    /// Ends the graces of these leaving connections, as far as they are still leaving.
    EndLeaving { ended: Vec<LeavingKey> },
    /// Ends the status that ends then, if it is still set.
    ExpireStatus { expires_at: Time },
    /// The store lost `lost`, which others have seen: the record gets a version above it, and
    /// others are told what they see now.
    Repair { lost: Box<Stored<Record>> },
}

/// A connection as its `connect` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConnection {
    pub id: Id,
    pub lease: Option<Id>,
    pub device: Option<Device>,
    pub idle: bool,
}

impl NewConnection {
    /// A connection that keeps itself alive, without a device.
    pub fn plain(id: Id) -> Self {
        Self { id, lease: None, device: None, idle: false }
    }
}

/// The outcome of a command, for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The user as it sees itself, as JSON, and whether this made it. `invisible`: the user was
    /// and is invisible.
    Connected { connection: Id, me: Vec<u8>, created: bool, invisible: bool },
    /// Whether the connection is there, and whether the user is invisible.
    ConnectionUpdated { known: bool, invisible: bool },
    /// The number of ended connections, and whether the user is invisible.
    Disconnected { count: usize, invisible: bool },
    /// The user as it sees itself, as JSON.
    Upserted { me: Vec<u8> },
    /// Whether there was something to delete.
    Deleted(bool),
    /// Whether a grace was ended.
    LeavingEnded(bool),
    /// Whether the status was ended.
    StatusExpired(bool),
    /// Whether `last_active` was refreshed.
    Refreshed(bool),
    /// Others see what is stored.
    Repaired,
}

impl Outcome {
    /// The number of bytes of JSON that the outcome shows of the user.
    pub fn shown_bytes(&self) -> usize {
        match self {
            Self::Connected { me, .. } | Self::Upserted { me } => me.len(),
            Self::ConnectionUpdated { .. }
            | Self::Disconnected { .. }
            | Self::Deleted(_)
            | Self::LeavingEnded(_)
            | Self::StatusExpired(_)
            | Self::Refreshed(_)
            | Self::Repaired => 0,
        }
    }
}

pub(super) fn decide(
    id: &Id,
    stored: &Stored<Record>,
    command: &Command,
    rules: &Rules,
    daemon: DaemonId,
    now: Now,
) -> Result<Decision<Users>, Refusal> {
    let change = Change::of(id, stored, rules, daemon, now)?;
    match command {
        Command::Connect { patch, defaults, connection, custom_in_answer } => {
            connect(&change, patch, defaults.as_deref(), connection, *custom_in_answer)
        }
        Command::UpdateConnection { connection, idle, device } => {
            update_connection(&change, connection, *idle, device.as_ref())
        }
        Command::Upsert { patch, custom_in_answer } => upsert(&change, patch, *custom_in_answer),
        Command::Disconnect { connection, lease, grace_ms } => {
            let ended = |each: &Connection| {
                each.id == *connection && (lease.is_none() || each.lease == *lease)
            };
            Ok(change.without(Departure::Asked { grace_ms: *grace_ms }, ended))
        }
        Command::DisconnectLease { lease, grace_ms } => {
            let ended = |each: &Connection| each.lease.as_ref() == Some(lease);
            Ok(change.without(Departure::Asked { grace_ms: *grace_ms }, ended))
        }
        Command::Lapse { generations } => {
            let lapsed = |each: &Connection| {
                let is_it = |l: &ConnectionGen| {
                    (&l.connection, l.generation) == (&each.id, each.generation)
                };
                generations.iter().any(is_it)
            };
            Ok(change.without(Departure::Lapsed, lapsed))
        }
        Command::Refresh { seen } => Ok(change.refresh(*seen)),
        Command::Delete { only } => Ok(delete(&change, only.as_deref())),
        Command::Forget { touched } => Ok(forget(&change, *touched)),
        Command::EndLeaving { ended } => Ok(change.end_leaving(ended)),
        Command::ExpireStatus { expires_at } => Ok(change.expire_status(*expires_at)),
        Command::Repair { lost } => Ok(change.repair(lost)),
    }
}

fn connect(
    change: &Change<'_>,
    patch: &Patch,
    defaults: Option<&Patch>,
    connection: &NewConnection,
    custom_in_answer: bool,
) -> Result<Decision<Users>, Refusal> {
    let (mut record, _) = change.patched(patch, defaults)?;
    add(&mut record, connection, change.rules.connections_per_user)?;
    touch(&mut record, change.now);
    let shows_times = change.before.is_some_and(|b| b.shown_last_active.is_some() && b.version > 0);
    let devices = view::shown(Some(&record)).devices;
    if !shows_times || devices != view::shown(change.before).devices {
        // It shows what it did not show before. A user that an older daemon took still connects.
        check_size(change.id, change.before, &record)?;
    }
    let was_visible = change.before.is_some_and(|before| !before.invisible);
    Ok(change.put(record, |record| Outcome::Connected {
        connection: connection.id.clone(),
        created: change.before.is_none(),
        invisible: record.invisible && !was_visible,
        me: own(change.id, record, custom_in_answer),
    }))
}

/// Adds the connection, in place of those of the same device that are leaving, or refreshes it. A
/// refresh takes the place of none: it is no sign that another page came back.
fn add(record: &mut Record, new: &NewConnection, limit: usize) -> Result<(), Refusal> {
    let generation = record.generation + 1;
    let NewConnection { id, lease, device, idle } = new.clone();
    if let Some(known) = record.connections.iter_mut().find(|known| known.id == id) {
        *known = Connection { lease, device, idle, generation, ..known.clone() };
        record.generation = generation;
        return Ok(());
    }
    if record.connections.len() >= limit {
        return Err(Refusal::new(
            Code::LimitExceeded,
            format!(
                "the user has {limit} connections, and `limits.connections_per_user` allows no more"
            ),
        )
        .field("connection_id")
        .limit(limit as u64));
    }
    record.connections.reserve_exact(1);
    record.connections.push(Connection { id, lease, device, idle, generation, unknown: None });
    record.generation = generation;
    record
        .leaving
        .retain(|each| each.device != new.device && each.connection.as_ref() != Some(&new.id));
    Ok(())
}

fn upsert(change: &Change<'_>, patch: &Patch, custom: bool) -> Result<Decision<Users>, Refusal> {
    let (mut record, is_changed) = change.patched(patch, None)?;
    change.note_settings(&mut record);
    let outcome = |record: &Record| Outcome::Upserted { me: own(change.id, record, custom) };
    if is_changed { Ok(change.put(record, outcome)) } else { Ok(unchanged(outcome(&record))) }
}

/// Deletes the user, or with `only` a user who matches that.
fn delete(change: &Change<'_>, only: Option<&Filter>) -> Decision<Users> {
    let (id, viewer) = (change.id, Viewer::Eraser);
    let matches = |filter: &Filter, record| filter.matches(&Seen { id, record, viewer });
    let is_excluded =
        only.is_some_and(|filter| change.before.is_none_or(|record| !matches(filter, record)));
    if is_excluded { unchanged(Outcome::Deleted(false)) } else { change.purge() }
}

/// Deletes a user who is offline and was not touched since `touched`.
fn forget(change: &Change<'_>, touched: Time) -> Decision<Users> {
    let is_meant =
        |record: &&Record| !record.is_online() && record.touched(change.now.stream) == touched;
    match change.before.filter(is_meant) {
        Some(_) => change.purge(),
        None => unchanged(Outcome::Deleted(false)),
    }
}

fn update_connection(
    change: &Change<'_>,
    connection: &Id,
    idle: Option<bool>,
    device: Option<&Device>,
) -> Result<Decision<Users>, Refusal> {
    let invisible = change.before.is_some_and(|record| record.invisible);
    let place = change
        .before
        .and_then(|record| record.connections.iter().position(|each| each.id == *connection));
    let (Some(before), Some(place)) = (change.before, place) else {
        return Ok(unchanged(Outcome::ConnectionUpdated { known: false, invisible }));
    };
    let mut record = before.clone();
    let updated = &mut record.connections[place];
    updated.idle = idle.unwrap_or(updated.idle);
    updated.device = device.or(updated.device.as_ref()).cloned();
    let outcome = Outcome::ConnectionUpdated { known: true, invisible };
    if record == *before {
        return Ok(unchanged(outcome));
    }
    if device.is_some() {
        check_size(change.id, change.before, &record)?;
    }
    Ok(change.put(record, |_| outcome))
}

/// The user is active now. The time that others see stays frozen while the user is invisible, and
/// then goes on from where it was. If the clock jumps back, a later moment of invisible time stays
/// invisible.
pub(super) fn touch(record: &mut Record, now: Now) {
    let latest = |previous| Some(now.latest(previous));
    record.last_active = latest(record.last_active);
    if !record.invisible {
        record.shown_last_active = latest(record.shown_last_active);
        record.last_active = record.last_active.max(record.shown_last_active);
    }
}

fn own(id: &Id, record: &Record, custom: bool) -> Vec<u8> {
    let mut me = Vec::with_capacity(384);
    view::push_own(&mut me, id, record, custom);
    me
}
