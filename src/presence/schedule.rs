//! What is looked at when, by key. Pure: times are values of one monotonic clock.
//!
//! The owner of a schedule keeps the time that counts beside each item. An entry with another time
//! is void: moving an item costs one entry, and no search.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When nothing is to come.
pub const NEVER_MS: u64 = u64::MAX;

/// How long something that was handed out as due rests before it is handed out again, in
/// milliseconds.
pub const RETRY_MS: u64 = 5000;

/// The number of void entries that are not worth building the queue again, beside one for each
/// item.
const MAX_VOID_ENTRIES: usize = 1024;

/// The times at which items are looked at.
#[derive(Debug)]
pub struct Schedule<K>(BinaryHeap<Reverse<(u64, K)>>);

impl<K: Ord> Default for Schedule<K> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<K: Ord> Schedule<K> {
    /// Adds an entry; none for [`NEVER_MS`].
    pub fn push(&mut self, at_ms: u64, key: K) {
        if at_ms != NEVER_MS {
            self.0.push(Reverse((at_ms, key)));
        }
    }

    /// Takes the first entry whose time has come.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<(u64, K)> {
        self.0.peek().filter(|Reverse((at_ms, _))| *at_ms <= now_ms)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }

    /// Keeps the entries of `items` only, if most are void. `count` is the number of items.
    pub fn drop_void(&mut self, count: usize, items: impl Iterator<Item = (u64, K)>) {
        if self.0.len() > 2 * count + MAX_VOID_ENTRIES {
            self.0 = items.filter(|(at_ms, _)| *at_ms != NEVER_MS).map(Reverse).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_the_order_of_their_times_and_not_before() {
        let mut schedule = Schedule::default();
        schedule.push(20, "b");
        schedule.push(10, "a");
        schedule.push(NEVER_MS, "c");
        assert_eq!(schedule.pop_due(9), None);
        assert_eq!(schedule.pop_due(20), Some((10, "a")));
        assert_eq!(schedule.pop_due(20), Some((20, "b")));
        assert_eq!(schedule.pop_due(NEVER_MS), None);
    }

    #[test]
    fn void_entries_do_not_pile_up() {
        let mut schedule = Schedule::default();
        for at_ms in 0..10_000 {
            schedule.push(at_ms, "a");
            schedule.drop_void(1, [(at_ms, "a")].into_iter());
            assert!(schedule.0.len() <= 2 + MAX_VOID_ENTRIES);
        }
        assert_eq!(schedule.pop_due(NEVER_MS).map(|(_, key)| key), Some("a"));
    }
}
