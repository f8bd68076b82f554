//! Keeps a condition that lasts from filling the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a condition that lasts is told again.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// What was told, and when. Shared by all connections of a daemon, as they suffer from the same.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<HashMap<String, Instant>>);

impl LogThrottle {
    /// Whether to tell it now: at once, when it changes, and every [`REPEAT_INTERVAL`]. Numbers, such as
    /// times and ports, do not make it another condition.
    pub fn is_due(&self, what: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now < *at + REPEAT_INTERVAL);
        let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_due = !told.contains_key(&what);
        if is_due {
            told.insert(what, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_again_when_it_changes_or_after_a_while() {
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
    fn other_numbers_are_no_other_condition() {
        let log_throttle = LogThrottle::default();
        let start = Instant::now();
        assert!(log_throttle.is_due("expired 17 seconds ago", start));
        assert!(!log_throttle.is_due("expired 18 seconds ago", start));
    }
}
