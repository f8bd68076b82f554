//! A stripe with one user, and its effects as text.

use std::sync::Arc;

use super::super::*;
use crate::presence::id::Id;
use crate::presence::time::Time;
use crate::presence::user::{Command, Index, NewConnection, Patch, Periods, Record, Rules, Users};

pub(super) const OWN: DaemonId = DaemonId(1);
const OTHER: DaemonId = DaemonId(2);
/// The wall clock at 0 of the monotonic clock. Versions are readings of the wall clock.
const WALL_MS: i64 = 1000;

pub(super) struct Rig {
    pub(super) machine: Stripe<Users, u32>,
    /// The content of the last write.
    written: Option<Content>,
}

pub(super) fn rig() -> Rig {
    let rules = Rules::new(2, true);
    let timing =
        Timing { ack_timeout_ms: 500, read_timeout_ms: 1000, attempts: 3, max_value: 100_000 };
    Rig {
        machine: Stripe::new(OWN, Arc::new(rules), timing, Index::new(Periods::default())),
        written: None,
    }
}

fn at(mono_ms: u64) -> Now {
    Now::local(mono_ms, Time(WALL_MS + i64::try_from(mono_ms).unwrap()))
}

pub(super) fn id(text: &str) -> Id {
    Id::parse(text, "id").unwrap()
}

pub(super) fn john() -> Id {
    id("john")
}

pub(super) fn connect(connection: &str) -> Command {
    let (patch, connection) = (Patch::default(), NewConnection::plain(id(connection)));
    Command::Connect { patch, defaults: None, connection, custom_in_answer: true }
}

pub(super) fn disconnect(connection: &str) -> Command {
    Command::Disconnect { connection: id(connection), lease: None, grace_ms: None }
}

pub(super) fn status(status: &str) -> Command {
    let patch = Patch { status: Some(Some(status.into())), ..Patch::default() };
    Command::Upsert { patch, custom_in_answer: true }
}

/// The entry that another daemon writes for `command` on top of `stored`.
pub(super) fn other(stored: &Stored<Record>, command: &Command, rev: u64) -> Entry {
    let rules = Rules::new(2, true);
    let decision = Users::decide(&john(), stored, command, &rules, OTHER, at(0)).unwrap();
    let stored = decision.next.unwrap();
    let content = content_of(&stored);
    Entry { rev, base: None, content, writer: Some(OTHER), expires: false }
}

fn content_of(stored: &Stored<Record>) -> Content {
    match stored {
        Stored::Absent { version, changed_by } => {
            Content::Purge { version: *version, changed_by: *changed_by }
        }
        Stored::Present(record) => Content::Put(Users::encode(record).into()),
        Stored::Unreadable => unreachable!("nothing unreadable is written"),
    }
}

impl Rig {
    pub(super) fn command(&mut self, ticket: u32, command: Command, now_ms: u64) -> Vec<String> {
        let deadline_ms = now_ms + 2000;
        self.machine.on_command(john(), Job { command, ticket, deadline_ms }, at(now_ms));
        self.effects()
    }

    pub(super) fn acked(&mut self, write: u64, rev: u64, now_ms: u64) -> Vec<String> {
        self.machine.on_acked(write, rev, at(now_ms));
        self.effects()
    }

    pub(super) fn conflicted(&mut self, write: u64, now_ms: u64) -> Vec<String> {
        self.machine.on_conflicted(write, at(now_ms));
        self.effects()
    }

    pub(super) fn failed(&mut self, write: u64, now_ms: u64) -> Vec<String> {
        self.machine.on_failed(write, &Failure::Retry(None), at(now_ms));
        self.effects()
    }

    pub(super) fn found(&mut self, read: u64, found: Found) -> Vec<String> {
        self.machine.on_found(&john(), read, found, at(0));
        self.effects()
    }

    pub(super) fn fed(&mut self, entry: Entry) -> Vec<String> {
        self.machine.on_fed(&john(), entry, at(0));
        self.effects()
    }

    /// Feeds an entry at `now_ms`. Returns the revision of the key that was fed before.
    pub(super) fn fed_after(&mut self, entry: Entry, now_ms: u64) -> u64 {
        let before = self.machine.on_fed(&john(), entry, at(now_ms));
        self.effects();
        before
    }

    pub(super) fn verified(&mut self, verify: u64) -> Vec<String> {
        self.machine.on_verified(&john(), verify, at(0));
        self.effects()
    }

    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<String> {
        self.machine.on_tick(at(now_ms));
        self.effects()
    }

    pub(super) fn stream_lost(&mut self) -> Vec<String> {
        self.machine.on_stream_lost(at(0));
        self.effects()
    }

    pub(super) fn replayed(&mut self, now_ms: u64) -> Vec<String> {
        self.machine.on_replayed(at(now_ms));
        self.effects()
    }

    /// The entry of the last write at `rev`.
    pub(super) fn own(&self, rev: u64) -> Entry {
        let content = self.written.clone().unwrap();
        Entry { rev, base: None, content, writer: Some(OWN), expires: false }
    }

    pub(super) fn known(&self) -> Stored<Record> {
        self.machine.known(&john()).unwrap().0.clone()
    }

    fn effects(&mut self) -> Vec<String> {
        let effects = self.machine.take_effects().collect::<Vec<_>>();
        effects.into_iter().map(|effect| self.describe(effect)).collect()
    }

    fn describe(&mut self, effect: Effect<Users, u32>) -> String {
        match effect {
            Effect::Write { write, expected, content, visible, .. } => {
                self.written = Some(content);
                let visible = visible.map_or("nothing".to_owned(), |version| version.to_string());
                format!("write {write} on {expected} shows {visible}")
            }
            Effect::Read { read, .. } => format!("read {read}"),
            Effect::Verify { verify, .. } => format!("verify {verify}"),
            Effect::ChangeShared(change) => format!("{change:?}"),
            Effect::Announce(event) => format!("announce {}", event.version),
            Effect::Answer { ticket, result: Ok(answer) } => {
                format!("answer {ticket} at {}", answer.rev)
            }
            Effect::Answer { ticket, result: Err(refusal) } => {
                format!("answer {ticket} {}", refusal.code.as_str())
            }
            Effect::Lost { lost, .. } => format!("lost {}", Users::version(&lost)),
            Effect::Suspect => "suspect".to_owned(),
            Effect::RemoteChange { by, .. } => format!("changed by {}", by.0),
        }
    }

    pub(super) fn is_done(&self) {
        assert_eq!(self.machine.busy(), 0);
        assert!(self.machine.shared.writes.is_empty(), "{:?}", self.machine.shared.writes);
        assert!(self.machine.shared.effects.is_empty());
    }
}
