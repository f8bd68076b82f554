//! The hearing of this daemon, or its deafness: whether it may have missed heartbeats. Pure: the
//! time comes in as a value.
//!
//! The daemon sends itself numbered probes among the heartbeats. A missing or late probe, or any
//! other trouble with the connection, means that heartbeats may have been missed as well. Then the
//! daemon is deaf, and expires no lease, until it has listened for a whole lease again.
//!
//! While NATS is partitioned, only the side that can write expires leases, by the heartbeats of
//! that side (`docs/protocol.md`, *Liveness*). So the daemon also queries the bucket all the time.
//! A bucket that does not answer, or whose leader has no majority, is trouble as well.

use std::collections::VecDeque;

/// The period of the probes, in milliseconds.
pub const PROBE_MS: u64 = 500;

/// A probe that takes longer is late, in milliseconds.
const PROBE_LATE_MS: u64 = 1000;

/// A bucket without an answer for this long is trouble, in milliseconds. It is longer than for a
/// probe: the leader has other work to do.
const BUCKET_LATE_MS: u64 = 2000;

/// A daemon that has sent no probe for this long was stalled, in milliseconds.
const STALLED_AFTER_MS: u64 = 2000;

/// The maximum number of probes in flight that are remembered: more than a minute of them.
const MAX_PROBES_IN_FLIGHT: usize = 128;

/// The hearing of one daemon.
#[derive(Debug)]
pub struct Hearing {
    lease_ms: u64,
    /// The last trouble: when, and its description.
    trouble: (u64, &'static str),
    lanes: [Lane; 2],
    last_number: u64,
    /// The time at which the last probe was sent.
    probed_ms: Option<u64>,
    /// The last probe before the last trouble: its loss is no new trouble.
    void_until: u64,
    /// The last stall: the time of the last probe before it, and the number of the first one after.
    stall: (u64, u64),
    /// Whether there is no connection, so that deafness has no end yet.
    cut_off: bool,
    bucket: BucketCheck,
}

/// The queries to the bucket.
#[derive(Debug)]
struct BucketCheck {
    /// The time at which the query in flight was sent.
    asked_ms: Option<u64>,
    /// Since when there has been no good answer.
    waiting_since_ms: Option<u64>,
    /// The time at which the newest query with a good answer was sent.
    proven_ms: u64,
}

/// One of the subjects on which heartbeats arrive.
#[derive(Debug, Default)]
struct Lane {
    /// The probes in flight: number and time of sending.
    in_flight: VecDeque<(u64, u64)>,
    /// The newest probe that came back, and when it was sent.
    returned: u64,
    proven_ms: u64,
}

impl Hearing {
    /// The hearing of a daemon that has just begun to listen.
    pub fn new(lease_ms: u64, now_ms: u64) -> Self {
        let lane = || Lane { proven_ms: now_ms, ..Lane::default() };
        Self {
            lease_ms,
            trouble: (now_ms, "it has just started to listen"),
            lanes: [lane(), lane()],
            last_number: 0,
            probed_ms: None,
            void_until: 0,
            stall: (0, 0),
            cut_off: false,
            bucket: BucketCheck { asked_ms: None, waiting_since_ms: None, proven_ms: now_ms },
        }
    }

    /// Records an event by which heartbeats may have been missed.
    pub fn on_trouble(&mut self, now_ms: u64, what: &'static str) {
        self.trouble = (now_ms, what);
        self.void_until = self.last_number;
    }

    /// Records the loss of the connection: the daemon is deaf until it is back, and for a lease
    /// after that.
    pub fn on_cut_off(&mut self, now_ms: u64, what: &'static str) {
        self.on_trouble(now_ms, what);
        self.cut_off = true;
    }

    /// Records that the connection is there. Returns whether it had been lost.
    pub fn on_connected(&mut self, now_ms: u64, what: &'static str) -> bool {
        let was_cut_off = std::mem::take(&mut self.cut_off);
        if was_cut_off {
            self.on_trouble(now_ms, what);
        }
        was_cut_off
    }

    /// Returns whether there is no connection at all.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// The lease that clients are told has changed.
    pub fn on_lease(&mut self, lease_ms: u64) {
        self.lease_ms = lease_ms;
    }

    /// Since when the daemon has listened without trouble, as far as is known now.
    pub fn listens_from_ms(&self, now_ms: u64) -> u64 {
        if self.cut_off { now_ms } else { self.trouble.0 }
    }

    /// The time from which the daemon hears, as far as is known now: a lease after the last
    /// trouble.
    pub fn from_ms(&self, now_ms: u64) -> u64 {
        self.listens_from_ms(now_ms) + self.lease_ms
    }

    /// The time until which all heartbeats are proven to be heard, on the side that can write. It
    /// is the time at which the newest probe that returned and the newest good query of the bucket
    /// were sent.
    pub fn proven_ms(&self) -> u64 {
        let [trusted, own] = &self.lanes;
        trusted.proven_ms.min(own.proven_ms).min(self.bucket.proven_ms)
    }

