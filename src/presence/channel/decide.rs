//! The changes that each command makes to the record of a channel.

use std::sync::Arc;

use std::collections::HashSet;

use super::Channels;
use super::patch::Patch;
use super::record::Record;
use super::watch::watch;
use crate::presence::entity::{Decision, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// The most members of a channel.
pub const MAX_MEMBERS: usize = 10_000;
/// The most that the ids of all members may take, in bytes.
pub const MAX_ID_BYTES: usize = 512 * 1024;
/// The most that the data may take, in bytes of JSON.
pub const MAX_DATA_BYTES: usize = 5 * 1024;

/// A change of the members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// The new list in place of the old one.
    pub replace: Option<Vec<Id>>,
    pub add: Vec<Id>,
    pub remove: Vec<Id>,
}

/// Something that is to happen to a channel.
#[derive(Debug)]
pub enum Command {
    /// Makes the channel if there is none, and changes data and members.
    Upsert {
        patch: Patch,
        edit: Edit,
    },
    /// Makes the channel if there is none; one that is there stays as it is.
    Create {
        patch: Patch,
        members: Vec<Id>,
        /// The users to watch. A channel is not made for a watch that would be refused.
        chosen: Option<Vec<Id>>,
    },
    Delete,
}

/// The outcome of a command, for its answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The channel as it is now.
    Channel(Box<Record>),
    /// Whether there was something to delete.
    Deleted(bool),
}

pub(super) fn decide(
    stored: &Stored<Record>,
    command: &Command,
    now: Now,
) -> Result<Decision<Channels>, Refusal> {
    if matches!(stored, Stored::Unreadable) {
        return Err(Refusal::new(
            Code::Unavailable,
            "the stored record of this channel cannot be read; it is left as it is",
        ));
    }
    let before = stored.record();
    match (command, before) {
        (Command::Upsert { patch, edit }, before) => upsert(before, patch, edit, now),
        (Command::Create { patch, members, chosen }, None) => {
            watch(members, 0, chosen.as_deref())?;
            let edit = Edit { replace: Some(members.clone()), ..Edit::default() };
            upsert(None, patch, &edit, now)
        }
        (Command::Create { .. }, Some(before)) => {
            Ok(keep(Outcome::Channel(Box::new(before.clone()))))
        }
        (Command::Delete, None) => Ok(keep(Outcome::Deleted(false))),
        (Command::Delete, Some(_)) => Ok(Decision {
            next: Some(Stored::Absent { version: 0, changed_by: None }),
            event: None,
            outcome: Outcome::Deleted(true),
        }),
    }
}

fn upsert(
    before: Option<&Record>,
    patch: &Patch,
    edit: &Edit,
    now: Now,
) -> Result<Decision<Channels>, Refusal> {
    let mut record = before.cloned().unwrap_or_else(|| Record::new(now.wall));
    let data_changed = patch.apply(&mut record, now);
    let members = edit.apply(&record.members);
    let members_changed = members != record.members;
    record.members = members;
    if before.is_some() && !data_changed && !members_changed {
        return Ok(keep(Outcome::Channel(Box::new(record))));
    }
    check_size(&record)?;
    record.updated_at = now.latest(Some(record.updated_at));
    let outcome = Outcome::Channel(Box::new(record.clone()));
    Ok(Decision { next: Some(Stored::Present(Arc::new(record))), event: None, outcome })
}

impl Edit {
    /// The list after the edit, in order of joining, each member once.
    fn apply(&self, members: &[Id]) -> Vec<Id> {
        let mut seen = HashSet::new();
        let base = self.replace.as_deref().unwrap_or(members);
        let joined = base.iter().chain(&self.add).filter(|id| !self.remove.contains(id));
        joined.filter(|id| seen.insert(*id)).cloned().collect()
    }
}

fn keep(outcome: Outcome) -> Decision<Channels> {
    Decision { next: None, event: None, outcome }
}

