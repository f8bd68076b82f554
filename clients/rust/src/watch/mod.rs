//! A watch: the picture of some users, and what changes in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use tokio::sync::watch;

use crate::error::Error;
use crate::hub::{Command, HubHandle};
use crate::id::Id;
use crate::merge::Known;
use crate::user::Seen;

/// How far a watch can be relied upon.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WatchState {
    /// The first picture is not complete.
    Loading,
    /// All that is shown is as the service has it, but for what is on the way.
    Live,
    /// The picture is the last one known, and may be old.
    Stale(&'static str),
    /// A permission is missing, or the query was refused: some users stay unknown.
    Denied(Error),
    /// The watch has ended.
    Closed,
}

/// What a change of a user is, as the application sees it.
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
    /// The user was deleted, or nobody has made it.
    Gone,
}

/// What a [`Watch`] yields.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// A user changed. Steps that the reader was too slow for are left out.
    User {
        /// Which user.
        id: Id,
        /// What it is.
        kind: Kind,
        /// As the reader saw the user before.
        before: Option<Arc<Seen>>,
        /// As the user is now; `None` if there is none.
        now: Option<Arc<Seen>>,
    },
    /// The watch is in another state.
    State(WatchState),
}

/// Users that are watched. Dropping it ends the watch.
///
/// As a [`Stream`] it yields each [`Change`]; a slow reader finds only the newest state of each user.
#[derive(Debug)]
pub struct Watch {
    number: u64,
    shared: Arc<Shared>,
    hub: HubHandle,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    state: watch::Sender<WatchState>,
}

#[derive(Debug, Default)]
struct Inner {
    view: HashMap<Id, Known>,
    /// Users that changed since the reader looked, and how the reader knows them.
    changed: VecDeque<Id>,
    before: HashMap<Id, Known>,
    states: VecDeque<WatchState>,
    closed: bool,
    reader: Option<Waker>,
}

impl Watch {
    pub(crate) fn new(hub: HubHandle, ids: HashSet<Id>) -> Self {
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            state: watch::Sender::new(WatchState::Loading),
        });
        let number = hub.next_watch();
        hub.send(Command::Watch { number, shared: shared.clone(), ids });
        Self { number, shared, hub }
    }

    /// Waits until the picture is complete.
    ///
    /// # Errors
    /// [`Error::Permission`] or what else refuses the watch; [`Error::Closed`].
    pub async fn live(&self) -> Result<(), Error> {
        let mut states = self.shared.state.subscribe();
        let settled = |state: &WatchState| {
            matches!(state, WatchState::Live | WatchState::Denied(_) | WatchState::Closed)
        };
        let state = states.wait_for(settled).await.map_err(|_| Error::Closed)?.clone();
        match state {
            WatchState::Live => Ok(()),
            WatchState::Denied(error) => Err(error),
            _ => Err(Error::Closed),
        }
    }

    /// The state now.
    pub fn state(&self) -> WatchState {
        self.shared.state.borrow().clone()
    }

    /// The state, to wait for another.
    pub fn states(&self) -> watch::Receiver<WatchState> {
        self.shared.state.subscribe()
    }

    /// What is known of a user.
    pub fn known(&self, id: impl AsRef<str>) -> Known {
        self.shared.lock().view.get(id.as_ref()).cloned().unwrap_or_default()
    }

    /// The user, if there is one; `None` also while it is unknown.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<Seen>> {
        self.known(id).user().cloned()
    }

    /// All users that are known and exist, by id.
    pub fn snapshot(&self) -> Arc<[Arc<Seen>]> {
        let inner = self.shared.lock();
        let mut users: Vec<_> = inner.view.values().filter_map(Known::user).cloned().collect();
        users.sort_by(|one, other| one.id.cmp(&other.id));
        users.into()
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

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.send(Command::Unwatch { number: self.number });
    }
}

impl Stream for Watch {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        let mut inner = self.shared.lock();
        if let Some(state @ WatchState::Stale(_)) = inner.states.front().cloned() {
            inner.states.pop_front();
            return Poll::Ready(Some(Change::State(state)));
        }
        while let Some(id) = inner.changed.pop_front() {
            let before = inner.before.remove(&id).unwrap_or_default();
            let now = inner.view.get(&id).cloned().unwrap_or_default();
            if before != now {
                return Poll::Ready(Some(change(id, &before, &now)));
            }
        }
        if let Some(state) = inner.states.pop_front() {
            return Poll::Ready(Some(Change::State(state)));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        inner.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

fn change(id: Id, before: &Known, now: &Known) -> Change {
    let kind = match (before, now) {
        (_, Known::Absent | Known::Unknown) => Kind::Gone,
        (Known::Unknown, _) => Kind::First,
        (Known::User(before), Known::User(now)) if before.online == now.online => {
            if before.status == now.status { Kind::Fields } else { Kind::Status }
        }
        (Known::User(before), _) if before.online => Kind::Left,
        (_, Known::User(now)) => {
            if now.online {
                Kind::Came
            } else {
                Kind::Fields
            }
        }
    };
    Change::User { id, kind, before: before.user().cloned(), now: now.user().cloned() }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; a poisoned picture would be a whole one all the same.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a user as it is now.
    pub fn show(&self, id: &Id, now: Known) {
        let mut inner = self.lock();
        let before = inner.view.insert(id.clone(), now).unwrap_or_default();
        if !inner.before.contains_key(id) {
            inner.before.insert(id.clone(), before);
            inner.changed.push_back(id.clone());
        }
        wake(inner);
    }

    pub fn hide(&self, id: &Id) {
        let mut inner = self.lock();
        inner.view.remove(id);
        inner.before.remove(id);
        inner.changed.retain(|changed| changed != id);
    }

    pub fn is(&self, state: WatchState) {
        if *self.state.borrow() == state {
            return;
        }
        self.state.send_replace(state.clone());
        let mut inner = self.lock();
        // A reader that lags needs the newest state only; `Stale` before anything old is new again.
        if let WatchState::Stale(_) = state {
            inner.states.clear();
        }
        inner.closed |= state == WatchState::Closed;
        inner.states.push_back(state);
        if inner.states.len() > 4 {
            inner.states.pop_front();
        }
        wake(inner);
    }
}

fn wake(mut inner: MutexGuard<'_, Inner>) {
    let reader = inner.reader.take();
    drop(inner);
    if let Some(reader) = reader {
        reader.wake();
    }
}
