//! A watch: the picture of some users, and what changes in it.

mod all;
mod change;
mod matching;
mod shared;

use std::collections::HashSet;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;
use tokio::sync::{oneshot, watch};

pub use self::change::{Change, Kind};
pub(crate) use self::shared::{Picture, Shared};
use crate::error::Error;
use crate::hub::{Command, HubHandle};
use crate::id::Id;
use crate::merge::Known;
use crate::user::{CustomFields, Fields, Seen};

/// The reliability of a watch's picture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WatchState {
    /// The first picture is not complete.
    Loading,
    /// All that is shown is as the service has it, but for what is on the way.
    Live,
    /// As [`WatchState::Live`], but an audit found events that did not arrive: what changes is
    /// perhaps shown minutes later.
    Degraded(&'static str),
    /// The picture is the last one known, and may be old.
    Stale(&'static str),
    /// A permission is missing, or the query was refused: some users stay unknown.
    Denied(Error),
    /// The watch has ended.
    Closed,
}

impl WatchState {
    /// Returns whether the picture is complete, and of now.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self, Self::Live | Self::Degraded(_))
    }
}

/// A [`Watch`] of users that the application names, and may change.
#[derive(Debug)]
pub struct Named;

/// A [`Watch`] that finds its users by itself.
#[derive(Debug)]
pub struct Found;

/// Users that are watched. Dropping it ends the watch.
///
/// As a [`Stream`] it yields each [`Change`]; a slow reader finds only the newest state of each
/// user. `F` is the type of custom fields, `K` whether users are [`Named`] or [`Found`].
#[derive(Debug)]
pub struct Watch<F = Fields, K = Named> {
    shared: Arc<Shared<F>>,
    hub: HubHandle,
    number: u64,
    /// Ends the task that finds the users, when it is dropped.
    _task: Option<oneshot::Sender<()>>,
    kind: PhantomData<fn() -> K>,
}

impl<F: CustomFields> Watch<F, Named> {
    pub(crate) fn new(hub: HubHandle, ids: HashSet<Id>) -> Self {
        let shared = Arc::new(Shared::new(false));
        let number = hub.next_watch();
        hub.send(Command::Watch { number, picture: shared.clone(), ids });
        Self { shared, hub, number, _task: None, kind: PhantomData }
    }

    /// Watches one more user.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn add(&self, id: impl AsRef<str>) -> Result<(), Error> {
        let ids = HashSet::from([Id::parse(id)?]);
        self.hub.send(Command::Add { number: self.number, ids });
        Ok(())
    }

    /// Watches a user no longer.
    pub fn remove(&self, id: impl AsRef<str>) {
        if let Ok(id) = Id::parse(id) {
            self.hub.send(Command::Remove { number: self.number, id });
        }
    }
}

impl<F: CustomFields, K> Watch<F, K> {
    /// Waits until the picture is complete.
    ///
    /// # Errors
    /// [`Error::Permission`] or what else refuses the watch; [`Error::Closed`].
    pub async fn live(&self) -> Result<(), Error> {
        let mut states = self.shared.states();
        let settled = |state: &WatchState| {
            state.is_complete() || matches!(state, WatchState::Denied(_) | WatchState::Closed)
        };
        let state = states.wait_for(settled).await.map_err(|_| Error::Closed)?.clone();
        match state {
            WatchState::Live | WatchState::Degraded(_) => Ok(()),
            WatchState::Denied(error) => Err(error),
            _ => Err(Error::Closed),
        }
    }

    /// The state now.
    pub fn state(&self) -> WatchState {
        self.shared.state()
    }

    /// The state, to wait for another.
    pub fn states(&self) -> watch::Receiver<WatchState> {
        self.shared.states()
    }

    /// Since when the watch is in its state.
    pub fn since(&self) -> Instant {
        self.shared.standing().since
    }

    /// The reason why the picture is not complete, or not of now; `None` while all is well.
    ///
    /// [`Error::NoAnswer`] may be a missing permission, unless [`Signals`](crate::Signals) are
    /// tapped.
    pub fn last_error(&self) -> Option<Error> {
        self.shared.standing().last_error
    }

    /// The number of steps that the reader was too slow for: of each user it found the newest state
    /// only.
    pub fn conflated(&self) -> u64 {
        self.shared.conflated()
    }

    /// The known state of a user.
    pub fn known(&self, id: impl AsRef<str>) -> Known<F> {
        self.shared.known(id.as_ref())
    }

    /// The user, if there is one; `None` also while it is unknown.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<Seen<F>>> {
        self.known(id).user().cloned()
    }

    /// All users that are known and exist, by id.
    pub fn snapshot(&self) -> Arc<[Arc<Seen<F>>]> {
        let all = self.shared.all();
        let mut users: Vec<_> = all.iter().filter_map(Known::user).cloned().collect();
        users.sort_by(|one, other| one.id.cmp(&other.id));
        users.into()
    }
}

impl<F, K> Drop for Watch<F, K> {
    fn drop(&mut self) {
        self.hub.send(Command::Unwatch { number: self.number });
    }
}

impl<F: CustomFields, K> Stream for Watch<F, K> {
    type Item = Change<F>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change<F>>> {
        self.shared.poll(context)
    }
}
