//! The inputs and effects of a stripe.

use std::sync::Arc;

use bytes::Bytes;

use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::refusal::Refusal;

/// A command with its ticket and deadline.
#[derive(Debug)]
pub struct Job<E: Entity, T> {
    pub command: E::Command,
    /// Comes back with the answer.
    pub ticket: T,
    /// When, on the monotonic clock, the command is refused rather than applied.
    pub deadline_ms: u64,
}

/// The content that a write stores under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A record, as JSON.
    Put(Bytes),
    /// The marker of a deleted record, with the members of [`Stored::Absent`].
    Purge { version: u64, changed_by: Option<DaemonId> },
}

impl Content {
    /// The meaning of the content. A record costs its decoding: an entry that is known already is
    /// not decoded.
    pub fn decode<E: Entity>(&self) -> Result<Stored<E::Record>, serde_json::Error> {
        Ok(match self {
            Self::Put(text) => Stored::Present(Arc::new(E::decode(text)?)),
            Self::Purge { version, changed_by } => {
                Stored::Absent { version: *version, changed_by: *changed_by }
            }
        })
    }
}

/// A stored message of the bucket.
#[derive(Debug)]
pub struct Entry {
    pub rev: u64,
    pub content: Content,
    /// The revision that it replaced, 0 for none, if it says so.
    pub base: Option<u64>,
    /// The daemon that wrote it.
    pub writer: Option<DaemonId>,
    /// Whether the bucket drops it after a while: it is the last marker of a deleted record.
    pub expires: bool,
}

/// The answer to a read of a key.
#[derive(Debug)]
pub enum Found {
    Entry(Entry),
    Nothing,
    /// The read got no answer.
    Failed,
}

/// The reason why a write was not done.
#[derive(Debug)]
pub enum Failure {
    /// JetStream cannot take it at the moment, for the reason that it gave, if any. The write is
    /// retried until the deadlines of its commands.
    Retry(Option<Arc<str>>),
    /// The write can never be done; its commands get this refusal.
    Refused(Refusal),
}

/// The answer to a command that was carried out.
#[derive(Debug)]
pub struct Answer<O> {
    pub outcome: O,
    /// The revision at which the store shows the outcome.
    pub rev: u64,
}

/// An effect of a stripe. Effects are carried out in their order.
#[derive(Debug)]
pub enum Effect<E: Entity, T> {
    /// Write, on the condition that the key's last revision is `expected`.
    Write {
        key: E::Key,
        write: u64,
        expected: u64,
        content: Content,
        /// The version of the newest visible change in this write, if there is one.
        visible: Option<u64>,
        /// The earliest deadline of its commands; it must not be sent later.
        not_after_ms: u64,
    },
    /// Read the key from the leader of the stream.
    Read { key: E::Key, read: u64 },
    /// Call [`on_verified`](super::Stripe::on_verified) when the replica has seen all that is
    /// stored now.
    Verify { key: E::Key, verify: u64 },
    /// Apply a change to what the indexes of all stripes have in common.
    ChangeShared(E::SharedChange),
    /// Publish an event.
    Announce(Event),
    /// Answer a command.
    Answer { ticket: T, result: Result<Answer<E::Outcome>, Refusal> },
    /// The stream does not hold any more what was known of a key: repair what others see.
    Lost { key: E::Key, lost: Stored<E::Record> },
    /// The leader holds an older revision of a key than the known one.
    Suspect,
    /// Remember a visible change by another daemon, which that daemon announces.
    RemoteChange { key: E::Key, by: DaemonId },
}
