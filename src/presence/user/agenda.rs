//! Expires own leases, ends graces and statuses, refreshes `last_active`. Pure: the time comes in
//! as a value. One schedule entry per user with something due: no tasks, no scan.

use super::connection::LeavingKey;
use super::record::Record;
use crate::presence::id::{Id, stable_hash};
use crate::presence::lease::Heard;
use crate::presence::lease_terms::LeaseTimes;
use crate::presence::schedule::{NEVER_MS, RETRY_MS, Schedule};
use crate::presence::table::{Keyed, Table};
use crate::presence::time::{Now, Time};

/// How long the end of a status is left alone at most, in milliseconds: JetStream's clock, by which
/// it ends, may be set while the monotonic one goes on.
const MAX_STATUS_WAIT_MS: u64 = 600_000;

/// The times that are measured.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// A connection not heard of for so long has lapsed.
    pub lease_ms: u64,
    /// How long a connection is leaving that asked for no other grace.
    pub grace_ms: u64,
    /// How old `last_active` may grow while a user is connected.
    pub refresh_ms: u64,
}

impl Default for Periods {
    fn default() -> Self {
        Self { lease_ms: 60_000, grace_ms: 5000, refresh_ms: 15 * 60_000 }
    }
}

/// A connection at a moment of its life: its next `connect` makes it another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionGen {
    pub connection: Id,
    pub generation: u64,
}

#[derive(Debug)]
struct OwnLease {
    connection_gen: ConnectionGen,
    heard: Heard,
}

/// A grace that is running.
#[derive(Debug)]
struct Grace {
    key: LeavingKey,
    /// When this daemon first saw it, on its own monotonic clock.
    seen_ms: u64,
    /// What the connection asked for.
    grace_ms: Option<u64>,
}

#[derive(Debug)]
struct UserAgenda {
    user: Id,
    /// When the user is looked at next; an entry of the schedule with another time is void.
    due_ms: u64,
    /// The `last_active` that must not grow old, and whether it is the invisible one.
    active: (Option<Time>, bool),
    /// [`NEVER_MS`] without a live connection.
    refresh_due_ms: u64,
    /// Nothing for a user of whom no more is to come, such as one on a shared lease.
    details: Option<Box<Details>>,
}

/// What else is to come for a user.
#[derive(Debug, Default)]
struct Details {
    /// The connections that are kept alive by their own heartbeats.
    own: Box<[OwnLease]>,
    graces: Box<[Grace]>,
    status_end: Option<StatusEnd>,
}

/// When a status ends.
#[derive(Debug, Clone, Copy)]
struct StatusEnd {
    /// By JetStream's clock.
    at: Time,
    /// The next check, on the monotonic clock. Actions of an invisible user do not move it, since
    /// the visible end would move too.
    look_ms: u64,
}

/// What is due for a user.
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
    fn nothing(user: Id) -> Self {
        Self { user, silent: Vec::new(), stale: None, left: Vec::new(), expired: None }
    }

    fn is_something(&self) -> bool {
        !self.silent.is_empty()
            || self.stale.is_some()
            || !self.left.is_empty()
            || self.expired.is_some()
    }
}

/// How much later than its time a daemon acts for a user.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Where silence or a connection counts: only daemons that hear take part.
    pub hearing_ms: u64,
    /// Where a record alone says what is due.
    pub any_ms: u64,
}

/// The agenda of the users of one stripe.
#[derive(Debug)]
pub struct Agenda {
    periods: Periods,
    times: LeaseTimes,
    /// The grace of this daemon's settings; `periods` has the one that counts.
    own_grace_ms: u64,
    users: Table<UserAgenda>,
    schedule: Schedule<Id>,
    listening: bool,
}

impl Agenda {
    pub fn new(periods: Periods) -> Self {
        let own_grace_ms = periods.grace_ms;
        let times = LeaseTimes::of_all(periods.lease_ms);
        let (users, schedule) = (Table::default(), Schedule::default());
        Self { periods, times, own_grace_ms, users, schedule, listening: false }
    }

    /// Daemons may have different settings: the longest grace of all counts. `others_ms` is that
    /// of the other daemons.
    pub fn adjust_grace(&mut self, others_ms: u64) {
        self.periods.grace_ms = self.own_grace_ms.max(others_ms);
    }

    /// Other leases count from here on.
    pub fn adjust_leases(&mut self, times: LeaseTimes) {
        if times == self.times {
            return;
        }
        self.times = times;
        for agenda in self.users.iter_mut() {
            let due_ms = agenda.wanted_ms(&self.periods, times);
            if due_ms < agenda.due_ms {
                agenda.due_ms = due_ms;
                self.schedule.push(due_ms, agenda.user.clone());
            }
        }
    }

