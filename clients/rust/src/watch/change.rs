//! The changes that a watch yields.

use std::sync::Arc;

use super::WatchState;
use crate::id::Id;
use crate::merge::Known;
use crate::user::{Fields, Seen};

/// The kind of a user's change, as the application sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The user was unknown.
    First,
    /// The user came online.
    Came,
    /// The user went offline.
    Left,
    /// Another status.
    Status,
    /// Other fields.
    Fields,
    /// The user was deleted, nobody has made it, or it no longer matches the watch's filter.
    Gone,
    /// The custom fields are not of the application's type: see [`Known::Unreadable`].
    Unreadable,
}

/// An item that a [`Watch`](crate::Watch) yields.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Change<F = Fields> {
    /// A user changed. Steps that the reader was too slow for are left out.
    User {
        /// The id of the user.
        id: Id,
        /// The kind of the change.
        kind: Kind,
        /// As the reader saw the user before.
        before: Option<Arc<Seen<F>>>,
        /// As the user is now; `None` if there is none.
        now: Option<Arc<Seen<F>>>,
    },
    /// The watch is in another state.
    State(WatchState),
}

// Derived, it would ask for fields that can be cloned, which are shared instead.
impl<F> Clone for Change<F> {
    fn clone(&self) -> Self {
        match self {
            Self::User { id, kind, before, now } => {
                Self::User { id: id.clone(), kind: *kind, before: before.clone(), now: now.clone() }
            }
            Self::State(state) => Self::State(state.clone()),
        }
    }
}

pub(crate) fn change<F>(id: Id, before: &Known<F>, now: Known<F>) -> Change<F> {
    let kind = match (before, &now) {
        (_, Known::Unreadable(_)) => Kind::Unreadable,
        (_, Known::Absent | Known::Unknown) => Kind::Gone,
        (Known::Unknown, _) => Kind::First,
        (Known::User(before), Known::User(now)) if before.online == now.online => {
            if before.status == now.status { Kind::Fields } else { Kind::Status }
        }
        (Known::User(before), _) if before.online => Kind::Left,
        (_, Known::User(now)) if now.online => Kind::Came,
        (_, Known::User(_)) => Kind::Fields,
    };
    Change::User { id, kind, before: before.user().cloned(), now: now.user().cloned() }
}
