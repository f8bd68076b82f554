//! Builds one decision: record, version and event from the present record.

use std::sync::Arc;

use super::Users;
use super::connection::{Connection, Leaving, LeavingKey};
use super::decide::{Outcome, Rules, touch};
use super::patch::Patch;
use super::record::Record;
use super::view::{self, MAX_USER_BYTES, is_announced};
use crate::presence::entity::{DaemonId, Decision, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};

/// The greatest number of leaving connections of a user, unless the limit of live ones is greater.
/// A user of few connections at a time may leave on many devices within a grace.
const MAX_LEAVING: usize = 100;

/// A change of what is stored of a user.
pub(super) struct Change<'a> {
    pub id: &'a Id,
    pub before: Option<&'a Record>,
    /// The version of what is stored.
    pub version: u64,
    /// The daemon that made the change that it counts.
    pub changed_by: Option<DaemonId>,
    pub rules: &'a Rules,
    pub daemon: DaemonId,
    pub now: Now,
}

/// The reason why connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// Silent for a lease; no grace follows.
    Lapsed,
    /// Disconnected, with a grace of `grace_ms` or the default.
    Asked { grace_ms: Option<u64> },
}

impl<'a> Change<'a> {
    pub fn of(
        id: &'a Id,
        stored: &'a Stored<Record>,
        rules: &'a Rules,
        daemon: DaemonId,
        now: Now,
    ) -> Result<Self, Refusal> {
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
        Ok(Self { id, before: stored.record(), version, changed_by, rules, daemon, now })
    }

    /// The record with the fields of a patch, made if there is none, and whether that is a change.
    /// `defaults` count before the patch, and only if the record is made.
    pub fn patched(
        &self,
        patch: &Patch,
        defaults: Option<&Patch>,
    ) -> Result<(Record, bool), Refusal> {
        let mut record = self.before.cloned().unwrap_or_else(|| Record {
            changed_by: self.changed_by,
            ..Record::new(self.now.wall, self.version)
        });
        let mut changed = self.before.is_none();
        for patch in defaults.filter(|_| changed).into_iter().chain([patch]) {
            changed |= patch.apply(&mut record, self.now)?;
            if patch.invisible.is_some_and(|to| to != record.invisible) {
                turn(&mut record, self.now);
                changed = true;
            }
        }
        if changed {
            check_size(self.id, self.before, &record)?;
        }
        Ok((record, changed))
    }

    /// Stores `record`, with a new version and an event if others can tell the difference.
    pub fn put(
        &self,
        mut record: Record,
        outcome: impl FnOnce(&Record) -> Outcome,
    ) -> Decision<Users> {
        self.note_offline(&mut record);
        let seen = is_announced(self.before, Some(&record), &self.rules.announced_fields);
        if seen {
            record.version = self.next_version();
            record.changed_by = Some(self.daemon);
        }
        let outcome = outcome(&record);
        let event = seen.then(|| view::event(self.id, &record, self.now));
        Decision { next: Some(Stored::Present(Arc::new(record))), event, outcome }
    }

    /// Notes when the settings of the user change. That does not depend on whether it is online, or
    /// it would tell of an invisible one.
    pub fn note_settings(&self, record: &mut Record) {
        let settings = |record: &Record| {
            let Record { invisible, hide_last_active, choice, status_expires_at, .. } = *record;
            (invisible, hide_last_active, choice, status_expires_at)
        };
        if self.before.is_some_and(|before| settings(before) != settings(record)) {
            record.settings_at = Some(self.now.latest(record.settings_at));
        }
    }

    /// Notes when the user goes offline: in truth, and for others.
    fn note_offline(&self, record: &mut Record) {
        let latest = |previous| Some(self.now.latest(previous));
        if self.before.is_some_and(Record::is_shown_online) && !record.is_shown_online() {
            record.shown_offline_since = latest(record.shown_offline_since);
        }
        if self.before.is_some_and(Record::is_online) && !record.is_online() {
            record.offline_since = latest(record.offline_since);
        }
        record.settle_offline();
    }

