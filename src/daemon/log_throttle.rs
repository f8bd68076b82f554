//! Keeps a condition that lasts from filling the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The interval at which a lasting condition is logged again.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// The logged messages, each with its time. All connections of a daemon share it, as they have the
/// same problems.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<HashMap<String, Instant>>);

impl LogThrottle {
    /// Admits a condition to the log, and returns whether it did: when the condition is new, and
    /// every [`REPEAT_INTERVAL`]. Numbers, such as times and ports, do not make it another one.
    pub fn admit(&self, condition: &str, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now < *at + REPEAT_INTERVAL);
        let condition: String = condition.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_admitted = !logged.contains_key(&condition);
        if is_admitted {
            logged.insert(condition, now);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_admitted_again_after_the_interval() {
        let log_throttle = LogThrottle::default();
        let start = Instant::now();
        assert!(log_throttle.admit("a", start));
        assert!(!log_throttle.admit("a", start + REPEAT_INTERVAL / 2));
        assert!(log_throttle.admit("b", start + REPEAT_INTERVAL / 2));
        assert!(!log_throttle.admit("b", start + REPEAT_INTERVAL));
        assert!(log_throttle.admit("a", start + REPEAT_INTERVAL));
        assert!(log_throttle.admit("b", start + REPEAT_INTERVAL * 2));
    }

    #[test]
    fn other_numbers_are_the_same_condition() {
        let log_throttle = LogThrottle::default();
        let start = Instant::now();
        assert!(log_throttle.admit("expired 17 seconds ago", start));
        assert!(!log_throttle.admit("expired 18 seconds ago", start));
    }
}
