//! The interface between the store and a kind of record. Users and channels are two kinds; the
//! machinery that commits and replicates them is written once, against this.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::id::Id;
use super::refusal::Refusal;
use super::time::Now;

/// The identity of one start of one daemon: a random number, new with every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DaemonId(pub u64);

impl DaemonId {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 16 {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for DaemonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DaemonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value stored under a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored<R> {
    /// Nothing. `version` is the deleted record's, or 0; `changed_by` is the daemon of its last
    /// visible change.
    Absent { version: u64, changed_by: Option<DaemonId> },
    /// A record.
    Present(Arc<R>),
    /// Something that this daemon cannot read. It is left alone.
    Unreadable,
}

impl<R> Stored<R> {
    pub fn record(&self) -> Option<&R> {
        match self {
            Self::Present(record) => Some(record),
            Self::Absent { .. } | Self::Unreadable => None,
        }
    }
}

impl<R> Default for Stored<R> {
    fn default() -> Self {
        Self::Absent { version: 0, changed_by: None }
    }
}

/// A change that others can see, to be published on the event subject of `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub user: Id,
    pub version: u64,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// The change that a command makes to a record.
#[derive(Debug)]
pub struct Decision<E: Entity + ?Sized> {
    /// The value to store instead; `None` if the command changes nothing.
    pub next: Option<Stored<E::Record>>,
    /// The event for others.
    pub event: Option<Event>,
    /// The outcome for the sender.
    pub outcome: E::Outcome,
}

/// A kind of record.
pub trait Entity: fmt::Debug + 'static {
    type Key: Clone + Eq + Hash + Ord + fmt::Debug + Send + Sync;
    type Record: Clone + PartialEq + fmt::Debug + Send + Sync;
    /// A record as the replica keeps it, among a million others.
    type Kept: fmt::Debug + Send + Sync;
    type Command: fmt::Debug + Send;
    type Outcome: fmt::Debug + Send;
    /// The rules on which decisions depend, beside the record and the command.
    type Rules: fmt::Debug + Send + Sync;
    /// The index beside the records, which finds some of them by other means than their key.
    type Index: fmt::Debug + Send;
    /// The state that the indexes of all stripes share.
    type Shared: fmt::Debug + Send;
    /// A change of `Shared`.
    type SharedChange: fmt::Debug + Send;

    /// The first token of the keys of this kind in the bucket.
    const KIND: &'static str;

    /// The key's further tokens.
    fn tokens(key: &Self::Key) -> String;

    /// Reads [`tokens`](Entity::tokens); `None` unless they are the canonical ones of a key.
    fn from_tokens(tokens: &str) -> Option<Self::Key>;

    /// Decides the change that `command` makes to the value stored under `key`.
    fn decide(
        key: &Self::Key,
        stored: &Stored<Self::Record>,
        command: &Self::Command,
        rules: &Self::Rules,
        daemon: DaemonId,
        now: Now,
    ) -> Result<Decision<Self>, Refusal>;

    /// The JSON text under which a record is stored.
    fn encode(record: &Self::Record) -> Vec<u8>;

    /// Reads what [`encode`](Entity::encode) of this or a compatible version wrote; otherwise says
    /// why it cannot.
    fn decode(text: &[u8]) -> Result<Self::Record, serde_json::Error>;

    /// Makes of a record what the replica keeps.
    fn keep(record: Arc<Self::Record>) -> Self::Kept;

    /// The record that is kept.
    fn restore(kept: &Self::Kept) -> Arc<Self::Record>;

    /// The version of what is kept, and the daemon that made the change which it counts.
    fn kept_change(kept: &Self::Kept) -> (u64, Option<DaemonId>);

    /// The version that watchers compare, and who made it; 0 where the kind has none.
    fn version(stored: &Stored<Self::Record>) -> u64;

    /// The daemon that made the newest visible change.
    fn changed_by(stored: &Stored<Self::Record>) -> Option<DaemonId>;

    /// The command for a key of which the store lost what was known, and holds `found` instead;
    /// `None` if others see no difference.
    fn repair(lost: &Stored<Self::Record>, found: &Stored<Self::Record>) -> Option<Self::Command>;

    /// The present view as an event, for a change whose announcement may have been lost.
    fn announcement(key: &Self::Key, stored: &Stored<Self::Record>, now: Now) -> Option<Event>;

    /// Keeps the index in step with a record that became `after`; returns what else that changes.
    fn observe(
        index: &mut Self::Index,
        key: &Self::Key,
        before: Option<&Self::Record>,
        after: Option<&Self::Record>,
        now: Now,
    ) -> Vec<Self::SharedChange>;

    /// Applies a change that [`observe`](Entity::observe) returned.
    fn apply(shared: &mut Self::Shared, change: &Self::SharedChange, now: Now);
}
