//! Users: the record, what commands do to it, and what anyone may see of it.

mod agenda;
mod availability;
mod change;
mod connection;
mod decide;
mod early;
mod index;
mod packed;
mod patch;
mod record;
mod repair;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod rich_tests;
mod seen;
mod stored;
#[cfg(test)]
mod tests;
mod upcoming;
mod view;

pub use availability::{Availability, Choice};
pub use connection::{Connection, ConnectionGen, Device, Leaving, LeavingKey};
pub use decide::{Command, NewConnection, Outcome, Rules};
pub use early::{BeforeConnect, EarlyDisconnect, Window};
pub use index::{Census, Index, LeaseChange};
pub use patch::{MAX_STATUS_BYTES, Patch, StatusEnd, check_custom_name};
pub use record::{Reachability, Record};
pub use seen::Seen;
pub use upcoming::{Due, Periods, Turn};
pub use view::{
    AnnouncedFields, MAX_USER_BYTES, Shown, Viewer, is_announced, push_member,
    push_member_without_presence, push_own, push_seen_by, shown,
};

use std::sync::Arc;

use packed::Packed;

use super::entity::{DaemonId, Decision, Entity, Event, Stored};
use super::id::Id;
use super::lease::Leases;
use super::refusal::Refusal;
use super::time::Now;

/// The kind of record that a user is.
#[derive(Debug)]
pub struct Users;

impl Entity for Users {
    type Key = Id;
    type Record = Record;
    type Kept = Packed;
    type Command = Command;
    type Outcome = Outcome;
    type Rules = Rules;
    type Index = Index;
    type Shared = Leases;
    type SharedChange = LeaseChange;

    const KIND: &'static str = "user";

    fn tokens(key: &Id) -> String {
        key.token()
    }

    fn from_tokens(tokens: &str) -> Option<Id> {
        Id::from_token(tokens)
    }

    fn decide(
        key: &Id,
        stored: &Stored<Record>,
        command: &Command,
        rules: &Rules,
        daemon: DaemonId,
        now: Now,
    ) -> Result<Decision<Self>, Refusal> {
        decide::decide(key, stored, command, rules, daemon, now)
    }

    fn encode(record: &Record) -> Vec<u8> {
        record.encode()
    }

    fn decode(text: &[u8]) -> Result<Record, serde_json::Error> {
        Record::decode(text)
    }

    fn keep(record: Arc<Record>) -> Packed {
        Packed::new(&record)
    }

    fn restore(kept: &Packed) -> Arc<Record> {
        Arc::new(kept.record())
    }

    fn kept_change(kept: &Packed) -> (u64, Option<DaemonId>) {
        kept.change()
    }

    fn version(stored: &Stored<Record>) -> u64 {
        match stored {
            Stored::Absent { version, .. } => *version,
            Stored::Present(record) => record.version,
            Stored::Unreadable => 0,
        }
    }

    fn changed_by(stored: &Stored<Record>) -> Option<DaemonId> {
        match stored {
            Stored::Absent { changed_by, .. } => *changed_by,
            Stored::Present(record) => record.changed_by,
            Stored::Unreadable => None,
        }
    }

    fn repair(lost: &Stored<Record>, found: &Stored<Record>) -> Option<Command> {
        repair::needed(lost, found).then(|| Command::Repair { lost: Box::new(lost.clone()) })
    }

    fn announcement(key: &Id, stored: &Stored<Record>, now: Now) -> Option<Event> {
        view::announcement(key, stored, now)
    }

    fn observe(
        index: &mut Index,
        key: &Id,
        before: Option<&Record>,
        after: Option<&Record>,
        now: Now,
    ) -> Vec<LeaseChange> {
        index.observe(key, before, after, now)
    }

    fn apply(leases: &mut Leases, change: &LeaseChange, now: Now) {
        change.apply(leases, now);
    }
}
