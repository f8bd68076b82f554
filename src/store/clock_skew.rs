//! The wall clock of this machine beside that of JetStream. A clock that is far off would make
//! times and versions that stay wrong for long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::presence::time::Time;

/// The key under which a clock that is wrong is reported.
const PROBLEM_KEY: &str = "clock";

/// A clock that is off by more than this is worth a warning, in milliseconds.
const WARN_MS: i64 = 60_000;

/// With a clock that is off by more than this nothing is written, in milliseconds.
const REFUSE_MS: i64 = 3_600_000;

/// The findings of the last comparison.
#[derive(Debug, Default)]
pub struct ClockSkew {
    warned: AtomicBool,
    is_wrong: AtomicBool,
}

impl ClockSkew {
    /// Returns whether the clock is so far off that nothing may be written.
    pub fn is_wrong(&self) -> bool {
        self.is_wrong.load(Ordering::Relaxed)
    }

    /// JetStream's clock showed `stream` between two readings of this machine's.
    pub fn compare(
        &self,
        asked: Time,
        answered: Time,
        stream: Time,
        health: &Health,
        metrics: &Metrics,
    ) {
        let ahead_ms = skew_ms(asked, answered, stream);
        let off_ms = ahead_ms.unsigned_abs();
        metrics.set_clock_skew(Duration::from_millis(off_ms), ahead_ms < 0);
        let is_off = off_ms > WARN_MS.unsigned_abs();
        let is_wrong = off_ms > REFUSE_MS.unsigned_abs();
        let by = rounded(off_ms / 1000);
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        if is_off != self.warned.swap(is_off, Ordering::Relaxed) {
            if is_off {
                tracing::warn!("the clock of this machine is {by} {side} JetStream's; set it");
            } else {
                tracing::info!("the clock of this machine agrees with JetStream's again");
            }
        }
        self.is_wrong.store(is_wrong, Ordering::Relaxed);
        if is_wrong {
            let problem =
                format!("it is {by} {side} JetStream's; nothing is written until it is set");
            health.report(PROBLEM_KEY, problem);
        } else {
            health.clear(PROBLEM_KEY);
        }
    }
}

/// A duration in its largest unit, for people.
fn rounded(seconds: u64) -> String {
    match seconds {
        0..600 => format!("{seconds} s"),
        600..36_000 => format!("{} min", seconds / 60),
        36_000..259_200 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The least time by which this machine's clock is ahead; negative if it is behind.
fn skew_ms(Time(asked): Time, Time(answered): Time, Time(stream): Time) -> i64 {
    if stream < asked {
        asked.saturating_sub(stream)
    } else if stream > answered {
        answered.saturating_sub(stream)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_way_of_the_answer_is_no_skew() {
        let skew = |asked, answered, stream| skew_ms(Time(asked), Time(answered), Time(stream));
        assert_eq!(skew(100, 200, 100), 0);
        assert_eq!(skew(100, 200, 150), 0);
        assert_eq!(skew(100, 200, 90), 10);
        assert_eq!(skew(100, 200, 230), -30);
    }
}
