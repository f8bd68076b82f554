//! The states of the watches of a hub: live, stale, denied.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use crate::error::Error;
use crate::id::Id;
use crate::merge::Known;
use crate::watch::WatchState;

impl Hub {
    /// NATS refuses the events of a user: nothing may be shown that would silently grow old.
    pub(super) fn on_denied(&mut self, subject: &str) {
        let event_subject = |id: &Id| self.link.event_subject(id);
        let Some(id) = self.users.keys().find(|id| event_subject(id) == subject).cloned() else {
            return;
        };
        self.merge.forget(id.as_str());
        let Some(followed) = self.users.get_mut(&id) else { return };
        followed.denied = true;
        let error = Error::Permission { subject: subject.to_owned(), may_have_applied: false };
        for number in &followed.watches {
            if let Some(watched) = self.watches.get_mut(number) {
                watched.picture.show(&id, Known::Unknown);
                watched.denied = Some(error.clone());
                watched.picture.is(WatchState::Denied(error.clone()));
            }
        }
    }

    /// Sets the state of a watch by what is pending.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(watched) = self.watches.get_mut(&number) else { return };
        let state = match (&watched.denied, watched.stale) {
            (Some(error), _) => WatchState::Denied(error.clone()),
            (None, _) if watched.pending.is_empty() && self.seen_link.up => WatchState::Live,
            (None, Some(why)) if watched.was_live => WatchState::Stale(why),
            (None, _) => WatchState::Loading,
        };
        if state == WatchState::Live {
            watched.was_live = true;
            watched.stale = None;
        }
        watched.picture.is(state);
    }

    pub(super) fn go_stale(&mut self, why: &'static str) {
        self.stale_until = self.merge.sent();
        let numbers: Vec<u64> = self.watches.keys().copied().collect();
        for number in numbers {
            if let Some(watched) = self.watches.get_mut(&number) {
                watched.pending = watched.ids.clone();
                watched.denied = None;
                watched.stale = Some(why);
            }
            self.settle(number);
        }
    }

    /// Asks for all users again, at a random moment, and shows what really differs.
    pub(super) fn resync(&mut self, why: &'static str) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        self.go_stale(why);
        for followed in self.users.values_mut() {
            followed.denied = false;
        }
        self.due = self.users.keys().cloned().collect();
        let spread = if self.users.len() > 1000 { 5000 } else { 1000 };
        self.due_at = Some(Instant::now() + Duration::from_millis(fastrand::u64(0..spread)));
    }

    pub(super) fn on_look(&mut self) {
        let before = std::mem::replace(&mut self.seen_link, self.link.look());
        if !self.seen_link.up && before.up {
            self.go_stale("disconnected from NATS");
        } else if self.seen_link.up && before != self.seen_link {
            self.resync("the connection to NATS was made again");
        }
        let now = Instant::now();
        let merge = &mut self.merge;
        self.users.retain(|id, followed| {
            let keep = followed.linger_until.is_none_or(|until| until > now);
            if !keep {
                merge.forget(id.as_str());
            }
            keep
        });
    }
}
