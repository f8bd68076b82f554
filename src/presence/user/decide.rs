//! What each command does to the record of a user. Pure: the same inputs, the same decision.

use super::Users;
use super::own_leases::ConnectionGen;
use super::patch::Patch;
use super::record::{Connection, Record};
use super::view::{self, MAX_USER_BYTES, shown};
use crate::presence::entity::{DaemonId, Decision, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};

/// What decisions depend on beside the record and the command.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How many connections a user may have.
    pub connections_per_user: usize,
    /// Whether the end of the last connection is the offline, without a grace.
    pub no_grace: bool,
}

/// Something that is to happen to a user.
#[derive(Debug)]
pub enum Command {
    /// Makes the user if there is none, applies the fields and adds or refreshes the connection.
    Connect { patch: Patch, connection: Id, lease: Option<Id>, custom_in_answer: bool },
    /// Ends one connection; with `lease`, only if it hangs on that one.
    Disconnect { connection: Id, lease: Option<Id> },
    /// Ends all connections on a lease.
    DisconnectLease { lease: Id },
    /// Ends connections that have been silent for too long, unless they have connected again.
    Lapse { generations: Vec<ConnectionGen> },
    /// The user is still there: `last_active` becomes now, if it is still the one that was seen.
    Refresh { seen: Option<Time> },
    /// Makes the user if there is none and applies the fields.
    Upsert { patch: Patch, custom_in_answer: bool },
    /// Removes the user.
    Delete,
    /// Ends the grace that began then, if it is still the one.
    EndGrace { since: Time },
}

/// What the sender of a command is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The user as it sees itself, as JSON. `invisible`: the user was and is invisible.
    Connected { connection: Id, me: Vec<u8>, invisible: bool },
    /// How many connections were ended, and whether the user is invisible.
    Disconnected { count: usize, invisible: bool },
    /// The user as it sees itself, as JSON.
    Upserted { me: Vec<u8> },
    /// Whether there was something to delete.
    Deleted(bool),
    /// Whether the grace was ended.
    GraceEnded(bool),
    /// Whether `last_active` was refreshed.
    Refreshed(bool),
}

impl Outcome {
    /// How many bytes of JSON the outcome shows of the user.
    pub fn shown_bytes(&self) -> usize {
        match self {
            Self::Connected { me, .. } | Self::Upserted { me } => me.len(),
            Self::Disconnected { .. }
            | Self::Deleted(_)
            | Self::GraceEnded(_)
            | Self::Refreshed(_) => 0,
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
    let (version, changed_by) = match stored {
        Stored::Absent { version, changed_by } => (*version, *changed_by),
        Stored::Present(record) => (record.version, record.changed_by),
        Stored::Unreadable => {
            return Err(Refusal::new(
                Code::Unavailable,
                "the stored record of this user cannot be read; it is left as it is",
            ));
        }
    };
    let change = Change { id, before: stored.record(), version, changed_by, daemon, now };
    match command {
        Command::Connect { patch, connection, lease, custom_in_answer } => {
            let (mut record, _) = change.patched(patch)?;
            connect(&mut record, connection, lease.as_ref(), rules, now)?;
            if change.before.is_none_or(|b| b.shown_last_active.is_none() || b.version == 0) {
                // It shows a time and a version that it did not show before.
                check_size(id, &Record { version: change.next_version(), ..record.clone() })?;
            }
            let was_visible = change.before.is_some_and(|before| !before.invisible);
            Ok(change.put(record, |record| Outcome::Connected {
                connection: connection.clone(),
                invisible: record.invisible && !was_visible,
                me: own(id, record, *custom_in_answer),
            }))
        }
        Command::Upsert { patch, custom_in_answer } => {
            let (record, changed) = change.patched(patch)?;
            let outcome =
                |record: &Record| Outcome::Upserted { me: own(id, record, *custom_in_answer) };
            if changed { Ok(change.put(record, outcome)) } else { Ok(unchanged(outcome(&record))) }
        }
        Command::Disconnect { connection, lease } => {
            let ends = |each: &Connection| {
                each.id == *connection && (lease.is_none() || each.lease == *lease)
            };
            Ok(change.without(!rules.no_grace, ends))
        }
        Command::DisconnectLease { lease } => {
            Ok(change.without(!rules.no_grace, |each| each.lease.as_ref() == Some(lease)))
        }
        Command::Lapse { generations } => {
            let lapsed = |each: &Connection| {
                generations
                    .iter()
                    .any(|l| l.connection == each.id && l.generation == each.generation)
            };
            Ok(change.without(false, lapsed))
        }
        Command::Refresh { seen } => Ok(change.refresh(*seen)),
        Command::Delete => Ok(change.purge()),
        Command::EndGrace { since } => Ok(change.end_grace(*since)),
    }
}

/// One decision in the making.
struct Change<'a> {
    id: &'a Id,
    before: Option<&'a Record>,
    /// The version of what is stored.
    version: u64,
    /// Who made the change that it counts.
    changed_by: Option<DaemonId>,
    daemon: DaemonId,
    now: Now,
}

impl Change<'_> {
    /// The record with the fields of a patch, made if there is none, and whether that is a change.
    fn patched(&self, patch: &Patch) -> Result<(Record, bool), Refusal> {
        let mut record = self.before.cloned().unwrap_or_else(|| Record {
            changed_by: self.changed_by,
            ..Record::new(self.now.wall, self.version)
        });
        let fields_changed = patch.apply_fields(&mut record, self.now);
        let visibility_changed = patch.invisible.is_some_and(|to| to != record.invisible);
        if visibility_changed {
            turn(&mut record, self.now);
        }
        if fields_changed || visibility_changed || self.before.is_none() {
            check_size(self.id, &record)?;
        }
        Ok((record, fields_changed || visibility_changed || self.before.is_none()))
    }

