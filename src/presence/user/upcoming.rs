//! The items to come for one user: leases that lapse, graces and a status that end, a `last_active`
//! that grows old. Pure: the time comes in as a value.

use super::connection::{ConnectionGen, LeavingKey};
use super::record::Record;
use crate::presence::agenda::{NEVER_MS, RETRY_MS, Timed};
use crate::presence::heard::Heard;
use crate::presence::id::{Id, stable_hash};
use crate::presence::lease_terms::LeaseTimes;
use crate::presence::table::Keyed;
use crate::presence::time::{Now, Time};

/// The longest time for which the end of a status is not checked, in milliseconds: JetStream's
/// clock, by which it ends, may be set while the monotonic one goes on.
const MAX_STATUS_WAIT_MS: u64 = 600_000;

/// The times that are measured.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// A connection not heard of for so long has lapsed.
    pub lease_ms: u64,
    /// The time for which a connection is leaving that asked for no other grace.
    pub grace_ms: u64,
    /// The age that `last_active` may reach while a user is connected.
    pub refresh_ms: u64,
}

impl Default for Periods {
    fn default() -> Self {
        Self { lease_ms: 60_000, grace_ms: 5000, refresh_ms: 15 * 60_000 }
    }
}

/// The times by which the items of an agenda are measured.
#[derive(Debug, Clone, Copy)]
pub struct Measures {
    pub periods: Periods,
    pub times: LeaseTimes,
    /// While the bucket is replayed, a connection that appears has not been heard.
    pub listening: bool,
}

/// A connection that is kept alive by its own heartbeats.
#[derive(Debug)]
struct OwnLease {
    connection_gen: ConnectionGen,
    heard: Heard,
}

/// A grace that is running.
#[derive(Debug)]
struct Grace {
    key: LeavingKey,
    /// The time at which this daemon first saw it, on its own monotonic clock.
    seen_ms: u64,
    /// The grace that the connection asked for.
    grace_ms: Option<u64>,
}

/// The end of a status.
#[derive(Debug, Clone, Copy)]
struct StatusEnd {
    /// By JetStream's clock.
    at: Time,
    /// The next check, on the monotonic clock. Actions of an invisible user do not move it, since
    /// the visible end would move too.
    check_ms: u64,
}

/// All that is to come for a user.
#[derive(Debug)]
pub struct Upcoming {
    user: Id,
    check_ms: u64,
    /// The `last_active` that must not grow old, and whether it is the invisible one.
    active: (Option<Time>, bool),
    /// [`NEVER_MS`] without a live connection.
    refresh_ms: u64,
    /// Nothing for a user of whom no more is to come, such as one on a shared lease.
    details: Option<Box<Details>>,
}

/// The rest of what is to come for a user.
#[derive(Debug, Default)]
struct Details {
    own: Box<[OwnLease]>,
    graces: Box<[Grace]>,
    status_end: Option<StatusEnd>,
}

/// The items that are due for a user.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub user: Id,
    /// Connections that have been silent for a lease.
    pub silent: Vec<ConnectionGen>,
    /// The `last_active` that has grown too old.
    pub stale: Option<Option<Time>>,
    /// Connections whose grace is over.
    pub left: Vec<LeavingKey>,
    /// The end of the status, if it has come.
    pub expired: Option<Time>,
}

impl Due {
    fn is_something(&self) -> bool {
        !self.silent.is_empty()
            || self.stale.is_some()
            || !self.left.is_empty()
            || self.expired.is_some()
    }
}

/// The delay after its time with which a daemon acts for a user.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// The delay where silence or a connection counts: only daemons that hear take part.
    pub hearing_ms: u64,
    /// The delay where a record alone says what is due.
    pub any_ms: u64,
}

impl Keyed for Upcoming {
    type Key = Id;

    fn key(&self) -> &Id {
        &self.user
    }
}

impl Timed for Upcoming {
    fn check_ms(&self) -> u64 {
        self.check_ms
    }

    fn check_at(&mut self, at_ms: u64) {
        self.check_ms = at_ms;
    }
}

impl Upcoming {
    /// Everything that is to come for a user with this record. `known` is what was to come before
    /// the record changed.
    pub fn of(
        user: &Id,
        record: &Record,
        known: Option<&Self>,
        measures: &Measures,
        now: Now,
    ) -> Self {
        let known_details = known.and_then(|known| known.details.as_deref());
        let details = Details {
            own: own_leases(record, known_details, measures, now),
            graces: graces(record, known_details, now),
            status_end: status_end(record, known_details, now),
        };
        let active = (record.refreshed_last_active(), record.invisible);
        let refresh_ms = match known {
            _ if record.connections.is_empty() => NEVER_MS,
            Some(known) if known.active == active && known.refresh_ms != NEVER_MS => {
                known.refresh_ms
            }
            _ => now.mono_ms + refresh_in_ms(user, active.0, measures, now.wall),
        };
        let details = (!details.is_empty()).then(|| Box::new(details));
        let mut upcoming =
            Self { user: user.clone(), check_ms: NEVER_MS, active, refresh_ms, details };
        upcoming.check_ms = upcoming.wanted_ms(measures);
        upcoming
    }

