//! When heartbeats are due, and what silence means. Pure: time comes in as a value.

use std::time::Duration;

use tokio::time::Instant;

/// Answers missing in a row after which the link or the service is given up.
const MISSING: u32 = 2;

/// The interval of heartbeats until the service has named one.
pub const FIRST_INTERVAL: Duration = Duration::from_secs(20);

/// What missing answers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Too early to say: the next beat is due at once.
    Unclear,
    /// NATS answers, and the service does not.
    Service,
    /// The link claims to be up, and is dead.
    Link,
}

/// The heartbeats of one connection or lease.
#[derive(Debug)]
pub struct Beat {
    interval: Duration,
    due: Instant,
    unasked: bool,
    missing: u32,
    late: bool,
    /// Whether each beat asks for its answer, or every second one.
    each: bool,
}

impl Beat {
    pub fn new(interval: Duration, each: bool, now: Instant) -> Self {
        // The first beat after a connect asks, so that it counts as following one that did not.
        Self { interval, due: drawn(interval, now), unasked: true, missing: 0, late: false, each }
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    /// The next beat is due at once, and asks.
    pub fn hurry(&mut self, now: Instant) {
        self.due = now;
        self.unasked = true;
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// A beat is sent at `now`. Whether its answer is to be asked for.
    pub fn on_sent(&mut self, now: Instant) -> bool {
        // A clock that stood still: the process slept, and much may have happened meanwhile.
        self.late = now.saturating_duration_since(self.due) > self.interval / 2;
        let asks = self.each || self.unasked || self.missing > 0 || self.late;
        self.unasked = !asks;
        self.due = drawn(self.interval, now);
        asks
    }

    /// The link answered, if only to say that there is no daemon.
    pub fn on_answer(&mut self) {
        self.missing = 0;
    }

    /// Whether an answer is missing, so that NATS itself is to be asked beside the service.
    pub fn is_doubtful(&self) -> bool {
        self.missing > 0
    }

    /// No answer came; `link_lives` says whether NATS sent anything since the beat.
    pub fn on_silence(&mut self, now: Instant, link_lives: bool) -> Silence {
        self.missing += 1;
        if self.missing < MISSING {
            self.due = now;
            return Silence::Unclear;
        }
        if link_lives {
            // One less, so that each beat asks until an answer comes.
            self.missing = MISSING - 1;
            return Silence::Service;
        }
        self.missing = 0;
        Silence::Link
    }
}

fn drawn(interval: Duration, now: Instant) -> Instant {
    now + interval.mul_f64(0.9 + 0.1 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn the_first_and_every_second_beat_ask() {
        let now = Instant::now();
        let mut beat = Beat::new(20 * SECOND, false, now);
        let asked: Vec<_> = (0..4).map(|_| beat.on_sent(beat.due())).collect();
        assert_eq!(asked, [true, false, true, false]);
        assert!(beat.due() <= now + 5 * 20 * SECOND);
    }

    #[tokio::test]
    async fn two_silent_beats_leave_the_link_and_an_answer_between_does_not() {
        let now = Instant::now();
        let mut beat = Beat::new(20 * SECOND, false, now);
        assert_eq!(beat.on_silence(now, false), Silence::Unclear);
        assert_eq!(beat.due(), now);
        assert!(beat.on_sent(now));
        beat.on_answer();
        assert_eq!(beat.on_silence(now, false), Silence::Unclear);
        assert_eq!(beat.on_silence(now, false), Silence::Link);
    }

    #[tokio::test]
    async fn a_silent_service_is_asked_by_each_beat_and_the_link_kept() {
        let now = Instant::now();
        let mut beat = Beat::new(20 * SECOND, false, now);
        assert!(beat.on_sent(now));
        assert_eq!(beat.on_silence(now, true), Silence::Unclear);
        for _ in 0..3 {
            assert!(beat.on_sent(now) && beat.is_doubtful());
            assert_eq!(beat.on_silence(now, true), Silence::Service);
            assert!(beat.due() > now + 17 * SECOND);
        }
        assert_eq!(beat.on_silence(now, false), Silence::Link);
    }

    #[tokio::test]
    async fn a_late_beat_asks() {
        let mut beat = Beat::new(20 * SECOND, false, Instant::now());
        beat.on_sent(beat.due());
        assert!(beat.on_sent(beat.due() + 11 * SECOND));
    }
}