    /// Stores `record`, with a new version and an event if others can tell the difference.
    fn put(&self, mut record: Record, outcome: impl FnOnce(&Record) -> Outcome) -> Decision<Users> {
        let seen = shown(self.before).differs_from(&shown(Some(&record)));
        if seen {
            record.version = self.next_version();
            record.changed_by = Some(self.daemon);
        }
        let outcome = outcome(&record);
        let event = seen.then(|| view::event(self.id, &record, self.now));
        Decision { next: Some(Stored::Present(Box::new(record))), event, outcome }
    }

    /// Ends the connections that `ended` picks, the last of them with a grace or without.
    fn without(&self, grace: bool, ended: impl Fn(&Connection) -> bool) -> Decision<Users> {
        let count =
            self.before.map_or(0, |record| record.connections.iter().filter(|c| ended(c)).count());
        let Some(before) = self.before.filter(|_| count > 0) else {
            let invisible = self.before.is_some_and(|record| record.invisible);
            return unchanged(Outcome::Disconnected { count: 0, invisible });
        };
        let mut record = before.clone();
        record.connections.retain(|each| !ended(each));
        let hold = record.connections.is_empty() && !record.invisible && grace;
        record.grace_since = hold.then_some(self.now.wall);
        self.put(record, |record| Outcome::Disconnected { count, invisible: record.invisible })
    }

    fn end_grace(&self, since: Time) -> Decision<Users> {
        match self.before {
            Some(record) if record.grace_since == Some(since) => {
                let record = Record { grace_since: None, ..record.clone() };
                self.put(record, |_| Outcome::GraceEnded(true))
            }
            _ => unchanged(Outcome::GraceEnded(false)),
        }
    }

    fn refresh(&self, seen: Option<Time>) -> Decision<Users> {
        match self.before {
            Some(record)
                if !record.connections.is_empty() && record.refreshed_last_active() == seen =>
            {
                let mut next = record.clone();
                touch(&mut next, self.now);
                if next == *record {
                    return unchanged(Outcome::Refreshed(false));
                }
                self.put(next, |_| Outcome::Refreshed(true))
            }
            _ => unchanged(Outcome::Refreshed(false)),
        }
    }

    fn purge(&self) -> Decision<Users> {
        if self.before.is_none() {
            return unchanged(Outcome::Deleted(false));
        }
        let seen = shown(self.before).differs_from(&shown(None));
        let (version, changed_by) = if seen {
            (self.next_version(), Some(self.daemon))
        } else {
            (self.version, self.changed_by)
        };
        Decision {
            next: Some(Stored::Absent { version, changed_by }),
            event: seen.then(|| view::deletion_event(self.id, version, self.now)),
            outcome: Outcome::Deleted(true),
        }
    }

    /// `PROTOCOL`, section 2: `max(previous + 1, milliseconds since 1970)`.
    fn next_version(&self) -> u64 {
        (self.version + 1).max(u64::try_from(self.now.wall.0).unwrap_or(0))
    }
}

fn unchanged(outcome: Outcome) -> Decision<Users> {
    Decision { next: None, event: None, outcome }
}

/// Turns an invisible user visible or a visible one invisible.
fn turn(record: &mut Record, now: Now) {
    record.invisible = !record.invisible;
    if record.invisible {
        // Hidden time knows no grace: whoever left and hides is simply gone.
        record.grace_since = None;
    } else if !record.connections.is_empty() {
        touch(record, now);
    }
}

/// Adds the connection or refreshes it. The user is active now, and no longer leaving.
fn connect(
    record: &mut Record,
    connection: &Id,
    lease: Option<&Id>,
    rules: &Rules,
    now: Now,
) -> Result<(), Refusal> {
    let generation = record.generation + 1;
    if let Some(known) = record.connections.iter_mut().find(|known| known.id == *connection) {
        known.lease = lease.cloned();
        known.generation = generation;
    } else if record.connections.len() < rules.connections_per_user {
        record.connections.push(Connection {
            id: connection.clone(),
            lease: lease.cloned(),
            generation,
            unknown: None,
        });
    } else {
        let limit = rules.connections_per_user;
        return Err(Refusal::new(
            Code::LimitExceeded,
            format!(
                "the user has {limit} connections, and `limits.connections_per_user` allows no more"
            ),
        )
        .field("connection_id")
        .limit(limit as u64));
    }
    record.generation = generation;
    record.grace_since = None;
    touch(record, now);
    Ok(())
}

/// The user is active now. What others see of it stays frozen while the user is invisible, and
/// goes on from where it was: if the clock jumps back, a later moment of invisible time stays invisible.
fn touch(record: &mut Record, now: Now) {
    record.last_active = record.last_active.max(Some(now.wall));
    if !record.invisible {
        record.shown_last_active = record.shown_last_active.max(Some(now.wall));
    }
}

fn check_size(id: &Id, record: &Record) -> Result<(), Refusal> {
    let mut view = Vec::with_capacity(512);
    view::push_public(&mut view, id, record);
    // `false` is a letter longer: who fits while online must fit when offline.
    let bytes = view.len() + usize::from(shown(Some(record)).online);
    if bytes <= MAX_USER_BYTES {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TooLarge,
        format!(
            "the user {id:?}, as others see it, would have {bytes} bytes, and at most {MAX_USER_BYTES} are accepted: shorten its custom fields or its status"
        ),
    )
    .field("user")
    .limit(MAX_USER_BYTES as u64))
}

fn own(id: &Id, record: &Record, custom: bool) -> Vec<u8> {
    let mut me = Vec::with_capacity(320);
    view::push_own(&mut me, id, record, custom);
    me
}
