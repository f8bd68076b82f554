//! The picture that a hub shows and a watch reads.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::watch;

use super::WatchState;
use super::change::{Change, change};
use crate::error::Error;
use crate::id::Id;
use crate::merge::Known;
use crate::standing::Standing;
use crate::user::CustomFields;

/// A picture to which a hub shows users.
pub(crate) trait Picture: Debug + Send + Sync {
    /// Shows a user as it is now.
    fn show(&self, id: &Id, now: Known);
    /// The user is no longer watched.
    fn hide(&self, id: &Id);
    /// The picture is in this state.
    fn is(&self, state: WatchState);
    /// A request failed that is tried again.
    fn failed(&self, error: &Error);
}

/// A picture with custom fields of one type.
#[derive(Debug)]
pub(crate) struct Shared<F> {
    inner: Mutex<Inner<F>>,
    state: watch::Sender<WatchState>,
    /// The picture holds all there are, so that a user who is not in it is absent.
    covering: bool,
}

#[derive(Debug)]
struct Inner<F> {
    view: HashMap<Id, Known<F>>,
    /// Users that changed since the reader looked, and how the reader knows them.
    changed: VecDeque<Id>,
    before: HashMap<Id, Known<F>>,
    states: VecDeque<WatchState>,
    standing: Standing,
    /// Steps that the reader was too slow for.
    conflated: u64,
    closed: bool,
    reader: Option<Waker>,
}

impl<F: CustomFields> Shared<F> {
    pub fn new(covering: bool) -> Self {
        let inner = Inner {
            view: HashMap::new(),
            changed: VecDeque::new(),
            before: HashMap::new(),
            states: VecDeque::new(),
            standing: Standing::default(),
            conflated: 0,
            closed: false,
            reader: None,
        };
        let state = watch::Sender::new(WatchState::Loading);
        Self { inner: Mutex::new(inner), state, covering }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<F>> {
        // Nothing panics while it is held; a poisoned picture would be a whole one all the same.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> WatchState {
        self.state.borrow().clone()
    }

    pub fn states(&self) -> watch::Receiver<WatchState> {
        self.state.subscribe()
    }

    pub fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }

    pub fn conflated(&self) -> u64 {
        self.lock().conflated
    }

    pub fn known(&self, id: &str) -> Known<F> {
        match self.lock().view.get(id) {
            Some(known) => known.clone(),
            None if self.covering && self.state.borrow().is_complete() => Known::Absent,
            None => Known::Unknown,
        }
    }

    pub fn all(&self) -> Vec<Known<F>> {
        self.lock().view.values().cloned().collect()
    }

    /// The next change for the reader.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Change<F>>> {
        let mut inner = self.lock();
        if let Some(state @ WatchState::Stale(_)) = inner.states.front().cloned() {
            inner.states.pop_front();
            return Poll::Ready(Some(Change::State(state)));
        }
        while let Some(id) = inner.changed.pop_front() {
            let before = inner.before.remove(&id).unwrap_or_default();
            let now = inner.view.get(&id).cloned().unwrap_or_default();
            if before != now {
                return Poll::Ready(Some(change(id, &before, now)));
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

impl<F: CustomFields> Picture for Shared<F> {
    fn show(&self, id: &Id, now: Known) {
        let mut inner = self.lock();
        let before = if self.covering && now == Known::Absent {
            inner.view.remove(id)
        } else {
            inner.view.insert(id.clone(), now.typed())
        };
        if !inner.before.contains_key(id) {
            inner.before.insert(id.clone(), before.unwrap_or_default());
            inner.changed.push_back(id.clone());
        } else {
            inner.conflated += 1;
        }
        wake(inner);
    }

    fn hide(&self, id: &Id) {
        if self.covering {
            return self.show(id, Known::Absent);
        }
        let mut inner = self.lock();
        inner.view.remove(id);
        inner.before.remove(id);
        inner.changed.retain(|changed| changed != id);
    }

    fn is(&self, state: WatchState) {
        if *self.state.borrow() == state {
            return;
        }
        self.state.send_replace(state.clone());
        let mut inner = self.lock();
        inner.standing.since = Instant::now();
        match &state {
            WatchState::Denied(error) => inner.standing.last_error = Some(error.clone()),
            state if state.is_complete() => inner.standing.last_error = None,
            _ => {}
        }
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

    fn failed(&self, error: &Error) {
        self.lock().standing.last_error = Some(error.clone());
    }
}

fn wake<F>(mut inner: MutexGuard<'_, Inner<F>>) {
    let reader = inner.reader.take();
    drop(inner);
    if let Some(reader) = reader {
        reader.wake();
    }
}