    /// Ends the connections that `ended` picks, one after the other: at once, or, where the end
    /// would change what is announced, after a grace.
    pub fn without(
        &self,
        departure: Departure,
        ended: impl Fn(&Connection) -> bool,
    ) -> Decision<Users> {
        let invisible = self.before.is_some_and(|record| record.invisible);
        let any = |record: &&Record| record.connections.iter().any(&ended);
        let Some(mut record) = self.before.filter(any).cloned() else {
            return unchanged(Outcome::Disconnected { count: 0, invisible });
        };
        let grace = match departure {
            // No grace while invisible: others see no change that could flicker.
            _ if invisible => None,
            Departure::Lapsed | Departure::Asked { grace_ms: Some(0) } => None,
            Departure::Asked { grace_ms: None } if self.rules.no_grace => None,
            Departure::Asked { grace_ms } => Some(grace_ms),
        };
        let mut count = 0;
        while let Some(place) = record.connections.iter().position(&ended) {
            let is_seen = record.live_reachability(None) != record.live_reachability(Some(place));
            let connection = record.connections.remove(place);
            if let Some(grace_ms) = grace.filter(|_| is_seen) {
                record.leaving.push(Leaving::new(connection, self.now.wall, grace_ms));
            }
            count += 1;
        }
        // Drops the oldest, so that leaving connections stay bounded.
        let most = self.rules.connections_per_user.max(MAX_LEAVING);
        let surplus = record.leaving.len().saturating_sub(most);
        record.leaving.drain(..surplus);
        self.put(record, |_| Outcome::Disconnected { count, invisible })
    }

    /// Ends graces; naming one that is over already does nothing.
    pub fn end_leaving(&self, ended: &[LeavingKey]) -> Decision<Users> {
        let is_ended = |leaving: &Leaving| ended.contains(&leaving.key());
        match self.before {
            Some(before) if before.leaving.iter().any(is_ended) => {
                let mut record = before.clone();
                record.leaving.retain(|leaving| !is_ended(leaving));
                self.put(record, |_| Outcome::LeavingEnded(true))
            }
            _ => unchanged(Outcome::LeavingEnded(false)),
        }
    }

    /// Ends a status, exactly as an upsert of `null` does.
    pub fn expire_status(&self, expires_at: Time) -> Decision<Users> {
        match self.before {
            Some(before) if before.status_expires_at == Some(expires_at) => {
                let record = Record {
                    status: None,
                    status_expires_at: None,
                    updated_at: self.now.latest(Some(before.updated_at)),
                    ..before.clone()
                };
                self.put(record, |_| Outcome::StatusExpired(true))
            }
            _ => unchanged(Outcome::StatusExpired(false)),
        }
    }

    pub fn refresh(&self, seen: Option<Time>) -> Decision<Users> {
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

    pub fn purge(&self) -> Decision<Users> {
        if self.before.is_none() {
            return unchanged(Outcome::Deleted(false));
        }
        let seen = is_announced(self.before, None, &self.rules.announced_fields);
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

    /// `docs/protocol.md`, *User*: `max(previous + 1, milliseconds since 1970)`.
    pub fn next_version(&self) -> u64 {
        (self.version + 1).max(u64::try_from(self.now.wall.0).unwrap_or(0))
    }
}

pub(super) fn unchanged(outcome: Outcome) -> Decision<Users> {
    Decision { next: None, event: None, outcome }
}

/// Turns an invisible user visible or a visible one invisible.
pub(super) fn turn(record: &mut Record, now: Now) {
    record.invisible = !record.invisible;
    if record.invisible {
        record.leaving.clear();
    } else if !record.connections.is_empty() {
        touch(record, now);
    }
}

/// Refuses a user that is too large for others to see, whether online or offline, unless it is no
/// larger than before: one that an older daemon took can shrink and hide.
pub(super) fn check_size(id: &Id, before: Option<&Record>, record: &Record) -> Result<(), Refusal> {
    if view::view_bound(id, record) <= MAX_USER_BYTES {
        return Ok(());
    }
    let bytes = view::largest_view(id, record);
    let is_no_larger = |before| bytes <= view::largest_view(id, before);
    if bytes <= MAX_USER_BYTES || before.is_some_and(is_no_larger) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TooLarge,
        format!(
            "the user {id:?}, as others see it, would have {bytes} bytes, and at most \
             {MAX_USER_BYTES} are accepted: shorten its custom fields or its status"
        ),
    )
    .field("user")
    .limit(MAX_USER_BYTES as u64))
}
