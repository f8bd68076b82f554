//! Repair of a user after the store lost a newer record of it. A version never goes back. A user
//! who was invisible or deleted does not come back into others' view.

use std::sync::Arc;

use super::change::{Change, turn, unchanged};
use super::decide::Outcome;
use super::record::Record;
use super::view::{self, is_announced};
use super::{Entity, Users};
use crate::presence::entity::{Decision, Stored};

/// Returns whether others may see a difference between `lost` and the older `found`.
pub(super) fn needed(lost: &Stored<Record>, found: &Stored<Record>) -> bool {
    if Users::version(found) > Users::version(lost) {
        // Others were told of what is stored.
        return false;
    }
    match (lost, found) {
        (Stored::Unreadable, _) | (_, Stored::Unreadable) => false,
        // A user that nobody has seen.
        (Stored::Present(lost), Stored::Absent { .. }) => lost.version > 0,
        (Stored::Present(lost), Stored::Present(found)) => {
            lost.version > found.version || lost.invisible && !found.invisible
        }
        (Stored::Absent { .. }, Stored::Present(_)) => true,
        (Stored::Absent { .. }, Stored::Absent { .. }) => false,
    }
}

impl Change<'_> {
    /// Gives the record a version that is not below that of `lost`, which others have seen, and
    /// announces what they see now if that differs.
    pub fn repair(&self, lost: &Stored<Record>) -> Decision<Users> {
        if self.version > Users::version(lost) {
            return unchanged(Outcome::Repaired);
        }
        match (lost, self.before) {
            (Stored::Present(lost), Some(found)) => self.raise(lost, found),
            (Stored::Present(lost), None) => self.mark_deleted(lost),
            // A change on top of what the store brought back was announced by the same version.
            (Stored::Absent { version, .. }, Some(_)) if self.version == *version => {
                Decision { outcome: Outcome::Repaired, ..self.purge() }
            }
            (Stored::Absent { version, changed_by }, Some(_)) => Decision {
                next: Some(Stored::Absent { version: *version, changed_by: *changed_by }),
                event: None,
                outcome: Outcome::Repaired,
            },
            (Stored::Absent { .. }, None) | (Stored::Unreadable, _) => unchanged(Outcome::Repaired),
        }
    }

    /// The store holds an older record than `lost`.
    fn raise(&self, lost: &Record, found: &Record) -> Decision<Users> {
        let mut record = found.clone();
        if lost.invisible && !record.invisible {
            turn(&mut record, self.now);
            record.shown_last_active = found.shown_last_active.max(lost.shown_last_active);
            record.shown_offline_since = found.shown_offline_since.max(lost.shown_offline_since);
            record.settle_offline();
        }
        let seen = is_announced(Some(lost), Some(&record), &self.rules.announced_fields);
        let (version, changed_by) = self.version_above(lost, seen);
        (record.version, record.changed_by) = (version, changed_by);
        if record == *found {
            return unchanged(Outcome::Repaired);
        }
        let event = seen.then(|| view::event(self.id, &record, self.now));
        Decision {
            next: Some(Stored::Present(Arc::new(record))),
            event,
            outcome: Outcome::Repaired,
        }
    }

    /// The store holds nothing in place of `lost`. A marker keeps the version, unless the clock
    /// does.
    fn mark_deleted(&self, lost: &Record) -> Decision<Users> {
        let seen = is_announced(Some(lost), None, &self.rules.announced_fields);
        let is_ahead = i64::try_from(lost.version).is_ok_and(|version| version >= self.now.wall.0);
        if !seen && !is_ahead {
            return unchanged(Outcome::Repaired);
        }
        let (version, changed_by) = self.version_above(lost, seen);
        Decision {
            next: Some(Stored::Absent { version, changed_by }),
            event: seen.then(|| view::deletion_event(self.id, version, self.now)),
            outcome: Outcome::Repaired,
        }
    }

    fn version_above(
        &self,
        lost: &Record,
        seen: bool,
    ) -> (u64, Option<crate::presence::entity::DaemonId>) {
        if seen {
            (self.next_version().max(lost.version + 1), Some(self.daemon))
        } else {
            (lost.version, lost.changed_by)
        }
    }
}
