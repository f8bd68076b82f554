//! The agenda of the users: which of them have something due. Pure: the time comes in as a value.
//! One entry per user with something to come: no tasks, no scan.

use super::connection::{ConnectionGen, LeavingKey};
use super::record::Record;
use super::upcoming::{Due, Measures, Periods, Turn, Upcoming};
use crate::presence::agenda::Agenda;
use crate::presence::heard::Heard;
use crate::presence::id::Id;
use crate::presence::lease_terms::LeaseTimes;
use crate::presence::table::Keyed;
use crate::presence::time::Now;

/// The shift of JetStream's clock against the monotonic one that is left alone, in milliseconds.
const MAX_SHIFT_MS: u64 = 500;

/// The agenda of the users of one stripe.
#[derive(Debug)]
pub struct UserAgenda {
    measures: Measures,
    /// The grace of this daemon's settings; `measures` has the one that counts.
    own_grace_ms: u64,
    users: Agenda<Upcoming>,
    /// The time by which JetStream's clock was ahead of the monotonic one when the ends of statuses
    /// were last placed.
    stream_ahead_ms: Option<i64>,
}

impl UserAgenda {
    pub fn new(periods: Periods) -> Self {
        let times = LeaseTimes::of_all(periods.lease_ms);
        let measures = Measures { periods, times, listening: false };
        Self {
            measures,
            own_grace_ms: periods.grace_ms,
            users: Agenda::default(),
            stream_ahead_ms: None,
        }
    }

    /// Daemons may have different settings: the longest grace of all counts. `others_ms` is that
    /// of the other daemons.
    pub fn on_grace(&mut self, others_ms: u64) {
        self.measures.periods.grace_ms = self.own_grace_ms.max(others_ms);
    }

    /// Other leases count from here on.
    pub fn on_lease_times(&mut self, times: LeaseTimes) {
        if times != self.measures.times {
            self.measures.times = times;
            self.users.bring_all_forward(|upcoming| upcoming.wanted_ms(&self.measures));
        }
    }

    /// The replica is whole; from now on a connection that appears has just connected.
    pub fn on_replayed(&mut self) {
        self.measures.listening = true;
    }

    /// Records a heartbeat of a connection, sent at `at_ms`. One that is unknown leaves no trace.
    pub fn on_heartbeat(
        &mut self,
        user: &impl AsRef<str>,
        connection: &impl AsRef<str>,
        at_ms: u64,
    ) {
        if let Some(upcoming) = self.users.get_mut(user.as_ref()) {
            upcoming.on_heartbeat(connection.as_ref(), at_ms);
        }
    }

    /// Another daemon has heard a connection that was handed out as silent: it is checked again
    /// when a lease has passed since then. If it has, the other daemon applies a longer lease,
    /// and it is checked when it would be without an objection.
    pub fn on_objection(&mut self, user: &Id, connection: &Id, at_ms: u64, now_ms: u64) {
        self.on_heartbeat(user, connection, at_ms);
        let Some(heard) = self.heard(user, connection) else { return };
        let due_ms = at_ms + self.measures.times.lease_ms(heard);
        if due_ms > now_ms {
            self.users.bring_forward(user, due_ms);
        }
    }

    /// The time at which a connection that keeps itself alive was last heard of.
    pub fn heard(&self, user: &Id, connection: &Id) -> Option<Heard> {
        self.users.get(user)?.heard(connection.as_str())
    }

    /// The time at which this daemon first saw that a connection is leaving, on its monotonic
    /// clock.
    pub fn leaving_seen_ms(&self, user: &Id, key: &LeavingKey) -> Option<u64> {
        self.users.get(user)?.leaving_seen_ms(key)
    }

    /// Returns whether a connection has been silent for a lease, and is still the same.
    pub fn is_silent(&self, user: &Id, connection_gen: &ConnectionGen, now_ms: u64) -> bool {
        let upcoming = self.users.get(user);
        upcoming.is_some_and(|each| each.is_silent(connection_gen, &self.measures, now_ms))
    }