    /// The replica is whole; from now on a connection that appears has just connected.
    pub fn listen(&mut self) {
        self.listening = true;
    }

    /// Records a heartbeat of a connection, sent at `at_ms`. One that is unknown leaves no trace.
    pub fn heartbeat(&mut self, user: &impl AsRef<str>, connection: &impl AsRef<str>, at_ms: u64) {
        if let Some(lease) = self.lease_mut(user.as_ref(), connection.as_ref()) {
            lease.heard.beat(at_ms);
        }
    }

    /// Another daemon has heard a connection that was handed out as silent: it is looked at again
    /// when a lease has passed since then. If it has, the other daemon applies a longer lease,
    /// and it is looked at when it would be without an objection.
    pub fn objected(&mut self, user: &Id, connection: &Id, at_ms: u64, now_ms: u64) {
        self.heartbeat(user, connection, at_ms);
        let Some(heard) = self.heard(user, connection) else { return };
        let due_ms = at_ms + self.times.lease_ms(heard);
        if due_ms <= now_ms {
            return;
        }
        if let Some(agenda) = self.users.get_mut(user).filter(|agenda| agenda.due_ms > due_ms) {
            agenda.due_ms = due_ms;
            self.schedule.push(due_ms, user.clone());
            self.drop_void_entries();
        }
    }

    /// When a connection that keeps itself alive was last heard of.
    pub fn heard(&self, user: &Id, connection: &Id) -> Option<Heard> {
        let own = &self.users.get(user)?.details.as_ref()?.own;
        own.iter()
            .find(|lease| lease.connection_gen.connection == *connection)
            .map(|lease| lease.heard)
    }

    /// When this daemon first saw that a connection is leaving, on its monotonic clock.
    pub fn leaving_seen_ms(&self, user: &Id, key: &LeavingKey) -> Option<u64> {
        let graces = &self.users.get(user)?.details.as_ref()?.graces;
        graces.iter().find(|grace| grace.key == *key).map(|grace| grace.seen_ms)
    }

    /// Whether a connection has been silent for a lease, and is still the same.
    pub fn is_silent(&self, user: &Id, connection_gen: &ConnectionGen, now_ms: u64) -> bool {
        let details = self.users.get(user).and_then(|agenda| agenda.details.as_ref());
        let own = details.map(|details| &*details.own).unwrap_or_default();
        own.iter().any(|lease| {
            lease.connection_gen == *connection_gen
                && lease.heard.at_ms + self.times.lease_ms(lease.heard) <= now_ms
        })
    }

    /// Takes a user for whom something is due, `turn(user)` after its time. Silence counts only
    /// since `listens_from_ms`. An unfinished item is due again a while later.
    pub fn take_due(
        &mut self,
        now: Now,
        listens_from_ms: u64,
        turn: impl Fn(&Id) -> Turn,
    ) -> Option<Due> {
        while let Some((at_ms, user)) = self.schedule.pop_due(now.mono_ms) {
            let Some(agenda) = self.users.get_mut(&user).filter(|agenda| agenda.due_ms == at_ms)
            else {
                continue;
            };
            let mut none = Details::default();
            let mut due = Due::nothing(user);
            let turn = turn(&due.user);
            let next_ms = agenda.take_stale(&mut due, &self.periods, now, turn.hearing_ms);
            let hears = (listens_from_ms, turn.hearing_ms);
            let details = agenda.details.as_deref_mut().unwrap_or(&mut none);
            let next_ms = next_ms.min(details.take_silent(&mut due, self.times, now, hears));
            let next_ms = next_ms.min(details.take_left(&mut due, &self.periods, now, turn.any_ms));
            let next_ms = next_ms.min(details.take_expired(&mut due, now, turn.any_ms));
            agenda.due_ms = next_ms;
            self.schedule.push(next_ms, due.user.clone());
            if due.is_something() {
                return Some(due);
            }
        }
        None
    }

    /// Keeps in step with the record of a user.
    pub(super) fn observe(&mut self, user: &Id, after: Option<&Record>, now: Now) {
        let old = self.users.remove(user);
        let has_more = |record: &&Record| record.is_online() || record.status_expires_at.is_some();
        let Some(record) = after.filter(has_more) else { return self.drop_void_entries() };
        let known = old.as_ref().and_then(|old| old.details.as_deref());
        let details = Details {
            own: self.own_leases(record, known, now),
            graces: graces(record, known, now),
            status_end: status_end(record, known, now),
        };
        let mut agenda = UserAgenda {
            user: user.clone(),
            due_ms: NEVER_MS,
            active: (record.refreshed_last_active(), record.invisible),
            refresh_due_ms: NEVER_MS,
            details: (!details.is_empty()).then(|| Box::new(details)),
        };
        if !record.connections.is_empty() {
            agenda.refresh_due_ms = match &old {
                Some(old) if old.active == agenda.active && old.refresh_due_ms != NEVER_MS => {
                    old.refresh_due_ms
                }
                _ => now.mono_ms + self.refresh_in(user, agenda.active.0, now.wall),
            };
        }
        let wanted_ms = agenda.wanted_ms(&self.periods, self.times);
        let scheduled = old.map(|old| old.due_ms).filter(|due_ms| *due_ms <= wanted_ms);
        agenda.due_ms = scheduled.unwrap_or_else(|| {
            self.schedule.push(wanted_ms, user.clone());
            wanted_ms
        });
        self.users.insert_new(agenda);
        self.drop_void_entries();
    }

