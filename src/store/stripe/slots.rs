//! The known content of each key, as small as it can be kept: a million keys are in memory.

use std::fmt;

use crate::presence::entity::{DaemonId, Entity, Stored};
use crate::presence::table::{Keyed, Table};

/// The known content of all keys of a stripe.
#[derive(Debug)]
pub(super) struct Slots<E: Entity>(Table<Slot<E>>);

/// The known content of one key.
pub(super) struct Slot<E: Entity> {
    pub(super) key: E::Key,
    pub(super) rev: u64,
    /// The revision that the feed delivered last in this epoch; 0 if none.
    pub(super) fed: u64,
    /// The epoch to which the revisions belong.
    pub(super) epoch: u32,
    kept: Kept<E>,
}

/// The place in the stream of the content of a key: the fields of [`Slot`].
pub(super) struct Position {
    pub(super) rev: u64,
    pub(super) fed: u64,
    pub(super) epoch: u32,
}

/// As [`Stored`], with the record in the form in which the replica keeps it.
enum Kept<E: Entity> {
    Absent { version: u64, changed_by: Option<DaemonId> },
    Present(E::Kept),
    Unreadable,
}

impl<E: Entity> Slot<E> {
    pub(super) fn stored(&self) -> Stored<E::Record> {
        match &self.kept {
            Kept::Absent { version, changed_by } => {
                Stored::Absent { version: *version, changed_by: *changed_by }
            }
            Kept::Present(kept) => Stored::Present(E::restore(kept)),
            Kept::Unreadable => Stored::Unreadable,
        }
    }

    /// Returns whether there is a record, readable or not.
    pub(super) fn holds_record(&self) -> bool {
        !matches!(self.kept, Kept::Absent { .. })
    }

    /// The version, and the daemon that made the change which it counts.
    pub(super) fn change(&self) -> (u64, Option<DaemonId>) {
        match &self.kept {
            Kept::Absent { version, changed_by } => (*version, *changed_by),
            Kept::Present(kept) => E::kept_change(kept),
            Kept::Unreadable => (0, None),
        }
    }
}

impl<E: Entity> Keyed for Slot<E> {
    type Key = E::Key;

    fn key(&self) -> &E::Key {
        &self.key
    }
}

impl<E: Entity> fmt::Debug for Slot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {:?}", self.key, self.rev, self.stored())
    }
}

impl<E: Entity> Slots<E> {
    pub(super) fn new() -> Self {
        Self(Table::default())
    }

    pub(super) fn get(&self, key: &E::Key) -> Option<&Slot<E>> {
        self.0.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &E::Key) -> Option<&mut Slot<E>> {
        self.0.get_mut(key)
    }

    /// Replaces what is known of a key.
    pub(super) fn put(&mut self, key: &E::Key, position: Position, stored: Stored<E::Record>) {
        let Position { rev, fed, epoch } = position;
        let kept = match stored {
            Stored::Absent { version, changed_by } => Kept::Absent { version, changed_by },
            Stored::Present(record) => Kept::Present(E::keep(record)),
            Stored::Unreadable => Kept::Unreadable,
        };
        if let Some(slot) = self.0.get_mut(key) {
            *slot = Slot { key: slot.key.clone(), rev, fed, epoch, kept };
        } else {
            self.0.insert_new(Slot { key: key.clone(), rev, fed, epoch, kept });
        }
    }

    pub(super) fn remove(&mut self, key: &E::Key) {
        self.0.remove(key);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<E>> {
        self.0.iter()
    }
}
