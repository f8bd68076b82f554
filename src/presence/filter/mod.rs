//! Filters: which users or channels a query is about (`docs/protocol.md`, *Filters*).
//!
//! A [`Filter`] is parsed once (`parse`, with the operators of `table`) and then held against each
//! record (`matching`). It cannot hold an operator or an operand that its field does not take.
//! Where the contract leaves a choice:
//!
//! - A custom field of another type than the operand's does not match, with `$ne` and `$nin`
//!   neither: `{"age":{"$ne":3}}` does not find `"age":"three"`, but finds who has no `age`. With
//!   operands of two types, `$nin` takes fields of both.
//! - `{}` matches everything, `$in: []` nothing, and `$nin: []` everything.
//! - `$eq` of arrays is by element, in order; `members` is a set, in no order.
//! - Numbers compare by value (`1` equals `1.0`), times by the instant they name.
//! - `$autocomplete` finds words as `words` has them; an operand that goes on after its first word
//!   (`o'br`, `new yo`) must go on like that in the text.
//! - A filter has at most [`MAX_CONDITIONS`] conditions, since each costs time on every record.

mod matching;
mod parse;
mod table;
#[cfg(test)]
mod tests;
mod words;

use serde_json::Value;

use super::field::{Datum, Field, Kind, Subject};
use super::number::Number;
use super::refusal::Refusal;

pub use parse::{MAX_CONDITIONS, MAX_DEPTH};
pub use table::MAX_VALUES;

/// A condition on records. The default matches every record.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// All of them are required; the cheap ones come first.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
enum Node {
    /// The field passes all tests.
    Field(Field, Vec<Test>),
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Nor(Vec<Filter>),
}

/// One operator with its operand.
#[derive(Debug, Clone)]
enum Test {
    Equal(Operand),
    NotEqual(Operand),
    In(Values),
    NotIn(Values),
    Greater(Operand),
    GreaterOrEqual(Operand),
    Less(Operand),
    LessOrEqual(Operand),
    Exists(bool),
    /// The operand, folded, is not blank.
    Autocomplete(Box<str>),
    /// The array holds this scalar.
    Contains(Value),
    /// The members are exactly these; sorted, each once.
    ExactMembers(Box<[Box<str>]>),
    /// One of these is a member; sorted, each once.
    AnyMember(Box<[Box<str>]>),
}

#[derive(Debug, Clone)]
enum Operand {
    Text(Box<str>),
    Number(Number),
    Bool(bool),
    Time(Moment),
    Array(Vec<Value>),
}

/// An instant that a filter names. Records hold whole milliseconds, a filter may lie between two.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// The last millisecond since 1970 that is not after it.
    floor_ms: i64,
    /// Whether the instant lies after that millisecond, so that no record's time equals it.
    between: bool,
}

/// The values of `$in` and `$nin`; all lists sorted, each value once.
#[derive(Debug, Clone)]
struct Values {
    texts: Box<[Box<str>]>,
    numbers: Box<[Number]>,
    flags: Box<[bool]>,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// `invalid_filter` for a wrong field, operator, operand or nesting, `limit_exceeded` for too
    /// many values or conditions; both name the path.
    pub fn parse(kind: Kind, value: &Value) -> Result<Self, Refusal> {
        parse::filter(kind, value)
    }

    /// Returns whether the record, as the viewer may see it, is one of those asked for. Allocates
    /// nothing of its own.
    pub fn matches(&self, subject: &impl Subject) -> bool {
        self.nodes.iter().all(|node| node.matches(subject))
    }

    /// The maximum number of tests that the filter makes of a record.
    pub fn tests(&self) -> usize {
        self.nodes.iter().map(Node::tests).sum()
    }

    /// Returns whether a user of this id can match, whatever else is known of it. A scan then passes
    /// over the others without looking at their records.
    pub fn admits(&self, id: &str) -> bool {
        self.nodes.iter().all(|node| node.admits(id))
    }

    /// If only a few values of a text field (`id`, `cid`) can match: all those values, each once.
    /// A query then looks them up instead of scanning, and still asks [`Self::matches`].
    pub fn candidates(&self, field: &Field) -> Option<Vec<&str>> {
        self.narrowest(&|of, test| match test {
            Test::Equal(Operand::Text(text)) if of == field => Some(vec![text]),
            // Numbers beside the texts would be further candidates; they cannot be looked up.
            Test::In(values) if of == field && values.numbers.is_empty() => {
                Some(values.texts.iter().map(|text| &**text).collect())
            }
            _ => None,
        })
    }

    /// If every matching channel has a member out of a few: those users, each once. A query then
    /// looks only at their channels, and still asks [`Self::matches`].
    pub fn member_candidates(&self) -> Option<Vec<&str>> {
        self.narrowest(&|_, test| match test {
            Test::AnyMember(ids) => Some(ids.iter().map(|id| &**id).collect()),
            // Every one of the set is a member; the first will do. Without any there is no bound.
            Test::ExactMembers(ids) => ids.first().map(|id| vec![&**id]),
            _ => None,
        })
    }

    /// The shortest list that bounds what can match: of what is required together any one bounds
    /// it, of alternatives all of them do.
    fn narrowest<'a>(&'a self, of_test: &OfTest<'_, 'a>) -> Option<Vec<&'a str>> {
        self.nodes.iter().filter_map(|node| node.narrowest(of_test)).min_by_key(Vec::len)
    }
}

/// The values that one test leaves possible, if they are few.
type OfTest<'f, 'a> = dyn Fn(&Field, &'a Test) -> Option<Vec<&'a str>> + 'f;

impl Node {
    fn tests(&self) -> usize {
        match self {
            Self::Field(_, tests) => tests.len(),
            Self::And(filters) | Self::Or(filters) | Self::Nor(filters) => {
                filters.iter().map(Filter::tests).sum()
            }
        }
    }

    fn admits(&self, id: &str) -> bool {
        match self {
            Self::Field(Field::Id, tests) => {
                let datum = Datum::text(id);
                tests.iter().all(|test| test.holds(&datum))
            }
            Self::And(filters) => filters.iter().all(|filter| filter.admits(id)),
            Self::Or(filters) => filters.iter().any(|filter| filter.admits(id)),
            // What these do not rule out by the id alone is left to the record.
            Self::Field(..) | Self::Nor(_) => true,
        }
    }

    fn narrowest<'a>(&'a self, of_test: &OfTest<'_, 'a>) -> Option<Vec<&'a str>> {
        match self {
            Self::Field(field, tests) => {
                tests.iter().filter_map(|test| of_test(field, test)).min_by_key(Vec::len)
            }
            Self::And(filters) => {
                filters.iter().filter_map(|f| f.narrowest(of_test)).min_by_key(Vec::len)
            }
            Self::Or(filters) => {
                let each: Option<Vec<_>> = filters.iter().map(|f| f.narrowest(of_test)).collect();
                let mut union: Vec<_> = each?.into_iter().flatten().collect();
                union.sort_unstable();
                union.dedup();
                Some(union)
            }
            Self::Nor(_) => None,
        }
    }
}