    /// The time at which the first of all is due, if this daemon is the first to act.
    pub fn wanted_ms(&self, measures: &Measures) -> u64 {
        let details = self.details.as_deref().map(|details| details.wanted_ms(measures));
        details.unwrap_or(NEVER_MS).min(self.refresh_ms)
    }

    /// Takes what is due in this daemon's turn. Silence counts only since `listens_from_ms`.
    /// Returns when to check the rest, and what is due, if anything is.
    pub fn take_due(
        &mut self,
        measures: &Measures,
        now: Now,
        listens_from_ms: u64,
        turn: Turn,
    ) -> (u64, Option<Due>) {
        let user = self.user.clone();
        let mut due =
            Due { user, silent: Vec::new(), stale: None, left: Vec::new(), expired: None };
        let mut next_ms = self.take_stale(&mut due, measures, now, turn.hearing_ms);
        if let Some(details) = &mut self.details {
            let hears = (listens_from_ms, turn.hearing_ms);
            next_ms = next_ms
                .min(details.take_silent(&mut due, measures.times, now, hears))
                .min(details.take_left(&mut due, &measures.periods, now, turn.any_ms))
                .min(details.take_expired(&mut due, now, turn.any_ms));
        }
        (next_ms, due.is_something().then_some(due))
    }

    /// The time at which a connection that keeps itself alive was last heard of.
    pub fn heard(&self, connection: &str) -> Option<Heard> {
        let own = &self.details.as_ref()?.own;
        let lease = own.iter().find(|lease| lease.connection_gen.connection.as_str() == connection);
        lease.map(|lease| lease.heard)
    }

    /// Records a heartbeat of a connection, sent at `at_ms`.
    pub fn on_heartbeat(&mut self, connection: &str, at_ms: u64) {
        let own = self.details.iter_mut().flat_map(|details| &mut details.own);
        let is_it = |lease: &&mut OwnLease| lease.connection_gen.connection.as_str() == connection;
        own.filter(is_it).for_each(|lease| lease.heard.beat(at_ms));
    }

    /// Returns whether a connection has been silent for a lease, and is still the same.
    pub fn is_silent(
        &self,
        connection_gen: &ConnectionGen,
        measures: &Measures,
        now_ms: u64,
    ) -> bool {
        let mut own = self.details.iter().flat_map(|details| &details.own);
        own.any(|lease| {
            lease.connection_gen == *connection_gen
                && measures.times.lapses_ms(lease.heard) <= now_ms
        })
    }

    /// The time at which this daemon first saw that a connection is leaving, on its monotonic
    /// clock.
    pub fn leaving_seen_ms(&self, key: &LeavingKey) -> Option<u64> {
        let mut graces = self.details.iter().flat_map(|details| &details.graces);
        graces.find(|grace| grace.key == *key).map(|grace| grace.seen_ms)
    }

    /// JetStream's clock was set: the status may end earlier than was thought. Returns when to
    /// check it.
    pub fn follow_stream_clock(&mut self, now: Now) -> u64 {
        let end = self.details.as_mut().and_then(|details| details.status_end.as_mut());
        end.map_or(NEVER_MS, |end| {
            end.check_ms = end.check_ms.min(now.mono_ms + status_wait_ms(end.at, now));
            end.check_ms
        })
    }

    /// This and those of [`Details`] each take what is due, and return when to check the rest.
    fn take_stale(&mut self, due: &mut Due, measures: &Measures, now: Now, wait_ms: u64) -> u64 {
        // By a clock that is behind, it was only just refreshed: there is nothing to write.
        let is_new = |at: Time| at >= now.wall && at.counts_at(now.wall);
        if self.refresh_ms <= now.mono_ms && self.active.0.is_some_and(is_new) {
            self.refresh_ms = now.mono_ms + measures.periods.refresh_ms;
        }
        let due_ms = self.refresh_ms.saturating_add(wait_ms);
        if due_ms > now.mono_ms {
            return due_ms;
        }
        due.stale = Some(self.active.0);
        now.mono_ms + RETRY_MS
    }
}

