//! JetStream's clock, as far as this daemon knows it: the wall clocks of daemons may differ, and
//! what they must agree on goes by the one of the stream.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::presence::time::{Now, Time};

/// An answer that took longer says too little about the time, in milliseconds.
const MAX_ROUND_TRIP_MS: u64 = 1000;

/// How far JetStream's clock is ahead of this daemon's monotonic clock, which nobody sets.
#[derive(Debug, Default)]
pub struct StreamClock {
    ahead_ms: AtomicI64,
    known: AtomicBool,
}

impl StreamClock {
    /// The reading with JetStream's clock beside the others, once it is known.
    pub fn at(&self, now: Now) -> Now {
        if !self.known.load(Ordering::Acquire) {
            return now;
        }
        let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
        let stream = Time(mono_ms.saturating_add(self.ahead_ms.load(Ordering::Relaxed)));
        Now { stream, ..now }
    }

    /// JetStream's clock showed `stream` between two readings.
    pub fn compare(&self, asked: Now, answered: Now, stream: Time) {
        let took_ms = answered.mono_ms.saturating_sub(asked.mono_ms);
        if took_ms > MAX_ROUND_TRIP_MS {
            return;
        }
        let between_ms = i64::try_from(asked.mono_ms + took_ms / 2).unwrap_or(i64::MAX);
        self.ahead_ms.store(stream.0.saturating_sub(between_ms), Ordering::Relaxed);
        self.known.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_by_the_monotonic_one_from_the_last_quick_answer() {
        let at = |mono_ms| Now::local(mono_ms, Time(7));
        let clock = StreamClock::default();
        assert_eq!(clock.at(at(5)).stream, Time(7), "nothing is known");
        clock.compare(at(100), at(200), Time(1_000_000));
        assert_eq!(clock.at(at(250)).stream, Time(1_000_100));
        assert_eq!(clock.at(at(250)).wall, Time(7));
        clock.compare(at(300), at(1301), Time(5_000_000));
        assert_eq!(clock.at(at(250)).stream, Time(1_000_100), "it took too long");
    }
}
