//! JetStream's clock, as far as this daemon knows it: the wall clocks of daemons may differ, and
//! what they must agree on goes by the one of the stream.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::presence::time::{Now, Time};

/// One millisecond in this many is what two clocks that nobody sets may drift apart.
const DRIFT_MS: u64 = 5000;

/// The time by which JetStream's clock is ahead of this daemon's monotonic clock, which nobody
/// sets.
#[derive(Debug, Default)]
pub struct StreamClock {
    ahead_ms: AtomicI64,
    known: AtomicBool,
    bounds: Mutex<Option<Bounds>>,
}

/// The least and the most by which JetStream's clock is ahead, as all answers say.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    least_ms: i64,
    most_ms: i64,
    /// The time at which the last answer came.
    at_ms: u64,
}

impl Bounds {
    /// The bounds from one answer alone. Those of a slow one are wide.
    fn of(asked: Now, answered: Now, Time(stream): Time) -> Self {
        Self {
            least_ms: stream.saturating_sub(signed(answered.mono_ms)),
            most_ms: stream.saturating_sub(signed(asked.mono_ms)),
            at_ms: answered.mono_ms,
        }
    }

    /// The bounds from this answer and those before together. If they disagree, JetStream's clock
    /// was set, or another server's is the stream's now.
    fn after(self, before: Self) -> Self {
        let drift_ms = signed(self.at_ms.saturating_sub(before.at_ms) / DRIFT_MS + 1);
        let least_ms = self.least_ms.max(before.least_ms.saturating_sub(drift_ms));
        let most_ms = self.most_ms.min(before.most_ms.saturating_add(drift_ms));
        if least_ms <= most_ms { Self { least_ms, most_ms, ..self } } else { self }
    }

    fn middle_ms(self) -> i64 {
        self.least_ms.saturating_add(self.most_ms.saturating_sub(self.least_ms) / 2)
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl StreamClock {
    /// The reading with JetStream's clock beside the others, once it is known.
    pub fn at(&self, now: Now) -> Now {
        if !self.known.load(Ordering::Acquire) {
            return now;
        }
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        Now { stream: Time(signed(now.mono_ms).saturating_add(ahead_ms)), ..now }
    }

    /// JetStream's clock showed `stream` between two readings.
    pub fn compare(&self, asked: Now, answered: Now, stream: Time) {
        let bounds = {
            let mut known = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = Bounds::of(asked, answered, stream);
            let bounds = known.map_or(answer, |before| answer.after(before));
            *known = Some(bounds);
            bounds
        };
        self.ahead_ms.store(bounds.middle_ms(), Ordering::Relaxed);
        self.known.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now::local(mono_ms, Time(7))
    }

    #[test]
    fn the_clock_goes_on_by_the_monotonic_one() {
        let clock = StreamClock::default();
        assert_eq!(clock.at(at(5)).stream, Time(7), "nothing is known");
        clock.compare(at(100), at(200), Time(1_000_000));
        assert_eq!(clock.at(at(250)).stream, Time(1_000_100));
        assert_eq!(clock.at(at(250)).wall, Time(7));
    }

    #[test]
    fn a_slow_answer_does_not_undo_a_quick_one() {
        let clock = StreamClock::default();
        // The stream's clock is 1000 ahead; the answers take nearly all of the time, or none of it.
        for (asked, answered) in [(0, 900), (1000, 1002), (2000, 2990), (3000, 3990)] {
            clock.compare(at(asked), at(answered), Time(answered as i64 + 1000));
        }
        let off_ms = clock.at(at(4000)).stream.0 - 5000;
        assert!(off_ms.abs() <= 2, "{off_ms}");
    }

    #[test]
    fn a_clock_that_is_set_or_drifts_is_followed() {
        let clock = StreamClock::default();
        clock.compare(at(100), at(102), Time(1_000_000));
        clock.compare(at(200), at(202), Time(5_000_000));
        assert_eq!(clock.at(at(201)).stream, Time(5_000_000));
        // A millisecond in ten seconds, for a day.
        for tick in 1..=8640 {
            let mono_ms = 201 + tick * 10_000;
            clock.compare(
                at(mono_ms - 1),
                at(mono_ms + 1),
                Time((5_000_000 + tick * 10_001) as i64),
            );
        }
        let off_ms = clock.at(at(86_400_201)).stream.0 - 91_408_640;
        assert!(off_ms.abs() <= 3, "{off_ms}");
    }
}
