//! What goes into a stripe and what comes out of it.

use bytes::Bytes;

use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::refusal::Refusal;

/// A command on its way.
#[derive(Debug)]
pub struct Job<E: Entity, T> {
    pub command: E::Command,
    /// Comes back with the answer.
    pub ticket: T,
    /// When, on the monotonic clock, the command is refused rather than applied.
    pub deadline_ms: u64,
}

/// What a write puts under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A record, as JSON.
    Put(Bytes),
    /// A marker of a deleted record, with what it leaves behind as in [`Stored::Absent`].
    Purge { version: u64, changed_by: Option<DaemonId> },
}

/// What the bucket says is stored under a key.
#[derive(Debug)]
pub struct Entry<R> {
    pub rev: u64,
    pub stored: Stored<R>,
    /// As it was written, to recognise a write of one's own.
    pub content: Content,
    /// Which daemon wrote it.
    pub writer: Option<DaemonId>,
}

/// What a read of a key found.
#[derive(Debug)]
pub enum Found<R> {
    Entry(Entry<R>),
    Nothing,
    /// The read did not get an answer.
    Failed,
}

/// Why a write was not done.
#[derive(Debug)]
pub enum Failure {
    /// JetStream cannot take it at the moment; the write is tried again until its commands'
    /// deadlines.
    Retry,
    /// It can never be done, and this is what its commands are answered.
    Refused(Refusal),
}

/// The answer to a command that was carried out.
#[derive(Debug)]
pub struct Answer<O> {
    pub outcome: O,
    /// The revision at which the store shows it.
    pub rev: u64,
}

/// An effect. They are to be carried out in the order in which they come.
#[derive(Debug)]
pub enum Effect<E: Entity, T> {
    /// Write, expecting that the key's last revision is `expected`.
    Write {
        key: E::Key,
        write: u64,
        expected: u64,
        content: Content,
        /// The version of the newest visible change that this write makes, if it makes one.
        visible: Option<u64>,
        /// The earliest deadline of its commands: it must not be sent later.
        not_after_ms: u64,
    },
    /// Read the key from the leader of the stream.
    Read { key: E::Key, read: u64 },
    /// Say [`verified`](super::Stripe::verified) when the replica has seen all that is stored now.
    Verify { key: E::Key, verify: u64 },
    /// Publish.
    Announce(Event),
    /// Answer a command.
    Answer { ticket: T, result: Result<Answer<E::Outcome>, Refusal> },
    /// Another daemon made a visible change, which it is to announce.
    RemoteChange { key: E::Key, by: DaemonId },
}
