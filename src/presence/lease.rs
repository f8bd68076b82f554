//! Shared leases: when each was last heard of, and which are due to lapse. Pure: the time comes in
//! as a value, measured on the daemon's own monotonic clock (`docs/protocol.md`, *Liveness*).

use super::agenda::{Agenda, NEVER_MS, Timed};
use super::heard::Heard;
use super::id::Id;
use super::lease_terms::LeaseTimes;
use super::table::Keyed;

/// One shared lease.
#[derive(Debug)]
struct Lease {
    name: Id,
    held: usize,
    heard: Heard,
    check_ms: u64,
    ending: Option<End>,
}

impl Keyed for Lease {
    type Key = Id;

    fn key(&self) -> &Id {
        &self.name
    }
}

impl Timed for Lease {
    fn check_ms(&self) -> u64 {
        self.check_ms
    }

    fn check_at(&mut self, at_ms: u64) {
        self.check_ms = at_ms;
    }
}

impl Lease {
    /// One of its connections connected.
    fn connected(&mut self, now_ms: u64, told: Option<LeaseTimes>) {
        self.heard = match self.held {
            1 => self.heard.connected_again(now_ms, told),
            _ => self.heard.joined(now_ms, told),
        };
    }
}

/// An end of a lease that is under way.
#[derive(Debug, Clone, Copy)]
struct End {
    since_ms: u64,
    /// The last heartbeat since then. It counts for connections made meanwhile, if there are any.
    beat_ms: Option<u64>,
}

/// The shared leases that hold connections. One that holds none costs nothing: a flood of
/// heartbeats for unknown leases leaves no trace.
#[derive(Debug)]
pub struct Leases {
    agenda: Agenda<Lease>,
    times: LeaseTimes,
    /// While the bucket is replayed, a connection that appears has not been heard.
    listening: bool,
}

impl Leases {
    pub fn new(lease_ms: u64) -> Self {
        let times = LeaseTimes::of_all(lease_ms);
        Self { agenda: Agenda::default(), times, listening: false }
    }

    /// Other leases count from here on.
    pub fn on_lease_times(&mut self, times: LeaseTimes) {
        if times != self.times {
            self.times = times;
            self.agenda.bring_all_forward(|lease| times.lapses_ms(lease.heard));
        }
    }

    /// The replica is whole; from now on a connection that appears has just connected.
    pub fn on_replayed(&mut self) {
        self.listening = true;
    }

    /// A connection joined a lease by connecting. A connect of an `invisible` user is no sign of
    /// life for a lease that others share: their lapse would visibly move.
    pub fn on_joined(&mut self, name: &Id, invisible: bool, now_ms: u64) {
        let told = self.told();
        if let Some(lease) = self.agenda.get_mut(name) {
            lease.held += 1;
            if !invisible {
                lease.connected(now_ms, told);
            }
            return;
        }
        let (name, heard) = (name.clone(), Heard::connected(now_ms, told));
        let check_ms = self.times.lapses_ms(heard);
        self.agenda.put(Lease { name, held: 1, heard, check_ms, ending: None });
    }

    /// A connection on a lease connected once more; of an invisible user as for
    /// [`on_joined`](Leases::on_joined).
    pub fn on_rejoined(&mut self, name: &Id, invisible: bool, now_ms: u64) {
        let told = self.told();
        if let Some(lease) = self.agenda.get_mut(name).filter(|_| !invisible) {
            lease.connected(now_ms, told);
        }
    }

    /// A connection left a lease.
    pub fn on_left(&mut self, name: &Id) {
        let Some(lease) = self.agenda.get_mut(name) else { return };
        lease.held -= 1;
        if lease.held == 0 {
            self.agenda.remove(name);
        }
    }

    /// Records a heartbeat sent at `at_ms`. During the end of the lease it counts only for
    /// connections made since the end began.
    pub fn on_heartbeat(&mut self, name: &impl AsRef<str>, at_ms: u64) {
        match self.agenda.get_mut(name.as_ref()) {
            Some(Lease { ending: Some(end), .. }) => end.beat_ms = end.beat_ms.max(Some(at_ms)),
            Some(lease) => lease.heard.beat(at_ms),
            None => {}
        }
    }

    /// Another daemon has heard a lease that was handed out as due: it is due again a lease after
    /// that. If that is over, the other daemon applies a longer lease, and it is due when it
    /// would be without an objection. An end that is under way continues: the other daemon does not
    /// know of it yet.
    pub fn on_objection(&mut self, name: &Id, at_ms: u64, now_ms: u64) {
        self.on_heartbeat(name, at_ms);
        let Some(lease) = self.agenda.get(name) else { return };
        let due_ms = at_ms + self.times.lease_ms(lease.heard);
        if due_ms > now_ms {
            self.agenda.bring_forward(name, due_ms);
        }
    }

