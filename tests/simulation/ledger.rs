//! The promise made to each request, and whether the stored records keep it.
//!
//! A user is a set of registers: each client's custom field and connection, the status, and
//! whether it is invisible. A request sets some of them at one moment between its arrival and its
//! answer. If its outcome is unknown, that moment is between its arrival and the latest arrival of
//! its write at the bucket, or never. A value is right if a request set it that is not known to
//! have been overwritten. A request overwrites it if it is acknowledged, began after the setter
//! was done, and ended before the value was read.

use std::collections::BTreeMap;

use presenced::presence::id::Id;
use presenced::presence::user::Record;

use super::client::{CLIENTS, Op};
use super::daemon::REQUEST_MS;
use super::network::LATEST_MS;

pub type OpId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    Custom(usize),
    Connection(usize),
    Status,
    Invisible,
}

impl Register {
    pub fn all() -> impl Iterator<Item = Self> {
        let own = (0..CLIENTS).flat_map(|c| [Self::Custom(c), Self::Connection(c)]);
        own.chain([Self::Status, Self::Invisible])
    }

    /// The value in a record.
    pub fn of(self, record: Option<&Record>) -> Value {
        let Some(record) = record else { return Value::Absent };
        match self {
            Self::Custom(client) => {
                let name = format!("f{client}");
                let value = record.custom.values().get(&name).cloned();
                value.and_then(|value| value.as_u64()).map_or(Value::Absent, Value::By)
            }
            Self::Connection(client) => {
                let name = format!("c{client}");
                match record.connections.iter().find(|each| each.id.as_str() == name) {
                    None => Value::Absent,
                    Some(each) if each.lease.is_some() => Value::OnLease,
                    Some(_) => Value::Own,
                }
            }
            Self::Status => {
                let value = record.status.as_deref().and_then(|status| status.parse().ok());
                value.map_or(Value::Absent, Value::By)
            }
            Self::Invisible if record.invisible => Value::Invisible,
            Self::Invisible => Value::Absent,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Absent,
    /// The value that the request of that number wrote.
    By(OpId),
    Own,
    OnLease,
    Invisible,
    /// Only as an effect: the end of the lease.
    AbsentIfOnLease,
    /// Only as an effect: the end of something that may be another by then, which stays.
    MaybeAbsent,
}

impl Value {
    fn makes(self, value: Self) -> bool {
        let ends = matches!(self, Self::AbsentIfOnLease | Self::MaybeAbsent);
        self == value || (ends && value == Self::Absent)
    }

    fn overwrites(self, value: Self) -> bool {
        !self.makes(value)
            && self != Self::MaybeAbsent
            && (self != Self::AbsentIfOnLease || value == Self::OnLease)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Not answered, or answered with an unknown outcome.
    Open,
    Done {
        at_ms: u64,
    },
    /// Refused: it must have changed nothing.
    Refused,
}

#[derive(Debug)]
pub struct Entry {
    pub op: Op,
    pub began_ms: u64,
    /// The latest time of its effect, unless its answer says otherwise.
    pub latest_ms: u64,
    pub fate: Fate,
}

#[derive(Debug, Default)]
pub struct Ledger {
    ops: Vec<Entry>,
    /// The requests that set a register, and the values.
    setters: BTreeMap<(Id, Register), Vec<(OpId, Value)>>,
    /// The time at which the bucket was replaced: from then on everything may be absent.
    pub replaced_ms: Vec<u64>,
}

impl Ledger {
    pub fn begin(&mut self, op: Op, began_ms: u64, latest_ms: u64) -> OpId {
        let number = self.ops.len() as OpId;
        for (register, value) in op.effects(number) {
            self.setters.entry((op.user.clone(), register)).or_default().push((number, value));
        }
        self.ops.push(Entry { op, began_ms, latest_ms, fate: Fate::Open });
        number
    }

    pub fn settle(&mut self, number: OpId, fate: Fate) {
        self.entry_mut(number).fate = fate;
    }

    pub fn entry(&self, number: OpId) -> &Entry {
        &self.ops[usize::try_from(number).expect("a number of an operation")]
    }

    fn entry_mut(&mut self, number: OpId) -> &mut Entry {
        &mut self.ops[usize::try_from(number).expect("a number of an operation")]
    }

    /// Returns whether a read of a register, at a moment between the two, may find `value`.
    pub fn may_be(
        &self,
        user: &Id,
        register: Register,
        value: Value,
        from_ms: u64,
        to_ms: u64,
    ) -> bool {
        let none = Vec::new();
        let setters = self.setters.get(&(user.clone(), register)).unwrap_or(&none);
        let overwritten_ms = setters
            .iter()
            .filter(|(_, set)| set.overwrites(value))
            .map(|(number, _)| self.entry(*number))
            .filter(|entry| matches!(entry.fate, Fate::Done { at_ms } if at_ms < from_ms))
            .map(|entry| entry.began_ms)
            .max();
        let Some(overwritten_ms) = overwritten_ms else {
            return value == Value::Absent || self.was_set(setters, value, 0, to_ms);
        };
        let replaced = self.replaced_ms.iter().any(|at| *at + 2000 >= overwritten_ms);
        (value == Value::Absent && replaced) || self.was_set(setters, value, overwritten_ms, to_ms)
    }

    /// Returns whether a read at the revision of a request's answer may find `value`, where the
    /// request set `set`. It may find `set`, or a value of a request that was not done when this
    /// one began.
    pub fn may_be_at_rev(
        &self,
        number: OpId,
        register: Register,
        set: Value,
        value: Value,
        now_ms: u64,
    ) -> bool {
        let Entry { op, began_ms, .. } = self.entry(number);
        let set_beside = || {
            let setters = &self.setters[&(op.user.clone(), register)];
            self.was_set(setters, value, *began_ms, now_ms)
        };
        self.may_be(&op.user, register, value, *began_ms, now_ms)
            && (!set.overwrites(value) || set_beside())
    }

    /// The time at which a request can no longer take effect. A late write that creates a record
    /// may take effect once more in a bucket that was created again.
    fn ended_ms(&self, entry: &Entry) -> u64 {
        let ended_ms = match entry.fate {
            Fate::Done { at_ms } => at_ms,
            Fate::Open | Fate::Refused => entry.latest_ms,
        };
        let replaced = self.replaced_ms.iter().filter(|at| **at >= entry.began_ms);
        replaced.map(|at| at + REQUEST_MS + LATEST_MS).fold(ended_ms, u64::max)
    }

    /// Returns whether a request that ended after `after_ms` and began before `before_ms` set the
    /// value.
    fn was_set(
        &self,
        setters: &[(OpId, Value)],
        value: Value,
        after_ms: u64,
        before_ms: u64,
    ) -> bool {
        setters.iter().any(|(number, set)| {
            let entry = self.entry(*number);
            set.makes(value)
                && entry.fate != Fate::Refused
                && self.ended_ms(entry) >= after_ms
                && entry.began_ms <= before_ms
        })
    }
}