    /// Takes a user for whom something is due, `turn(user)` after its time. Silence counts only
    /// since `listens_from_ms`. An unfinished item is due again a while later.
    pub fn take_due(
        &mut self,
        now: Now,
        listens_from_ms: u64,
        turn: impl Fn(&Id) -> Turn,
    ) -> Option<Due> {
        self.follow_stream_clock(now);
        let measures = &self.measures;
        self.users.take_due(now.mono_ms, |upcoming| {
            let turn = turn(upcoming.key());
            upcoming.take_due(measures, now, listens_from_ms, turn)
        })
    }

    /// Statuses end by JetStream's clock: if it was set, they end at another time of the monotonic
    /// one.
    fn follow_stream_clock(&mut self, now: Now) {
        let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
        let ahead_ms = now.stream.0.saturating_sub(mono_ms);
        let known_ms = *self.stream_ahead_ms.get_or_insert(ahead_ms);
        if known_ms.abs_diff(ahead_ms) > MAX_SHIFT_MS {
            self.stream_ahead_ms = Some(ahead_ms);
            self.users.bring_all_forward(|upcoming| upcoming.follow_stream_clock(now));
        }
    }

    /// Keeps in step with the record of a user.
    pub(super) fn observe(&mut self, user: &Id, after: Option<&Record>, now: Now) {
        let has_more = |record: &&Record| record.is_online() || record.status_expires_at.is_some();
        match after.filter(has_more) {
            Some(record) => {
                let known = self.users.get(user);
                self.users.put(Upcoming::of(user, record, known, &self.measures, now));
            }
            None => self.users.remove(user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::agenda::{NEVER_MS, RETRY_MS};
    use crate::presence::time::Time;
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

    fn due(agenda: &mut UserAgenda, now: Now, turn: Turn) -> Option<Due> {
        agenda.take_due(now, NEVER_MS / 2, |_| turn)
    }

    #[test]
    fn each_grace_ends_at_its_time_and_again_until_it_is_written() {
        let mut record = Record::new(Time(0), 0);
        record.leaving = vec![leaving(1, None), leaving(2, Some(9000))];
        let mut agenda = UserAgenda::new(PERIODS);
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
        let mut agenda = UserAgenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        agenda.on_grace(8000);
        let named = [record.leaving[1].key()];
        assert_eq!(due(&mut agenda, at(100), FIRST).unwrap().left, named);
        record.leaving.pop();
        agenda.observe(&john(), Some(&record), at(200));
        assert_eq!(due(&mut agenda, at(7999), FIRST), None);
        assert!(due(&mut agenda, at(8000), FIRST).is_some());
        agenda.on_grace(1);
        record.leaving = vec![leaving(3, None)];
        agenda.observe(&john(), Some(&record), at(9000));
        assert!(due(&mut agenda, at(14_000), FIRST).is_some(), "the own one");
    }

    #[test]
    fn a_status_ends_by_the_clock_of_jetstream_in_the_turn_of_the_daemon() {
        let mut record = Record::new(Time(0), 0);
        record.status_expires_at = Some(at(3000).stream);
        let mut agenda = UserAgenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        let second = Turn { hearing_ms: 0, any_ms: 1000 };
        assert_eq!(due(&mut agenda, at(3999), second), None);
        let expired = due(&mut agenda, at(4000), second).unwrap().expired;
        assert_eq!(expired, record.status_expires_at);
    }

    #[test]
    fn a_status_ends_in_time_if_the_clock_of_jetstream_is_set_forward() {
        let mut record = Record::new(Time(0), 0);
        record.status_expires_at = Some(at(300_000).stream);
        let mut agenda = UserAgenda::new(PERIODS);
        agenda.observe(&john(), Some(&record), at(0));
        assert_eq!(due(&mut agenda, at(1000), FIRST), None);
        let set = |mono_ms| Now { stream: at(mono_ms + 290_000).stream, ..at(mono_ms) };
        assert_eq!(due(&mut agenda, set(2000), FIRST), None);
        let expired = due(&mut agenda, set(10_000), FIRST).unwrap().expired;
        assert_eq!(expired, record.status_expires_at);
        assert_eq!(due(&mut agenda, set(11_000), FIRST), None, "handed out already");
    }
}