    /// The number of connections that a lease holds; `None` if it is unknown, or its end has begun.
    pub fn held(&self, name: &Id) -> Option<usize> {
        let lease = self.agenda.get(name).filter(|lease| lease.ending.is_none())?;
        Some(lease.held)
    }

    /// The time at which a lease was last heard of.
    pub fn heard(&self, name: &Id) -> Option<Heard> {
        self.agenda.get(name).map(|lease| lease.heard)
    }

    /// The end of a lease begins; until it has ended it is not due. Whether it holds anything.
    pub fn on_end_begun(&mut self, name: &Id, now_ms: u64) -> bool {
        let Some(lease) = self.agenda.get_mut(name) else { return false };
        lease.ending.get_or_insert(End { since_ms: now_ms, beat_ms: None });
        true
    }

    /// The end of a lease is `done`: what it holds now has connected since it began. Or it is given
    /// up: the lease may lapse again.
    pub fn on_ended(&mut self, name: &Id, done: bool) {
        let told = self.told();
        let Some(lease) = self.agenda.get_mut(name) else { return };
        let Some(End { since_ms, beat_ms }) = lease.ending.take() else { return };
        if done && lease.heard.at_ms < since_ms {
            lease.heard = lease.heard.connected_again(since_ms, told);
        }
        if let Some(at_ms) = beat_ms.filter(|_| lease.heard.at_ms >= since_ms) {
            lease.heard.beat(at_ms);
        }
        let lapses_ms = self.times.lapses_ms(lease.heard);
        self.agenda.bring_forward(name, lapses_ms);
    }

    /// The leases that have been silent for too long, `wait_ms(name)` later. None while the daemon
    /// is deaf, that is until it has listened since `listens_from_ms` for as long.
    pub fn take_due(
        &mut self,
        now_ms: u64,
        listens_from_ms: u64,
        wait_ms: impl Fn(&Id) -> u64,
    ) -> Vec<Id> {
        let times = self.times;
        let check = |lease: &mut Lease| {
            // Its end is under way: it is checked when that is done.
            if lease.ending.is_some() {
                return (NEVER_MS, None);
            }
            let silent_ms = times.silent_ms(lease.heard, listens_from_ms, wait_ms(&lease.name));
            if silent_ms > now_ms {
                return (silent_ms, None);
            }
            // It may be heard again at once and then fall silent.
            (now_ms + times.retry_ms(lease.heard), Some(lease.name.clone()))
        };
        std::iter::from_fn(|| self.agenda.take_due(now_ms, check)).collect()
    }

