//! Items of which each is checked when its time comes: shared leases, and users. Pure: times are
//! values of one monotonic clock.
//!
//! Each item holds the time at which it is checked next. An entry of the queue with another time
//! is void: moving an item costs one entry, and no search.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;

use super::table::{Keyed, Table};

/// The time of an item for which nothing is to come.
pub const NEVER_MS: u64 = u64::MAX;

/// The time for which something handed out as due rests before it is handed out again, in
/// milliseconds.
pub const RETRY_MS: u64 = 5000;

/// The number of void entries that are not worth building the queue again, beside one for each
/// item.
const MAX_VOID_ENTRIES: usize = 1024;

/// An item that holds the time at which it is checked next; [`NEVER_MS`] if it is not.
pub trait Timed: Keyed {
    fn check_ms(&self) -> u64;

    fn check_at(&mut self, at_ms: u64);
}

/// The items and their times.
#[derive(Debug)]
pub struct Agenda<T: Timed> {
    items: Table<T>,
    queue: BinaryHeap<Reverse<(u64, T::Key)>>,
}

impl<T: Timed> Default for Agenda<T>
where
    T::Key: Ord,
{
    fn default() -> Self {
        Self { items: Table::default(), queue: BinaryHeap::new() }
    }
}

impl<T: Timed> Agenda<T>
where
    T::Key: Clone + Ord,
{
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.items.count() == 0 && self.queue.is_empty()
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&T>
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.items.get(key)
    }

    /// An item, of which the key and the time must stay as they are.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut T>
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.items.get_mut(key)
    }

    /// Adds an item, or replaces it. One that is checked earlier than it asks for stays so.
    pub fn put(&mut self, mut item: T) {
        let wanted_ms = item.check_ms();
        let known_ms = self.items.remove(item.key()).map(|known| known.check_ms());
        match known_ms.filter(|known_ms| *known_ms <= wanted_ms) {
            Some(known_ms) => item.check_at(known_ms),
            None => self.push(wanted_ms, item.key().clone()),
        }
        self.items.insert_new(item);
        self.drop_void_entries();
    }

    pub fn remove<Q>(&mut self, key: &Q)
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.items.remove(key);
        self.drop_void_entries();
    }

    /// Checks an item at `at_ms`, unless it is checked earlier.
    pub fn bring_forward(&mut self, key: &T::Key, at_ms: u64) {
        let Some(item) = self.items.get_mut(key) else { return };
        if at_ms < item.check_ms() {
            item.check_at(at_ms);
            self.push(at_ms, key.clone());
            self.drop_void_entries();
        }
    }

    /// Checks each item when it says, unless it is checked earlier.
    pub fn bring_all_forward(&mut self, wanted_ms: impl Fn(&mut T) -> u64) {
        for item in self.items.iter_mut() {
            let at_ms = wanted_ms(item);
            if at_ms < item.check_ms() {
                item.check_at(at_ms);
                self.queue.push(Reverse((at_ms, item.key().clone())));
            }
        }
        self.drop_void_entries();
    }

    /// Checks the items whose time has come, until something is found. `check` also says when to
    /// check the item again.
    pub fn take_due<R>(
        &mut self,
        now_ms: u64,
        mut check: impl FnMut(&mut T) -> (u64, Option<R>),
    ) -> Option<R> {
        while let Some((at_ms, key)) = self.pop_due(now_ms) {
            let item = self.items.get_mut(&key);
            let Some(item) = item.filter(|item| item.check_ms() == at_ms) else { continue };
            let (next_ms, found) = check(item);
            item.check_at(next_ms);
            self.push(next_ms, key);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn push(&mut self, at_ms: u64, key: T::Key) {
        if at_ms != NEVER_MS {
            self.queue.push(Reverse((at_ms, key)));
        }
    }

    fn pop_due(&mut self, now_ms: u64) -> Option<(u64, T::Key)> {
        self.queue.peek().filter(|Reverse((at_ms, _))| *at_ms <= now_ms)?;
        self.queue.pop().map(|Reverse(entry)| entry)
    }

    /// Builds the queue again if most of its entries are void.
    fn drop_void_entries(&mut self) {
        if self.queue.len() > 2 * self.items.count() + MAX_VOID_ENTRIES {
            let entries = self.items.iter().map(|item| (item.check_ms(), item.key().clone()));
            self.queue = entries.filter(|(at_ms, _)| *at_ms != NEVER_MS).map(Reverse).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Item {
        key: &'static str,
        check_ms: u64,
    }

    impl Keyed for Item {
        type Key = &'static str;

        fn key(&self) -> &&'static str {
            &self.key
        }
    }

    impl Timed for Item {
        fn check_ms(&self) -> u64 {
            self.check_ms
        }

        fn check_at(&mut self, at_ms: u64) {
            self.check_ms = at_ms;
        }
    }

    fn agenda(items: &[(&'static str, u64)]) -> Agenda<Item> {
        let mut agenda = Agenda::default();
        items.iter().for_each(|&(key, check_ms)| agenda.put(Item { key, check_ms }));
        agenda
    }

    /// Takes each item once.
    fn take(agenda: &mut Agenda<Item>, now_ms: u64) -> Option<&'static str> {
        agenda.take_due(now_ms, |item| (NEVER_MS, Some(item.key)))
    }

    #[test]
    fn items_come_in_the_order_of_their_times_and_not_before() {
        let mut agenda = agenda(&[("b", 20), ("a", 10), ("c", NEVER_MS)]);
        assert_eq!(take(&mut agenda, 9), None);
        assert_eq!(take(&mut agenda, 20), Some("a"));
        assert_eq!(take(&mut agenda, 20), Some("b"));
        assert_eq!(take(&mut agenda, NEVER_MS), None);
    }

    #[test]
    fn an_item_comes_again_when_it_says() {
        let mut agenda = agenda(&[("a", 10), ("b", 10)]);
        let again = |item: &mut Item| (item.check_ms + 5, (item.key == "b").then_some(item.key));
        assert_eq!(agenda.take_due(10, again), Some("b"));
        assert_eq!(take(&mut agenda, 14), None);
        assert_eq!(take(&mut agenda, 15), Some("a"));
        assert_eq!(take(&mut agenda, 15), Some("b"));
    }

    #[test]
    fn a_time_moves_forward_only() {
        let mut agenda = agenda(&[("a", 20), ("a", 30), ("b", 40), ("b", 30)]);
        agenda.bring_forward(&"a", 25);
        agenda.bring_forward(&"b", 15);
        assert_eq!(take(&mut agenda, 15), Some("b"));
        assert_eq!(take(&mut agenda, 20), Some("a"));
        agenda.bring_all_forward(|item| if item.key == "a" { 5 } else { NEVER_MS });
        assert_eq!(take(&mut agenda, 5), Some("a"));
        assert_eq!(take(&mut agenda, 40), None);
    }

    #[test]
    fn a_removed_item_is_not_checked() {
        let mut agenda = agenda(&[("a", 10)]);
        agenda.remove(&"a");
        assert_eq!(take(&mut agenda, 10), None);
        agenda.put(Item { key: "a", check_ms: 20 });
        assert_eq!(take(&mut agenda, 10), None);
    }

    #[test]
    fn void_entries_do_not_pile_up() {
        let mut agenda = agenda(&[("a", 20_000)]);
        for at_ms in (0..10_000).rev() {
            agenda.bring_forward(&"a", at_ms);
            assert!(agenda.queue.len() <= 2 + MAX_VOID_ENTRIES);
        }
        assert_eq!(take(&mut agenda, 0), Some("a"));
    }
}
