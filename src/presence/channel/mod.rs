//! Channels: members in order of joining, custom data, and whom a watch of one follows.

mod decide;
mod index;
mod key;
mod occupancy;
mod patch;
mod record;
mod seen;
mod view;
mod watch;

pub use decide::{Command, Edit, MAX_DATA_BYTES, MAX_ID_BYTES, MAX_MEMBERS, Outcome};
pub use index::{CountIntervals, Index};
pub use key::ChannelKey;
pub use occupancy::{Announcement, Counts, Occupancy};
pub use patch::Patch;
pub use record::Record;
pub use seen::Seen;
pub use view::{Page, push_fields};
pub use watch::{MAX_WATCHED, Watched, choose, watch};

use std::convert::Infallible;
use std::sync::Arc;

use super::entity::{DaemonId, Decision, Entity, Event, Stored};
use super::refusal::Refusal;
use super::time::Now;

/// The kind of record that a channel is.
#[derive(Debug)]
pub struct Channels;

impl Entity for Channels {
    type Key = ChannelKey;
    type Record = Record;
    type Kept = Arc<Record>;
    type Command = Command;
    type Outcome = Outcome;
    type Rules = ();
    type Index = Index;
    type Shared = ();
    type SharedChange = Infallible;

    const KIND: &'static str = "channel";

    fn tokens(key: &ChannelKey) -> String {
        key.tokens()
    }

    fn from_tokens(tokens: &str) -> Option<ChannelKey> {
        ChannelKey::from_tokens(tokens)
    }

    fn decide(
        _: &ChannelKey,
        stored: &Stored<Record>,
        command: &Command,
        (): &(),
        _: DaemonId,
        now: Now,
    ) -> Result<Decision<Self>, Refusal> {
        decide::decide(stored, command, now)
    }

    fn encode(record: &Record) -> Vec<u8> {
        record.encode()
    }

    fn decode(text: &[u8]) -> Result<Record, serde_json::Error> {
        Record::decode(text)
    }

    fn keep(record: Arc<Record>) -> Arc<Record> {
        record
    }

    fn restore(kept: &Arc<Record>) -> Arc<Record> {
        Arc::clone(kept)
    }

    fn kept_change(_: &Arc<Record>) -> (u64, Option<DaemonId>) {
        (0, None)
    }

    /// Channels have no versions: nobody is told of their changes.
    fn version(_: &Stored<Record>) -> u64 {
        0
    }

    fn changed_by(_: &Stored<Record>) -> Option<DaemonId> {
        None
    }

    /// Nobody is told of changes of channels: the store is the truth.
    fn repair(_: &Stored<Record>, _: &Stored<Record>) -> Option<Command> {
        None
    }

    fn announcement(_: &ChannelKey, _: &Stored<Record>, _: Now) -> Option<Event> {
        None
    }

    fn observe(
        index: &mut Index,
        key: &ChannelKey,
        before: Option<&Record>,
        after: Option<&Record>,
        _: Now,
    ) -> Vec<Infallible> {
        index.observe(key, before, after);
        Vec::new()
    }

    fn apply((): &mut (), change: &Infallible, _: Now) {
        match *change {}
    }
}
