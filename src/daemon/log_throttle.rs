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
    /// Returns whether a condition is logged now: when it is new, and every [`REPEAT_INTERVAL`].
    /// Numbers, such as times and ports, do not make it another condition.
    pub fn is_due(&self, condition: &str, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now < *at + REPEAT_INTERVAL);
        let condition: String = condition.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_due = !logged.contains_key(&condition);
        if is_due {
            logged.insert(condition, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_due_again_after_the_interval() {
        let log_throttle = LogThrottle::default();
        let start = Instant::now();
        assert!(log_throttle.is_due("a", start));
        assert!(!log_throttle.is_due("a", start + REPEAT_INTERVAL / 2));
        assert!(log_throttle.is_due("b", start + REPEAT_INTERVAL / 2));
        assert!(!log_throttle.is_due("b", start + REPEAT_INTERVAL));
        assert!(log_throttle.is_due("a", start + REPEAT_INTERVAL));
        assert!(log_throttle.is_due("b", start + REPEAT_INTERVAL * 2));
    }

    #[test]
    fn other_numbers_are_the_same_condition() {
        let log_throttle = LogThrottle::default();
        let start = Instant::now();
        assert!(log_throttle.is_due("expired 17 seconds ago", start));
        assert!(!log_throttle.is_due("expired 18 seconds ago", start));
    }
}
