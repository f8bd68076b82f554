//! The queries of a hub: users that are due, the audit, and what answers mean for the watches.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::source::Found;
use super::{Hub, QUERIES};
use crate::error::Error;
use crate::id::Id;
use crate::merge::Known;
use crate::watch::WatchState;

/// The message of an audit that found an event missing.
pub(crate) const MISSED: &str = "events do not arrive: a permission is missing, or NATS drops them";

pub(super) struct Answer {
    query: u64,
    ids: Vec<Id>,
    audit: bool,
    found: Result<Found, Error>,
}

pub(super) type Query = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Hub {
    pub(super) fn send_queries(&mut self) {
        let mut chosen = HashSet::new();
        while self.queries.len() < QUERIES && !self.due.is_empty() {
            let mut ids = Vec::new();
            while ids.len() < self.source.most() {
                let Some(id) = self.due.pop_front() else { break };
                if self.users.contains_key(&id) && chosen.insert(id.clone()) {
                    ids.push(id);
                }
            }
            if !ids.is_empty() {
                self.query(ids, false);
            }
        }
        self.due_at = (!self.due.is_empty()).then(Instant::now);
    }

    pub(super) fn send_audit(&mut self) {
        if !self.seen_link.up || self.users.is_empty() {
            return;
        }
        let most = self.source.most();
        let mut round: Vec<&Id> = self.users.keys().collect();
        round.sort_unstable();
        let begin = round.partition_point(|id| Some(*id) <= self.audited.as_ref());
        let ids: Vec<Id> = round[begin..].iter().take(most).copied().cloned().collect();
        // Behind the last user a new round begins.
        let ids = match ids.is_empty() {
            true => round.into_iter().take(most).cloned().collect(),
            false => ids,
        };
        self.audited = ids.last().cloned();
        self.query(ids, true);
    }

    fn query(&mut self, ids: Vec<Id>, audit: bool) {
        let query = self.merge.on_query();
        let (link, source) = (self.link.clone(), self.source.clone());
        self.queries.push(Box::pin(async move {
            let found = source.ask(&link, &ids).await;
            Answer { query, ids, audit, found }
        }));
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        let Answer { query, ids, audit, found } = answer;
        let Found { users, not_shown } = match found {
            Ok(found) => found,
            Err(error) if error.may_pass() || error.code() == "too_large" && ids.len() > 1 => {
                if error.code() == "too_large" {
                    for half in ids.chunks(ids.len().div_ceil(2)) {
                        self.query(half.to_vec(), audit);
                    }
                } else if !audit {
                    self.fail(&ids, &error);
                    self.due.extend(ids);
                    let wait = Duration::from_millis(fastrand::u64(100..=1000));
                    self.due_at.get_or_insert(Instant::now() + wait);
                }
                return;
            }
            Err(_) if audit => return,
            Err(error) => return self.refuse(&ids, &error),
        };
        let asked: Vec<Id> = ids.iter().filter(|id| !not_shown.contains(*id)).cloned().collect();
        let merged = self.merge.on_answer(query, &asked, users);
        let version = |known: &Known| known.user().map(|user| user.version);
        let missed = merged.iter().any(|merged| {
            version(&merged.before).is_some() && version(&merged.before) < version(&merged.now)
        });
        for merged in merged {
            self.show(merged);
        }
        if audit && missed {
            self.counts.missed.fetch_add(1, Ordering::Relaxed);
            self.missed = Some(0);
            return self.resync(MISSED);
        }
        if audit {
            self.on_clean_audit();
        }
        if query <= self.stale_until {
            return;
        }
        let mut touched = HashSet::new();
        for id in &ids {
            let followed = self.users.get_mut(id);
            let Some(followed) = followed.filter(|each| query > each.subscribed_after) else {
                continue;
            };
            followed.fresh = true;
            for number in &followed.watches {
                if let Some(watched) = self.watches.get_mut(number) {
                    watched.pending.remove(id);
                    touched.insert(*number);
                }
            }
        }
        for number in touched {
            self.settle(number);
        }
    }

    /// After a round in which no event was missing, events are relied upon again.
    fn on_clean_audit(&mut self) {
        let audits = self.users.len().div_ceil(self.source.most());
        let Some(clean) = self.missed.as_mut() else { return };
        *clean += 1;
        if *clean > audits {
            self.missed = None;
            let numbers: Vec<u64> = self.watches.keys().copied().collect();
            numbers.into_iter().for_each(|number| self.settle(number));
        }
    }

    /// Shows why users are asked for again.
    fn fail(&self, ids: &[Id], error: &Error) {
        for watched in self.watches.values() {
            if ids.iter().any(|id| watched.ids.contains(id)) {
                watched.picture.failed(error);
            }
        }
    }

    fn refuse(&mut self, ids: &[Id], error: &Error) {
        for watched in self.watches.values_mut() {
            if ids.iter().any(|id| watched.ids.contains(id)) {
                watched.denied = Some(error.clone());
                watched.picture.is(WatchState::Denied(error.clone()));
            }
        }
    }
}
