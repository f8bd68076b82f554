//! A hash table of boxed items that hold their keys. A table is up to half empty, and has millions
//! of items: an empty place costs a pointer, and a key is held once.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// An item that holds its key.
pub trait Keyed {
    type Key: Eq + Hash;

    fn key(&self) -> &Self::Key;
}

/// Items by their keys.
pub struct Table<T> {
    items: HashTable<Box<T>>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { items: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T: Keyed> Table<T> {
    pub fn get<Q>(&self, key: &Q) -> Option<&T>
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let item = self.items.find(self.hasher.hash_one(key), |item| item.key().borrow() == key);
        item.map(|item| &**item)
    }

    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut T>
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let item = self.items.find_mut(hash, |item| item.key().borrow() == key);
        item.map(|item| &mut **item)
    }

    /// Adds an item. The caller knows that its key is new.
    pub fn insert_new(&mut self, item: T) {
        let hash = self.hasher.hash_one(item.key());
        self.items.insert_unique(hash, Box::new(item), |item| self.hasher.hash_one(item.key()));
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<T>
    where
        T::Key: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let item = self.items.find_entry(hash, |item| item.key().borrow() == key).ok()?;
        Some(*item.remove().0)
    }

    pub fn count(&self) -> usize {
        self.items.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|item| &**item)
    }

    /// The keys of the items must stay as they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().map(|item| &mut **item)
    }
}

impl<T: fmt::Debug> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.items).finish()
    }
}