    /// The leases that connects are told now; `None` while the bucket is replayed.
    fn told(&self) -> Option<LeaseTimes> {
        self.listening.then_some(self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Id {
        Id::parse("gw", "lease").unwrap()
    }

    fn due(leases: &mut Leases, now_ms: u64) -> Vec<Id> {
        leases.take_due(now_ms, 0, |_| 0)
    }

    fn held() -> Leases {
        let mut leases = Leases::new(1000);
        leases.on_replayed();
        leases.on_joined(&gateway(), false, 0);
        leases
    }

    #[test]
    fn a_lease_lapses_a_lease_after_it_was_last_heard_of() {
        let mut leases = held();
        leases.on_heartbeat(&gateway(), 600);
        assert_eq!(due(&mut leases, 1000), []);
        assert_eq!(due(&mut leases, 1599), []);
        assert_eq!(due(&mut leases, 1600), [gateway()]);
        assert_eq!(due(&mut leases, 1700), []);
    }

    #[test]
    fn an_objection_puts_the_end_off_to_a_lease_after_what_was_heard() {
        let mut leases = held();
        assert_eq!(due(&mut leases, 1000), [gateway()]);
        leases.on_objection(&gateway(), 400, 1000);
        assert_eq!(due(&mut leases, 1399), []);
        assert_eq!(due(&mut leases, 1400), [gateway()]);
    }

    #[test]
    fn an_objection_by_a_longer_lease_is_not_asked_for_again_at_once() {
        let mut leases = held();
        assert_eq!(due(&mut leases, 3000), [gateway()]);
        leases.on_objection(&gateway(), 1500, 3000);
        assert_eq!(due(&mut leases, 3999), []);
        assert_eq!(due(&mut leases, 4000), [gateway()]);
    }

    #[test]
    fn a_shorter_lease_counts_for_those_who_connect_from_then_on_and_later_for_all() {
        let changed = LeaseTimes { told_ms: 1000, longest_ms: 9000 };
        let mut leases = Leases::new(9000);
        leases.on_replayed();
        let old = Id::parse("old", "lease").unwrap();
        leases.on_joined(&old, false, 0);
        leases.on_lease_times(changed);
        leases.on_joined(&gateway(), false, 100);
        assert_eq!(due(&mut leases, 1099), []);
        assert_eq!(due(&mut leases, 1100), [gateway()]);
        leases.on_left(&gateway());
        assert_eq!(due(&mut leases, 5000), []);
        leases.on_lease_times(LeaseTimes::of_all(1000));
        assert_eq!(due(&mut leases, 5000), [old]);
    }

    #[test]
    fn a_deaf_daemon_ends_no_lease() {
        let mut leases = held();
        assert_eq!(leases.take_due(5000, 5000, |_| 0), []);
        assert_eq!(leases.take_due(6000, 5000, |_| 0), [gateway()]);
    }

    #[test]
    fn the_second_in_order_comes_later() {
        let mut leases = held();
        assert_eq!(leases.take_due(1500, 0, |_| 1000), []);
        assert_eq!(leases.take_due(2000, 0, |_| 1000), [gateway()]);
    }

    #[test]
    fn heartbeats_of_a_lease_that_ends_come_back_unknown_until_it_is_done() {
        let mut leases = held();
        assert!(leases.on_end_begun(&gateway(), 1000));
        leases.on_heartbeat(&gateway(), 1001);
        assert_eq!(leases.held(&gateway()), None);
        leases.on_joined(&gateway(), false, 1002);
        leases.on_left(&gateway());
        assert_eq!(leases.held(&gateway()), None);
        leases.on_ended(&gateway(), true);
        assert_eq!(leases.held(&gateway()), Some(1));
    }

    #[test]
    fn a_lease_is_not_due_while_its_end_goes_on() {
        let mut leases = held();
        leases.on_end_begun(&gateway(), 1000);
        assert_eq!(due(&mut leases, 500_000), []);
        leases.on_ended(&gateway(), false);
        assert_eq!(due(&mut leases, 500_000), [gateway()], "it was given up");
    }

    #[test]
    fn a_connect_while_a_lease_ends_has_a_lease_from_then_on() {
        let mut leases = held();
        leases.on_end_begun(&gateway(), 1500);
        leases.on_joined(&gateway(), true, 1700);
        leases.on_left(&gateway());
        leases.on_ended(&gateway(), true);
        assert_eq!(due(&mut leases, 2499), []);
        assert_eq!(due(&mut leases, 2500), [gateway()]);
    }

    #[test]
    fn heartbeats_while_a_lease_ends_count_for_connects_meanwhile() {
        for done in [true, false] {
            let mut leases = held();
            leases.on_end_begun(&gateway(), 1500);
            leases.on_joined(&gateway(), false, 1600);
            leases.on_heartbeat(&gateway(), 1900);
            leases.on_heartbeat(&gateway(), 1800);
            leases.on_ended(&gateway(), done);
            assert_eq!(due(&mut leases, 2899), []);
            assert_eq!(due(&mut leases, 2900), [gateway()]);
        }
        let mut leases = held();
        leases.on_end_begun(&gateway(), 1500);
        leases.on_heartbeat(&gateway(), 1900);
        leases.on_ended(&gateway(), false);
        assert_eq!(due(&mut leases, 1900), [gateway()], "nobody connected, and it was given up");
    }

    #[test]
    fn nothing_that_is_not_held_is_ended() {
        let mut leases = Leases::new(1000);
        assert!(!leases.on_end_begun(&gateway(), 1000));
        leases.on_ended(&gateway(), true);
        assert!(leases.agenda.is_empty());
    }

    #[test]
    fn an_invisible_user_who_connects_puts_off_nothing_for_others() {
        let mut leases = held();
        leases.on_joined(&gateway(), true, 600);
        leases.on_rejoined(&gateway(), true, 800);
        assert_eq!(due(&mut leases, 1000), [gateway()]);
        let mut leases = Leases::new(1000);
        leases.on_joined(&gateway(), true, 600);
        assert_eq!(due(&mut leases, 1599), []);
        assert_eq!(due(&mut leases, 1600), [gateway()]);
    }

    #[test]
    fn one_connect_does_not_shorten_the_lease_of_all_who_share_it() {
        let mut leases = Leases::new(60_000);
        leases.on_replayed();
        leases.on_joined(&gateway(), false, 0);
        leases.on_lease_times(LeaseTimes { told_ms: 6000, longest_ms: 60_000 });
        leases.on_joined(&gateway(), false, 1000);
        leases.on_rejoined(&gateway(), false, 1000);
        assert_eq!(due(&mut leases, 30_000), []);
        leases.on_lease_times(LeaseTimes::of_all(6000));
        assert_eq!(due(&mut leases, 30_000), [gateway()]);
    }

    #[test]
    fn unknown_leases_leave_no_trace() {
        let mut leases = Leases::new(1000);
        for n in 0..1000 {
            leases.on_heartbeat(&Id::parse(&n.to_string(), "lease").unwrap(), 5);
        }
        assert!(leases.agenda.is_empty());
    }
}