    fn drop_void_entries(&mut self) {
        let entries = self.users.iter().map(|each| (each.due_ms, each.user.clone()));
        self.schedule.drop_void(self.users.count(), entries);
    }

    /// The connections of a record that keep themselves alive, with when they were heard.
    fn own_leases(&self, record: &Record, old: Option<&Details>, now: Now) -> Box<[OwnLease]> {
        let known = old.map(|old| &*old.own).unwrap_or_default();
        let told = self.listening.then_some(self.times);
        let own = record.connections.iter().filter(|each| each.lease.is_none()).map(|each| {
            let connection_gen =
                ConnectionGen { connection: each.id.clone(), generation: each.generation };
            let known = known
                .iter()
                .find(|lease| lease.connection_gen.connection == connection_gen.connection);
            let heard = match known {
                Some(lease) if lease.connection_gen == connection_gen => lease.heard,
                Some(lease) => lease.heard.connected_again(now.mono_ms, told),
                None => Heard::connected(now.mono_ms, told),
            };
            OwnLease { connection_gen, heard }
        });
        own.collect()
    }

    /// In how long `last_active` is due: up to a tenth early, differently for each user, so that
    /// those who connected together are not written together. While the bucket is replayed only
    /// the wall clock tells how old it is.
    fn refresh_in(&self, user: &Id, last_active: Option<Time>, wall: Time) -> u64 {
        let full_ms = self.periods.refresh_ms;
        let in_ms = full_ms - stable_hash(user.as_str()) % (full_ms / 10).max(1);
        if self.listening {
            return in_ms;
        }
        let age_ms = last_active.map_or(0, |at| wall.0.saturating_sub(at.0));
        in_ms.saturating_sub(u64::try_from(age_ms).unwrap_or(0))
    }

    fn lease_mut(&mut self, user: &str, connection: &str) -> Option<&mut OwnLease> {
        let own = &mut self.users.get_mut(user)?.details.as_mut()?.own;
        own.iter_mut().find(|lease| lease.connection_gen.connection.as_str() == connection)
    }
}

impl UserAgenda {
    /// When the first of all is due, if this daemon is the first to act.
    fn wanted_ms(&self, periods: &Periods, times: LeaseTimes) -> u64 {
        let details = self.details.as_deref().map(|details| details.wanted_ms(periods, times));
        details.unwrap_or(NEVER_MS).min(self.refresh_due_ms)
    }

    /// This and those of [`Details`] each take what is due, and returns when to look at the rest.
    fn take_stale(&mut self, due: &mut Due, periods: &Periods, now: Now, wait_ms: u64) -> u64 {
        // By a clock that is behind, it was only just refreshed: there is nothing to write.
        let is_new = |at: Time| at >= now.wall && at.counts_at(now.wall);
        if self.refresh_due_ms <= now.mono_ms && self.active.0.is_some_and(is_new) {
            self.refresh_due_ms = now.mono_ms + periods.refresh_ms;
        }
        let due_ms = self.refresh_due_ms.saturating_add(wait_ms);
        if due_ms > now.mono_ms {
            return due_ms;
        }
        due.stale = Some(self.active.0);
        now.mono_ms + RETRY_MS
    }
}

impl Keyed for UserAgenda {
    type Key = Id;

    fn key(&self) -> &Id {
        &self.user
    }
}

impl Details {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.graces.is_empty() && self.status_end.is_none()
    }

    fn wanted_ms(&self, periods: &Periods, times: LeaseTimes) -> u64 {
        let lapses = self.own.iter().map(|lease| lease.heard.at_ms + times.lease_ms(lease.heard));
        let ends = self.graces.iter().map(|grace| grace.ends_ms(periods));
        let status = self.status_end.map(|end| end.look_ms);
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
            let lease_ms = times.lease_ms(lease.heard);
            let silent_ms = lease.heard.at_ms + lease_ms + wait_ms;
            let lapses_ms = silent_ms.max(listens_from_ms.saturating_add(lease_ms));
            if lapses_ms <= now.mono_ms {
                due.silent.push(lease.connection_gen.clone());
                next_ms = next_ms.min(now.mono_ms + RETRY_MS.min(lease_ms));
            } else {
                next_ms = next_ms.min(lapses_ms);
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
        if end.look_ms > now.mono_ms {
            return end.look_ms;
        }
        let turn = Time(end.at.0.saturating_add_unsigned(wait_ms));
        if turn > now.stream {
            end.look_ms = now.mono_ms + status_wait_ms(turn, now);
        } else {
            due.expired = Some(end.at);
            end.look_ms = now.mono_ms + RETRY_MS;
        }
        end.look_ms
    }
}

