//! The states of the watches of a hub: live, stale, denied.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use super::queries::MISSED;
use crate::error::Error;
use crate::id::Id;
use crate::link::LinkState;
use crate::merge::Known;
use crate::watch::WatchState;

/// The least time between two resyncs because of dropped messages.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);

/// A link over which nothing came for so long is probed.
const QUIET: Duration = Duration::from_secs(15);

/// How often an invisible user's own view is asked for: its changes are no events.
const OWN_AGAIN: Duration = Duration::from_secs(10);

impl Hub {
    /// NATS refuses the events of a user: nothing may be shown that would silently grow old.
    pub(super) fn on_denied(&mut self, subject: &str) {
        let event_subject = |id: &Id| self.link.event_subject(id);
        let Some(id) = self.users.keys().find(|id| event_subject(id) == subject).cloned() else {
            return;
        };
        self.merge.forget(id.as_str());
        let Some(followed) = self.users.get_mut(&id) else { return };
        followed.denied = Some(self.link.look().connects);
        let numbers: Vec<u64> = followed.watches.iter().copied().collect();
        for number in numbers {
            if let Some(watched) = self.watches.get(&number) {
                watched.picture.show(&id, Known::Unknown);
            }
            self.deny_by_users(number);
            self.settle(number);
        }
    }

    /// Sets whether a watch is denied, by the users whose events NATS refuses.
    pub(super) fn deny_by_users(&mut self, number: u64) {
        let Some(watched) = self.watches.get_mut(&number) else { return };
        let is_denied =
            |id: &&Id| self.users.get(*id).is_some_and(|followed| followed.denied.is_some());
        match watched.ids.iter().find(is_denied) {
            Some(id) => {
                let subject = self.link.event_subject(id);
                watched.denied = Some(Error::Permission { subject, may_have_applied: false });
            }
            None if matches!(watched.denied, Some(Error::Permission { .. })) => {
                watched.denied = None;
            }
            None => {}
        }
    }

    /// Sets the state of a watch by what is pending.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(watched) = self.watches.get_mut(&number) else { return };
        let state = match (&watched.denied, watched.stale) {
            (Some(error), _) => WatchState::Denied(error.clone()),
            (None, _)
                if watched.pending.is_empty()
                    && self.seen_link.up
                    && self.resync_at.is_none()
                    && !watched.ids.iter().any(|id| self.unsubscribed.contains(id)) =>
            {
                self.missed.map_or(WatchState::Live, |_| WatchState::Degraded(MISSED))
            }
            (None, Some(why)) if watched.was_live => WatchState::Stale(why),
            (None, _) => WatchState::Loading,
        };
        if state.is_complete() {
            watched.was_live = true;
            watched.stale = None;
        }
        watched.picture.is(state);
    }

    pub(super) fn go_stale(&mut self, why: &'static str) {
        self.stale_until = self.merge.sent();
        self.users.values_mut().for_each(|followed| followed.fresh = false);
        let numbers: Vec<u64> = self.watches.keys().copied().collect();
        for number in numbers {
            if let Some(watched) = self.watches.get_mut(&number) {
                watched.pending = watched.ids.clone();
                watched.denied = None;
                watched.stale = Some(why);
            }
            self.deny_by_users(number);
            self.settle(number);
        }
    }

    /// Messages were dropped, of this program or of a subscription beside it. Drops come in
    /// bursts, so the users are asked for again at most every five seconds.
    pub(super) fn on_dropped(&mut self) {
        if self.resync_at.is_none() {
            let earliest = self.resynced.map(|at| at + RESYNC_INTERVAL);
            self.resync_at = Some(earliest.unwrap_or_else(Instant::now).max(Instant::now()));
            self.go_stale("messages were dropped");
        }
    }

    /// Asks for all users again, at a random moment, and shows what differs. NATS names refused
    /// subjects once for each connection, and may have done so for the new one before the hub saw
    /// it.
    pub(super) fn resync(&mut self, why: &'static str) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        self.resync_at = None;
        self.resynced = Some(Instant::now());
        let connects = self.seen_link.connects;
        for followed in self.users.values_mut() {
            followed.denied = followed.denied.filter(|over| *over >= connects);
        }
        self.go_stale(why);
        self.due = self.users.keys().cloned().collect();
        let spread = if self.users.len() > 1000 { 5000 } else { 1000 };
        self.due_at = Some(Instant::now() + Duration::from_millis(fastrand::u64(0..spread)));
    }

    /// Pings NATS when nothing came for a while: a dead link is noticed by the missing answer, also
    /// by a program that only watches. A service that hangs is no reason to leave the link.
    fn probe(&mut self, now: Instant) {
        let received = self.link.received();
        if received != self.received.0 {
            self.received = (received, now);
        }
        if !self.seen_link.up || now < self.received.1 + QUIET || !self.probes.is_empty() {
            return;
        }
        let (link, probed) = (self.link.clone(), self.seen_link);
        self.probes.push(Box::pin(async move { (probed, link.answers().await) }));
    }

    pub(super) async fn on_probe(&mut self, probed: LinkState, answers: bool) {
        if !answers && self.seen_link == probed {
            self.go_stale("NATS does not answer");
            self.link.abandon(probed).await;
        }
        self.received = (self.link.received(), Instant::now());
    }

    /// Asks for the own view of a user who is invisible.
    fn look_at_oneself(&mut self, now: Instant) {
        let own = self.link.user().filter(|own| self.users.contains_key(*own)).cloned();
        let Some(own) = own.filter(|_| self.seen_link.up && now >= self.own_at) else { return };
        let known = self.merge.get(own.as_str());
        if known.user().is_some_and(|me| me.invisible == Some(true)) {
            self.own_at = now + OWN_AGAIN;
            self.due.push_back(own);
            self.due_at.get_or_insert(now);
        }
    }

    pub(super) async fn on_look(&mut self) {
        let before = std::mem::replace(&mut self.seen_link, self.link.look());
        if !self.seen_link.up && before.up {
            self.go_stale("disconnected from NATS");
            let error = self.link.down();
            self.watches.values().for_each(|watched| watched.picture.failed(&error));
        } else if self.seen_link.up && before != self.seen_link {
            self.resync("the connection to NATS was made again");
        }
        if self.seen_link.up && !self.unsubscribed.is_empty() {
            self.subscribe_all().await;
            let numbers: Vec<u64> = self.watches.keys().copied().collect();
            numbers.into_iter().for_each(|number| self.settle(number));
        }
        let now = Instant::now();
        self.probe(now);
        self.look_at_oneself(now);
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