impl Details {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.graces.is_empty() && self.status_end.is_none()
    }

    fn wanted_ms(&self, measures: &Measures) -> u64 {
        let lapses = self.own.iter().map(|lease| measures.times.lapses_ms(lease.heard));
        let ends = self.graces.iter().map(|grace| grace.ends_ms(&measures.periods));
        let status = self.status_end.map(|end| end.check_ms);
        lapses.chain(ends).chain(status).min().unwrap_or(NEVER_MS)
    }

    fn take_silent(
        &self,
        due: &mut Due,
        times: LeaseTimes,
        now: Now,
        (listens_from_ms, wait_ms): (u64, u64),
    ) -> u64 {
        let mut next_ms = NEVER_MS;
        for lease in &self.own {
            let silent_ms = times.silent_ms(lease.heard, listens_from_ms, wait_ms);
            if silent_ms <= now.mono_ms {
                due.silent.push(lease.connection_gen.clone());
                next_ms = next_ms.min(now.mono_ms + times.retry_ms(lease.heard));
            } else {
                next_ms = next_ms.min(silent_ms);
            }
        }
        next_ms
    }

    fn take_left(&self, due: &mut Due, periods: &Periods, now: Now, wait_ms: u64) -> u64 {
        let mut next_ms = NEVER_MS;
        for grace in &self.graces {
            let ends_ms = grace.ends_ms(periods) + wait_ms;
            if ends_ms <= now.mono_ms {
                due.left.push(grace.key.clone());
                next_ms = next_ms.min(now.mono_ms + RETRY_MS);
            } else {
                next_ms = next_ms.min(ends_ms);
            }
        }
        next_ms
    }

    fn take_expired(&mut self, due: &mut Due, now: Now, wait_ms: u64) -> u64 {
        let Some(end) = &mut self.status_end else { return NEVER_MS };
        if end.check_ms > now.mono_ms {
            return end.check_ms;
        }
        let turn = Time(end.at.0.saturating_add_unsigned(wait_ms));
        if turn > now.stream {
            end.check_ms = now.mono_ms + status_wait_ms(turn, now);
        } else {
            due.expired = Some(end.at);
            end.check_ms = now.mono_ms + RETRY_MS;
        }
        end.check_ms
    }
}

impl Grace {
    fn ends_ms(&self, periods: &Periods) -> u64 {
        self.seen_ms + self.grace_ms.unwrap_or(periods.grace_ms)
    }
}

/// The connections of a record that keep themselves alive, with when they were heard.
fn own_leases(
    record: &Record,
    known: Option<&Details>,
    measures: &Measures,
    now: Now,
) -> Box<[OwnLease]> {
    let known = known.map(|known| &*known.own).unwrap_or_default();
    let told = measures.listening.then_some(measures.times);
    let own = record.connections.iter().filter(|each| each.lease.is_none()).map(|each| {
        let connection_gen =
            ConnectionGen { connection: each.id.clone(), generation: each.generation };
        let known =
            known.iter().find(|lease| lease.connection_gen.connection == connection_gen.connection);
        let heard = match known {
            Some(lease) if lease.connection_gen == connection_gen => lease.heard,
            Some(lease) => lease.heard.connected_again(now.mono_ms, told),
            None => Heard::connected(now.mono_ms, told),
        };
        OwnLease { connection_gen, heard }
    });
    own.collect()
}

/// In how long `last_active` is due: up to a tenth early, differently for each user, so that those
/// who connected together are not written together. While the bucket is replayed only the wall
/// clock tells how old it is.
fn refresh_in_ms(user: &Id, last_active: Option<Time>, measures: &Measures, wall: Time) -> u64 {
    let full_ms = measures.periods.refresh_ms;
    let in_ms = full_ms - stable_hash(user.as_str()) % (full_ms / 10).max(1);
    if measures.listening {
        return in_ms;
    }
    let age_ms = last_active.map_or(0, |at| wall.0.saturating_sub(at.0));
    in_ms.saturating_sub(u64::try_from(age_ms).unwrap_or(0))
}

/// The graces of a record, each with when it was first seen.
fn graces(record: &Record, old: Option<&Details>, now: Now) -> Box<[Grace]> {
    let known = old.map(|old| &*old.graces).unwrap_or_default();
    let graces = record.leaving.iter().map(|leaving| {
        let key = leaving.key();
        let known = known.iter().find(|grace| grace.key == key);
        let seen_ms = known.map_or(now.mono_ms, |grace| grace.seen_ms);
        Grace { key, seen_ms, grace_ms: leaving.grace_ms }
    });
    graces.collect()
}

/// The end of the status of a record, and when to check it.
fn status_end(record: &Record, old: Option<&Details>, now: Now) -> Option<StatusEnd> {
    let at = record.status_expires_at?;
    let known = old.and_then(|old| old.status_end).filter(|known| known.at == at);
    let check_ms = now.mono_ms + status_wait_ms(at, now);
    Some(known.unwrap_or(StatusEnd { at, check_ms }))
}

/// The time until the next check of a status, in milliseconds.
fn status_wait_ms(end: Time, now: Now) -> u64 {
    let left_ms = end.0.saturating_sub(now.stream.0);
    u64::try_from(left_ms).unwrap_or(0).min(MAX_STATUS_WAIT_MS)
}