impl Grace {
    fn ends_ms(&self, periods: &Periods) -> u64 {
        self.seen_ms + self.grace_ms.unwrap_or(periods.grace_ms)
    }
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

/// The end of the status of a record, and when to look at it.
fn status_end(record: &Record, old: Option<&Details>, now: Now) -> Option<StatusEnd> {
    let at = record.status_expires_at?;
    let known = old.and_then(|old| old.status_end).filter(|known| known.at == at);
    let look_ms = now.mono_ms + status_wait_ms(at, now);
    Some(known.unwrap_or(StatusEnd { at, look_ms }))
}

/// In how long it is time to look whether a status has ended.
fn status_wait_ms(end: Time, now: Now) -> u64 {
    let left_ms = end.0.saturating_sub(now.stream.0);
    u64::try_from(left_ms).unwrap_or(0).min(MAX_STATUS_WAIT_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::user::Leaving;

    const PERIODS: Periods = Periods { lease_ms: 60_000, grace_ms: 5000, refresh_ms: 900_000 };
    /// The first of all daemons.
    const FIRST: Turn = Turn { hearing_ms: 0, any_ms: 0 };

    fn john() -> Id {
        Id::parse("john", "id").unwrap()
    }

    fn at(mono_ms: u64) -> Now {
        let stream = Time(1_000_000 + i64::try_from(mono_ms).unwrap());
        Now { mono_ms, wall: Time(stream.0 - 500_000), stream }
    }

    fn leaving(generation: u64, grace_ms: Option<u64>) -> Leaving {
        Leaving { grace_ms, ..Leaving::of_user(Time(0), generation) }
    }

    fn due(agenda: &mut Agenda, now: Now, turn: Turn) -> Option<Due> {
        agenda.take_due(now, NEVER_MS / 2, |_| turn)
    }

    #[test]
    fn each_grace_ends_at_its_time_and_again_until_it_is_written() {
        let mut record = Record::new(Time(0), 0);
        record.leaving = vec![leaving(1, None), leaving(2, Some(9000))];
        let mut agenda = Agenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        assert_eq!(due(&mut agenda, at(4999), FIRST), None);
        let first = [record.leaving[0].key()];
        assert_eq!(due(&mut agenda, at(5000), FIRST).unwrap().left, first);
        record.leaving.remove(0);
        agenda.observe(&john(), Some(&record), at(5010));
        assert_eq!(due(&mut agenda, at(8999), FIRST), None);
        for at_ms in [9000, 9000 + RETRY_MS] {
            let left = due(&mut agenda, at(at_ms), FIRST).unwrap().left;
            assert_eq!(left, [record.leaving[0].key()]);
        }
        agenda.observe(&john(), None, at(20_000));
        assert_eq!(due(&mut agenda, at(60_000), FIRST), None);
    }

    #[test]
    fn the_longest_grace_of_all_daemons_counts() {
        let mut record = Record::new(Time(0), 0);
        record.leaving = vec![leaving(1, None), leaving(2, Some(100))];
        let mut agenda = Agenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        agenda.adjust_grace(8000);
        let named = [record.leaving[1].key()];
        assert_eq!(due(&mut agenda, at(100), FIRST).unwrap().left, named);
        record.leaving.pop();
        agenda.observe(&john(), Some(&record), at(200));
        assert_eq!(due(&mut agenda, at(7999), FIRST), None);
        assert!(due(&mut agenda, at(8000), FIRST).is_some());
        agenda.adjust_grace(1);
        record.leaving = vec![leaving(3, None)];
        agenda.observe(&john(), Some(&record), at(9000));
        assert!(due(&mut agenda, at(14_000), FIRST).is_some(), "the own one");
    }

    #[test]
    fn a_status_ends_by_the_clock_of_jetstream_in_the_turn_of_the_daemon() {
        let mut record = Record::new(Time(0), 0);
        record.status_expires_at = Some(at(3000).stream);
        let mut agenda = Agenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        let second = Turn { hearing_ms: 0, any_ms: 1000 };
        assert_eq!(due(&mut agenda, at(3999), second), None);
        let expired = due(&mut agenda, at(4000), second).unwrap().expired;
        assert_eq!(expired, record.status_expires_at);
    }
}