    /// The reason why the daemon is deaf, if it is.
    pub fn deaf(&self, now_ms: u64) -> Option<&'static str> {
        (now_ms < self.from_ms(now_ms)).then_some(self.trouble.1)
    }

    /// The earliest time at which a message that is taken from a lane now may have been sent. A
    /// heartbeat that waited must not count as fresh: it would prolong the lease of a dead client.
    /// The message was sent before the probes that have not returned; one from a stall may be from
    /// its beginning.
    pub fn heard_ms(&self, lane: usize, now_ms: u64) -> u64 {
        let Some(lane) = self.lanes.get(lane) else { return now_ms };
        if let Some(probed_ms) = self.probed_ms.filter(|at_ms| at_ms + STALLED_AFTER_MS < now_ms) {
            return probed_ms;
        }
        let (stalled_ms, first_after) = self.stall;
        if lane.returned < first_after {
            return stalled_ms;
        }
        let next = lane.in_flight.front().map(|(_, sent_ms)| *sent_ms);
        next.filter(|sent_ms| sent_ms + PROBE_LATE_MS < now_ms).unwrap_or(now_ms)
    }

    /// Returns the number of the next probe, which is sent on all lanes now. Detects late probes,
    /// and a stall of the daemon itself.
    pub fn probe(&mut self, now_ms: u64) -> u64 {
        let before_ms = self.probed_ms.replace(now_ms);
        if let Some(before_ms) = before_ms.filter(|at_ms| at_ms + STALLED_AFTER_MS < now_ms) {
            self.on_trouble(now_ms, "the daemon was stalled");
            self.stall = (before_ms, self.last_number + 1);
        }
        let oldest_sent_ms = |lane: &Lane| {
            lane.in_flight
                .iter()
                .find(|(number, _)| *number > self.void_until)
                .map(|(_, sent)| *sent)
        };
        let oldest = self.lanes.iter().filter_map(oldest_sent_ms).min();
        if oldest.is_some_and(|sent_ms| sent_ms + PROBE_LATE_MS + PROBE_MS < now_ms) {
            self.on_trouble(now_ms, "a probe did not come back");
        }
        self.last_number += 1;
        for lane in &mut self.lanes {
            lane.in_flight.push_back((self.last_number, now_ms));
            if lane.in_flight.len() > MAX_PROBES_IN_FLIGHT {
                lane.in_flight.pop_front();
            }
        }
        self.last_number
    }

    /// Begins a query of the bucket, and returns whether it did: not while one is in flight. Detects
    /// a late answer.
    pub fn begin_bucket_query(&mut self, now_ms: u64) -> bool {
        let since_ms = *self.bucket.waiting_since_ms.get_or_insert(now_ms);
        if since_ms + BUCKET_LATE_MS < now_ms {
            self.on_trouble(now_ms, "the bucket does not answer, or its leader has no majority");
        }
        let is_begun = self.bucket.asked_ms.is_none();
        if is_begun {
            self.bucket.asked_ms = Some(now_ms);
        }
        is_begun
    }

    /// Records the answer to the query in flight: `well` if the bucket's leader has a majority.
    pub fn on_bucket_answer(&mut self, well: bool) {
        let asked_ms = self.bucket.asked_ms.take();
        if let (true, Some(asked_ms)) = (well, asked_ms) {
            self.bucket.waiting_since_ms = None;
            self.bucket.proven_ms = asked_ms;
        }
    }