fn check_size(record: &Record) -> Result<(), Refusal> {
    let too_large = |field: &str, what: &str, found: usize, limit: usize| {
        let message =
            format!("the channel would have {found} {what}, and at most {limit} are accepted");
        Err(Refusal::new(Code::TooLarge, message).field(field).limit(limit as u64))
    };
    let members = record.members.len();
    if members > MAX_MEMBERS {
        return too_large("members", "members", members, MAX_MEMBERS);
    }
    let id_bytes = record.members.iter().map(|id| id.as_str().len()).sum();
    if id_bytes > MAX_ID_BYTES {
        return too_large("members", "bytes of member ids", id_bytes, MAX_ID_BYTES);
    }
    let data_bytes = record.custom.as_members().len() + 2;
    if data_bytes > MAX_DATA_BYTES {
        return too_large("data", "bytes of data", data_bytes, MAX_DATA_BYTES);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::presence::channel::ChannelKey;
    use crate::presence::entity::{DaemonId, Entity};
    use crate::presence::time::Time;

    fn ids(names: &[&str]) -> Vec<Id> {
        names.iter().map(|name| Id::parse(name, "id").unwrap()).collect()
    }

    fn run(before: &Stored<Record>, command: Command) -> Stored<Record> {
        let key = ChannelKey::from_cid("messaging:x").unwrap();
        let now = Now::local(0, Time(7));
        let decided = Channels::decide(&key, before, &command, &(), DaemonId(1), now).unwrap();
        decided.next.unwrap_or_else(|| before.clone())
    }

    fn edit(add: &[&str], remove: &[&str]) -> Command {
        let edit = Edit { replace: None, add: ids(add), remove: ids(remove) };
        Command::Upsert { patch: Patch::default(), edit }
    }

    #[test]
    fn members_keep_the_order_in_which_they_joined() {
        let channel = run(&Stored::default(), edit(&["c", "a", "c"], &[]));
        let channel = run(&channel, edit(&["b", "a"], &[]));
        assert_eq!(channel.record().unwrap().members, ids(&["c", "a", "b"]));
        let channel = run(&channel, edit(&[], &["a", "nobody"]));
        let channel = run(&channel, edit(&["a"], &[]));
        assert_eq!(channel.record().unwrap().members, ids(&["c", "b", "a"]));
    }

    #[test]
    fn a_channel_that_is_there_is_not_made_again() {
        let channel = run(&Stored::default(), edit(&["a"], &[]));
        let again = Command::Create { patch: Patch::default(), members: ids(&["b"]), chosen: None };
        assert_eq!(run(&channel, again), channel);
    }

    #[test]
    fn times_far_ahead_count_as_absent_and_others_never_move_back() {
        const HOUR_MS: i64 = 3_600_000;
        let said_at = |ms| {
            let patch = Patch { last_message_at: Some(Some(Time(ms))), ..Patch::default() };
            Command::Upsert { patch, edit: Edit::default() }
        };
        for (stored, next, expected) in
            [(7 + HOUR_MS, 5, 7 + HOUR_MS), (8 + HOUR_MS, 5, 5), (5, 9 + HOUR_MS, 9 + HOUR_MS)]
        {
            let mut record = Record::new(Time(8 + HOUR_MS));
            record.last_message_at = Some(Time(stored));
            let channel = run(&Stored::Present(Arc::new(record)), said_at(next));
            let record = channel.record().unwrap();
            assert_eq!(record.last_message_at, Some(Time(expected)));
            assert_eq!(
                record.updated_at,
                if stored == expected { Time(8 + HOUR_MS) } else { Time(7) }
            );
        }
    }

    #[test]
    fn ten_thousand_members_are_accepted_and_one_more_is_not() {
        let members =
            (0..MAX_MEMBERS).map(|n| Id::parse(&format!("u{n}"), "id").unwrap()).collect();
        let create = Command::Create { patch: Patch::default(), members, chosen: None };
        let channel = run(&Stored::default(), create);
        assert_eq!(channel.record().unwrap().members.len(), MAX_MEMBERS);
        let now = Now::local(0, Time(7));
        let refusal = decide(&channel, &edit(&["one more"], &[]), now).unwrap_err();
        assert_eq!((refusal.code, &refusal.details["limit"]), (Code::TooLarge, &10_000.into()));
    }

    proptest! {
        #[test]
        fn membership_is_that_of_a_list_without_repeats(
            edits in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec("[a-f]", 0..4),
                 proptest::collection::vec("[a-f]", 0..3)),
                0..12,
            ),
        ) {
            let mut channel = Stored::default();
            let mut model: Vec<String> = Vec::new();
            for (replace, add, remove) in edits {
                let texts = |names: &[String]| {
                    names.iter().map(|n| Id::parse(n, "id").unwrap()).collect::<Vec<_>>()
                };
                let edit = Edit {
                    replace: replace.then(|| texts(&add)),
                    add: if replace { Vec::new() } else { texts(&add) },
                    remove: texts(&remove),
                };
                if replace {
                    model.clear();
                }
                for name in add {
                    if !model.contains(&name) {
                        model.push(name);
                    }
                }
                model.retain(|name| !remove.contains(name));
                channel = run(&channel, Command::Upsert { patch: Patch::default(), edit });
                let members = &channel.record().unwrap().members;
                let names: Vec<_> = members.iter().map(|id| id.as_str().to_owned()).collect();
                prop_assert_eq!(&names, &model);
            }
        }
    }
}
