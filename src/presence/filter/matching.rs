//! Holding a parsed filter against a record. This runs on every record of a scan: it allocates
//! nothing, and asks the record for each field of a condition once.

use std::cmp::Ordering;

use serde_json::Value;

use super::super::field::{Datum, Subject, same, same_all};
use super::super::id::Id;
use super::super::number::Number;
use super::words::has_word_with_prefix;
use super::{Moment, Node, Operand, Test, Values};

impl Node {
    pub(super) fn matches(&self, subject: &impl Subject) -> bool {
        match self {
            Self::Field(field, tests) => {
                let datum = subject.datum(field);
                tests.iter().all(|test| test.holds(&datum))
            }
            Self::And(filters) => filters.iter().all(|filter| filter.matches(subject)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(subject)),
            Self::Nor(filters) => !filters.iter().any(|filter| filter.matches(subject)),
        }
    }
}

impl Test {
    pub(super) fn holds(&self, datum: &Datum<'_>) -> bool {
        match datum {
            Datum::Concealed => false,
            Datum::Absent => {
                matches!(self, Self::NotEqual(_) | Self::NotIn(_) | Self::Exists(false))
            }
            _ => self.holds_for_present(datum),
        }
    }

    fn holds_for_present(&self, datum: &Datum<'_>) -> bool {
        match self {
            Self::Equal(operand) => operand.equals(datum) == Some(true),
            Self::NotEqual(operand) => operand.equals(datum) == Some(false),
            Self::In(values) => values.contain(datum) == Some(true),
            Self::NotIn(values) => values.contain(datum) == Some(false),
            Self::Greater(operand) => operand.order(datum).is_some_and(Ordering::is_gt),
            Self::GreaterOrEqual(operand) => operand.order(datum).is_some_and(Ordering::is_ge),
            Self::Less(operand) => operand.order(datum).is_some_and(Ordering::is_lt),
            Self::LessOrEqual(operand) => operand.order(datum).is_some_and(Ordering::is_le),
            Self::Exists(wanted) => *wanted,
            Self::Autocomplete(prefix) => {
                matches!(datum, Datum::Text(text) if has_word_with_prefix(text, prefix))
            }
            Self::Contains(value) => {
                matches!(datum, Datum::Array(array) if array.iter().any(|held| same(held, value)))
            }
            Self::ExactMembers(ids) => matches!(
                datum,
                // Each member occurs once: if all are in a set of the same size, it is that set.
                Datum::Members(members)
                    if members.len() == ids.len() && members.iter().all(|m| is_among(m, ids))
            ),
            Self::AnyMember(ids) => {
                matches!(datum, Datum::Members(members) if members.iter().any(|m| is_among(m, ids)))
            }
        }
    }
}

impl Operand {
    /// `None` if what the record holds is of another type.
    fn equals(&self, datum: &Datum<'_>) -> Option<bool> {
        match (self, datum) {
            (Self::Array(operand), Datum::Array(held)) => Some(same_all(operand, held)),
            _ => self.order(datum).map(Ordering::is_eq),
        }
    }

    /// Compares the record's value with the operand; `None` if it is of another type or has no
    /// order.
    fn order(&self, datum: &Datum<'_>) -> Option<Ordering> {
        match (self, datum) {
            (Self::Text(operand), Datum::Text(held)) => Some((**held).cmp(operand)),
            (Self::Number(operand), Datum::Number(held)) => Some(held.cmp(operand)),
            (Self::Bool(operand), Datum::Bool(held)) => Some(held.cmp(operand)),
            (Self::Time(operand), Datum::Time(held_ms)) => Some(operand.order_of(*held_ms)),
            _ => None,
        }
    }
}

impl Moment {
    /// Compares the time of a record with this moment.
    fn order_of(self, held_ms: i64) -> Ordering {
        match held_ms.cmp(&self.floor_ms) {
            Ordering::Equal if self.between => Ordering::Less,
            order => order,
        }
    }
}

impl Values {
    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.numbers.is_empty() && self.flags.is_empty()
    }

    /// `None` if what the record holds is of a type that no value has.
    fn contain(&self, datum: &Datum<'_>) -> Option<bool> {
        match datum {
            _ if self.is_empty() => Some(false),
            Datum::Text(text) if !self.texts.is_empty() => {
                Some(self.texts.binary_search_by(|value| (**value).cmp(text)).is_ok())
            }
            Datum::Number(number) if !self.numbers.is_empty() => {
                Some(self.numbers.binary_search(number).is_ok())
            }
            Datum::Bool(flag) if !self.flags.is_empty() => Some(self.flags.contains(flag)),
            Datum::Array(array) => Some(array.iter().any(|value| self.contain_value(value))),
            _ => None,
        }
    }

    /// Returns whether one of an array's values is among these.
    fn contain_value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => {
                self.texts.binary_search_by(|value| (**value).cmp(text.as_str())).is_ok()
            }
            Value::Number(number) => self.numbers.binary_search(&Number::from(number)).is_ok(),
            Value::Bool(flag) => self.flags.contains(flag),
            _ => false,
        }
    }
}

fn is_among(member: &Id, sorted: &[Box<str>]) -> bool {
    sorted.binary_search_by(|id| (**id).cmp(member.as_str())).is_ok()
}
