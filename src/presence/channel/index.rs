//! The channels of each member, so that a lookup needs no scan.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::key::ChannelKey;
use super::record::Record;
use crate::presence::id::Id;

/// The channel types whose members online are counted, each with the interval at which their counts
/// are announced, in milliseconds.
pub type CountIntervals = BTreeMap<String, u64>;

/// The index over the channels of one stripe.
#[derive(Debug, Default)]
pub struct Index {
    /// In lists: nearly all are short, and there is one for each membership. A set of one takes
    /// three times as much.
    channels: HashMap<Id, Vec<ChannelKey>>,
    count: usize,
    counted: Arc<CountIntervals>,
    /// The counted channels whose members changed since they were last taken.
    changed: BTreeSet<ChannelKey>,
}

impl Index {
    /// An index that notes the channels of `counted` types whose members change.
    pub fn new(counted: Arc<CountIntervals>) -> Self {
        Self { counted, ..Self::default() }
    }

    /// Notes channels as changed, as far as they are counted.
    pub fn note_changed(&mut self, keys: impl IntoIterator<Item = ChannelKey>) {
        let counted = keys.into_iter().filter(|key| self.counted.contains_key(key.kind()));
        self.changed.extend(counted);
    }

    /// The counted channels whose members changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ChannelKey> {
        std::mem::take(&mut self.changed)
    }

    /// The number of channels.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The channels that a user is a member of.
    pub fn of(&self, user: &str) -> impl Iterator<Item = &ChannelKey> {
        self.channels.get(user).into_iter().flatten()
    }

    pub(super) fn observe(
        &mut self,
        key: &ChannelKey,
        before: Option<&Record>,
        after: Option<&Record>,
    ) {
        self.count = self.count + usize::from(after.is_some()) - usize::from(before.is_some());
        let members = |record: Option<&Record>| {
            record.map(|record| record.members.clone()).unwrap_or_default()
        };
        let (old, new) = (members(before), members(after));
        if old == new {
            return;
        }
        self.note_changed([key.clone()]);
        let staying: HashSet<_> = new.iter().collect();
        for member in old.iter().filter(|member| !staying.contains(member)) {
            if let Some(channels) = self.channels.get_mut(member) {
                channels.retain(|known| known != key);
                if channels.is_empty() {
                    self.channels.remove(member);
                }
            }
        }
        let known: HashSet<_> = old.iter().collect();
        for member in new.iter().filter(|member| !known.contains(member)) {
            let channels =
                self.channels.entry(member.clone()).or_insert_with(|| Vec::with_capacity(1));
            // A record that another wrote may name a member twice.
            if channels.last() != Some(key) {
                channels.push(key.clone());
            }
        }
    }
}