    /// Records a probe that returned on a lane.
    pub fn on_probe(&mut self, lane: usize, number: u64, now_ms: u64) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let mut lost = false;
        while let Some((sent, sent_ms)) = lane.in_flight.front().copied().filter(|p| p.0 <= number)
        {
            lane.in_flight.pop_front();
            if sent < number {
                lost |= sent > self.void_until;
                continue;
            }
            (lane.returned, lane.proven_ms) = (number, sent_ms);
            // A probe from before the last trouble is no trouble after it.
            if number > self.void_until && sent_ms + PROBE_LATE_MS < now_ms {
                self.on_trouble(now_ms, "a probe came back late");
                return;
            }
        }
        if lost {
            self.on_trouble(now_ms, "a probe was lost on the way");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> Hearing {
        let mut hearing = Hearing::new(10_000, 0);
        for second in 1..=10 {
            let number = hearing.probe(second * 1000);
            hearing.on_probe(0, number, second * 1000 + 5);
            hearing.on_probe(1, number, second * 1000 + 5);
            assert!(hearing.begin_bucket_query(second * 1000));
            hearing.on_bucket_answer(true);
        }
        hearing
    }

    #[test]
    fn a_daemon_hears_after_a_whole_lease_without_trouble() {
        assert!(listening().deaf(9999).is_some());
        assert_eq!(listening().deaf(10_000), None);
    }

    #[test]
    fn a_missing_a_lost_and_a_late_probe_each_make_a_daemon_deaf_for_a_lease() {
        let mut missing = listening();
        missing.probe(11_000);
        missing.probe(12_000);
        assert_eq!(missing.deaf(12_001), None);
        missing.probe(13_001);
        assert_eq!(missing.deaf(13_001), Some("a probe did not come back"));
        assert_eq!(missing.from_ms(13_001), 23_001);

        let mut lost = listening();
        lost.probe(11_000);
        let second = lost.probe(12_000);
        lost.on_probe(1, second, 12_003);
        assert!(lost.deaf(12_003).is_some());

        let mut late = listening();
        let number = late.probe(11_000);
        late.on_probe(0, number, 12_001);
        assert!(late.deaf(12_001).is_some());
    }

    #[test]
    fn a_stalled_daemon_is_deaf_even_if_all_probes_have_returned() {
        let mut hearing = listening();
        hearing.probe(12_001);
        assert_eq!(hearing.deaf(12_001), Some("the daemon was stalled"));
        assert_eq!(hearing.from_ms(12_001), 22_001);
    }

    #[test]
    fn probes_from_before_a_trouble_are_no_new_trouble() {
        let mut hearing = listening();
        let before = hearing.probe(11_000);
        hearing.on_trouble(11_001, "it was cut off");
        hearing.on_probe(0, before, 11_500);
        assert_eq!(hearing.from_ms(11_500), 21_001);
    }

    #[test]
    fn a_cut_off_daemon_is_deaf_until_a_lease_after_it_is_back() {
        let mut hearing = listening();
        hearing.on_cut_off(11_000, "it was cut off");
        assert_eq!(hearing.deaf(60_000), Some("it was cut off"));
        assert!(hearing.from_ms(60_000) > 60_000);
        assert!(hearing.on_connected(60_000, "it is back"));
        assert_eq!(hearing.deaf(69_999), Some("it is back"));
        assert_eq!(hearing.deaf(70_000), None);
        assert!(!hearing.on_connected(70_000, "it is back"));
        assert_eq!(hearing.deaf(70_000), None);
    }

    #[test]
    fn a_late_heartbeat_does_not_count_as_fresh() {
        let mut late = listening();
        assert_eq!(late.heard_ms(0, 10_400), 10_400);
        let first = late.probe(11_000);
        late.probe(11_500);
        assert_eq!(late.heard_ms(0, 11_900), 11_900);
        assert_eq!(late.heard_ms(0, 14_000), 11_500, "no probe was sent since");
        late.probe(12_500);
        late.probe(13_500);
        assert_eq!(late.heard_ms(0, 14_000), 11_000);
        late.on_probe(0, first, 14_000);
        assert_eq!(late.heard_ms(0, 14_000), 11_500);
    }

    #[test]
    fn heartbeats_from_a_stall_are_as_old_as_the_stall_until_a_probe_has_returned() {
        let mut hearing = listening();
        assert_eq!(hearing.heard_ms(1, 18_000), 10_000);
        let after = hearing.probe(18_000);
        assert_eq!(hearing.heard_ms(1, 18_001), 10_000);
        hearing.on_probe(1, after, 18_002);
        assert_eq!(hearing.heard_ms(1, 18_003), 18_003);
        assert_eq!(hearing.heard_ms(0, 18_003), 10_000);
    }

    #[test]
    fn a_connection_that_stays_down_costs_no_memory() {
        let mut hearing = listening();
        for n in 1..10_000 {
            hearing.probe(10_000 + n * PROBE_MS);
        }
        assert!(hearing.lanes.iter().all(|lane| lane.in_flight.len() <= MAX_PROBES_IN_FLIGHT));
    }

    #[test]
    fn hearing_is_proven_until_the_newest_returned_probe_and_answered_query() {
        let mut hearing = listening();
        assert_eq!(hearing.proven_ms(), 10_000);
        let number = hearing.probe(11_000);
        hearing.on_probe(0, number, 11_003);
        assert_eq!(hearing.proven_ms(), 10_000);
        hearing.on_probe(1, number, 11_005);
        assert_eq!(hearing.proven_ms(), 10_000);
        hearing.begin_bucket_query(11_000);
        hearing.on_bucket_answer(true);
        assert_eq!(hearing.proven_ms(), 11_000);
    }

    #[test]
    fn a_bucket_without_answer_or_majority_makes_a_daemon_deaf_until_a_lease_after_it_has_both() {
        for badly in [false, true] {
            let mut hearing = listening();
            for at_ms in (11_000..=30_000).step_by(500) {
                if hearing.begin_bucket_query(at_ms) && badly {
                    hearing.on_bucket_answer(false);
                }
                assert_eq!(hearing.deaf(at_ms).is_some(), at_ms > 13_000, "{at_ms}");
            }
            // A query with a bad answer is repeated, and was without a good one until then.
            let last_ms = if badly { 30_500 } else { 30_000 };
            assert!(!badly || hearing.begin_bucket_query(last_ms));
            hearing.on_bucket_answer(true);
            assert!(hearing.deaf(last_ms + 9999).is_some());
            assert_eq!(hearing.deaf(last_ms + 10_000), None);
        }
    }
}
