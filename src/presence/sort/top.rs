//! The first few of many records, without sorting or copying the many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::super::field::Subject;
use super::{Sort, SortKey};

/// Keeps the first `k` of the records that are offered, by a sort. Once it is full, a record that
/// comes after all of them costs a comparison and no allocation.
#[derive(Debug)]
pub struct TopK<'s, T> {
    sort: &'s Sort,
    k: usize,
    /// The last in order on top.
    kept: BinaryHeap<Entry<T>>,
}

impl<'s, T> TopK<'s, T> {
    pub fn new(sort: &'s Sort, k: usize) -> Self {
        Self { sort, k, kept: BinaryHeap::new() }
    }

    /// Returns whether a record is among the first `k` so far.
    pub fn would_accept(&self, subject: &impl Subject) -> bool {
        if self.kept.len() < self.k {
            return true;
        }
        let last = self.kept.peek();
        last.is_some_and(|last| self.sort.compare(subject, &last.place).is_lt())
    }

    /// Keeps a record if it is among the first `k` so far; only then is `item` asked for.
    pub fn offer(&mut self, subject: &impl Subject, item: impl FnOnce() -> T) {
        if !self.would_accept(subject) {
            return;
        }
        if self.kept.len() == self.k {
            self.kept.pop();
        }
        self.kept.push(Entry { place: self.sort.key(subject), item: item() });
    }

    /// The kept items, in order.
    pub fn into_sorted(self) -> Vec<T> {
        self.kept.into_sorted_vec().into_iter().map(|entry| entry.item).collect()
    }
}

/// Ordered by its place alone.
#[derive(Debug)]
struct Entry<T> {
    place: SortKey,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}
