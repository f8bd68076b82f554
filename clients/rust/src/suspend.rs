//! Notices that the machine was suspended: monotonic time stood still meanwhile, so that no timer
//! is late, and yet leases have lapsed.

use std::time::Duration;

/// Clocks that are read one after the other differ by less.
const LEAST: Duration = Duration::from_secs(1);

/// Counts the suspensions of the machine.
#[derive(Debug, Default)]
pub struct Suspends {
    /// The time for which the machine had been suspended since it was started.
    known: Option<Duration>,
    count: u64,
}

impl Suspends {
    /// The machine has been suspended for `total` since it was started. How often it was since the
    /// first look.
    pub fn on_look(&mut self, total: Duration) -> u64 {
        let known = *self.known.get_or_insert(total);
        if total >= known + LEAST {
            self.known = Some(total);
            self.count += 1;
        }
        self.count
    }
}

/// For how long the machine has been suspended since it was started.
#[cfg(target_os = "linux")]
pub fn total() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let running = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(running)
}

/// Other systems have no such clock here: there a heartbeat finds out.
#[cfg(not(target_os = "linux"))]
pub fn total() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suspend_counts_once_and_what_was_before_does_not() {
        let mut suspends = Suspends::default();
        let seconds = [500.0, 500.0, 500.01, 560.0, 560.0, 560.02, 3600.0];
        let counts = seconds.map(|at| suspends.on_look(Duration::from_secs_f64(at)));
        assert_eq!(counts, [0, 0, 0, 1, 1, 1, 2]);
    }

    #[test]
    fn the_clocks_can_be_read() {
        let first = total();
        assert!(total() < first + LEAST);
    }
}
