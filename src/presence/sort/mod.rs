//! Sorting: in which order a query answers (`docs/protocol.md`, *Sorting*).
//!
//! A [`Sort`] is parsed once (`parse`); a scan keeps the first few records by it in a [`TopK`].
//! Where the contract leaves a choice:
//!
//! - All that can be filtered by can be sorted by, except `members` and `devices` (a set has no
//!   order) and `invisible` (which the viewer knows of one user only).
//! - Values of different types in a custom field: numbers before strings before booleans, and
//!   `false` before `true`; descending, all of it the other way round. Arrays and objects have no
//!   order and count as absent.
//! - Absent values are last in both directions. The last word has `id` (users) or `cid`
//!   (channels), ascending unless it is sorted by itself; keys after it decide nothing.

mod parse;
mod top;

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};

use serde_json::Value;

use super::field::{Datum, Field, Kind, Subject};
use super::number::Number;
use super::refusal::Refusal;

pub use parse::MAX_KEYS;
pub use top::TopK;

/// An order of records, total over records of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// Without the unique field.
    keys: Vec<Key>,
    /// The unique field, which decides where `keys` do not.
    tie: Key,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    field: Field,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

impl Sort {
    /// Reads a sort; the order of the keys of an object counts. Without any, and for `null`, `{}`
    /// and `[]`, it is the default of the kind.
    ///
    /// # Errors
    /// `invalid_sort`, naming the path.
    pub fn parse(kind: Kind, json: Option<&Value>) -> Result<Self, Refusal> {
        parse::sort(kind, json)
    }

    /// The default: users by `id`, channels by `last_message_at`, the newest first.
    pub fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Users => Self::of(kind, Vec::new()),
            Kind::Channels => Self::of(
                kind,
                vec![Key { field: Field::LastMessageAt, direction: Direction::Descending }],
            ),
        }
    }

    fn of(kind: Kind, mut keys: Vec<Key>) -> Self {
        let unique = kind.key_field();
        let tie = match keys.iter().position(|key| key.field == unique) {
            Some(at) => keys.drain(at..).next(),
            None => None,
        };
        let tie = tie.unwrap_or(Key { field: unique, direction: Direction::Ascending });
        Self { keys, tie }
    }

    /// Returns whether the unique field alone decides the order.
    pub fn is_by_key(&self) -> bool {
        self.keys.is_empty()
    }

    /// The place of a record in this order, to be kept.
    pub fn key(&self, subject: &impl Subject) -> SortKey {
        SortKey {
            parts: self.keys.iter().map(|key| key.part(subject).into_owned()).collect(),
            tie: self.tie.part(subject).into_owned(),
        }
    }

    /// Compares a record with a kept place, without making one of its own.
    pub fn compare(&self, subject: &impl Subject, place: &SortKey) -> Ordering {
        let of_keys = self.keys.iter().zip(&place.parts);
        of_keys
            .map(|(key, part)| key.part(subject).cmp(part))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.tie.part(subject).cmp(&place.tie))
    }
}

impl Key {
    fn part<'a>(&self, subject: &'a impl Subject) -> Part<'a> {
        let rank = match subject.datum(&self.field) {
            Datum::Number(number) => Rank::Number(number),
            Datum::Text(text) => Rank::Text(text),
            Datum::Bool(flag) => Rank::Bool(flag),
            Datum::Time(ms) => Rank::Time(ms),
            Datum::Absent
            | Datum::Concealed
            | Datum::Array(_)
            | Datum::Object
            | Datum::Members(_) => {
                return Part::Absent;
            }
        };
        match self.direction {
            Direction::Ascending => Part::Ascending(rank),
            Direction::Descending => Part::Descending(Reverse(rank)),
        }
    }
}

/// The place of a record in the order of the [`Sort`] that made it; only places by the same sort
/// compare meaningfully. The place that comes first is less.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey {
    parts: Vec<Part<'static>>,
    tie: Part<'static>,
}

/// The part of a [`SortKey`] for one key of the sort. At the same key two records have the same
/// direction, so that the order of the variants says only that absent values are last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    Ascending(Rank<'a>),
    Descending(Reverse<Rank<'a>>),
    Absent,
}

/// A value that has an order; that of the variants is that of the types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rank<'a> {
    Number(Number),
    Text(Cow<'a, str>),
    Bool(bool),
    Time(i64),
}

impl Part<'_> {
    fn into_owned(self) -> Part<'static> {
        match self {
            Self::Ascending(rank) => Part::Ascending(rank.into_owned()),
            Self::Descending(Reverse(rank)) => Part::Descending(Reverse(rank.into_owned())),
            Self::Absent => Part::Absent,
        }
    }
}

impl Rank<'_> {
    fn into_owned(self) -> Rank<'static> {
        match self {
            Self::Number(number) => Rank::Number(number),
            Self::Text(text) => Rank::Text(Cow::Owned(text.into_owned())),
            Self::Bool(flag) => Rank::Bool(flag),
            Self::Time(ms) => Rank::Time(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::field::sample::{Sample, sample};
    use super::*;

    /// The ids of the records in the order of the sort.
    fn order(kind: Kind, sort: &str, records: &Value) -> Vec<String> {
        let sort = Sort::parse(kind, serde_json::from_str(sort).ok().as_ref()).unwrap();
        let mut records = records.as_array().unwrap().clone();
        records.sort_by_key(|record| sort.key(&sample(record)));
        records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn absent_values_are_last_in_both_directions_and_ties_are_by_id() {
        let users = json!([
            {"id": "d"}, {"id": "c", "status": null}, {"id": "b", "status": "x"},
            {"id": "a", "status": "x"}, {"id": "e", "status": "y"},
        ]);
        assert_eq!(order(Kind::Users, r#"{"status":1}"#, &users), ["a", "b", "e", "c", "d"]);
        assert_eq!(order(Kind::Users, r#"{"status":-1}"#, &users), ["e", "a", "b", "c", "d"]);
        assert_eq!(
            order(Kind::Users, r#"{"status":-1,"id":-1}"#, &users),
            ["e", "b", "a", "d", "c"]
        );
    }

    #[test]
    fn types_in_a_custom_field_are_numbers_then_strings_then_booleans() {
        let users = json!([
            {"id": "array", "x": [1]}, {"id": "true", "x": true}, {"id": "false", "x": false},
            {"id": "a", "x": "a"}, {"id": "10", "x": 10}, {"id": "9.5", "x": 9.5},
        ]);
        assert_eq!(
            order(Kind::Users, r#"{"x":1}"#, &users),
            ["9.5", "10", "a", "false", "true", "array"]
        );
        assert_eq!(
            order(Kind::Users, r#"{"x":-1}"#, &users),
            ["true", "false", "a", "10", "9.5", "array"]
        );
    }

    #[test]
    fn channels_come_newest_message_first_then_without_any_by_cid() {
        let channels = json!([
            {"type": "t", "id": "none2"},
            {"type": "s", "id": "none3"},
            {"type": "t", "id": "none1"},
            {"type": "t", "id": "old", "last_message_at": "2019-01-07T13:17:42.375Z"},
            {"type": "t", "id": "new", "last_message_at": "2019-01-07T13:17:42.376Z"},
        ]);
        assert_eq!(
            order(Kind::Channels, "{}", &channels),
            ["new", "old", "none3", "none1", "none2"]
        );
    }

    fn datum() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-2i64..3).prop_map(Value::from),
            (-2.0..3.0f64).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(json!([1])),
        ]
    }

    fn users() -> impl Strategy<Value = Vec<Sample>> {
        prop::collection::vec((datum(), datum(), any::<bool>()), 0..40).prop_map(|users| {
            let record = |(at, (x, y, online)): (usize, (Value, Value, bool))| {
                sample(
                    &json!({"id": format!("u{}", at * 7 % 41), "x": x, "y": y, "online": online}),
                )
            };
            users.into_iter().enumerate().map(record).collect()
        })
    }

    fn sorts() -> impl Strategy<Value = Sort> {
        let key = (prop::sample::select(vec!["x", "y", "online", "id"]), any::<bool>());
        prop::collection::vec(key, 0..5).prop_filter_map("a field twice", |keys| {
            let keys = keys.iter().map(|(name, up)| json!({*name: if *up { 1 } else { -1 }}));
            Sort::parse(Kind::Users, Some(&Value::from_iter(keys))).ok()
        })
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_a_record_compares_as_its_place_does(
            users in users(), sort in sorts()
        ) {
            for (at, a) in users.iter().enumerate() {
                for (bt, b) in users.iter().enumerate() {
                    let (a, b_place) = (a, sort.key(b));
                    let order = sort.key(a).cmp(&b_place);
                    prop_assert_eq!(order, sort.compare(a, &b_place));
                    prop_assert_eq!(order.reverse(), b_place.cmp(&sort.key(a)));
                    prop_assert_eq!(order.is_eq(), at == bt);
                }
            }
        }

        #[test]
        fn the_top_k_are_the_first_k_of_the_full_sort(
            users in users(), sort in sorts(), k in 0usize..45
        ) {
            let mut top = TopK::new(&sort, k);
            for (at, user) in users.iter().enumerate() {
                top.offer(user, || at);
            }
            let mut all: Vec<_> = (0..users.len()).collect();
            all.sort_by_key(|at| sort.key(&users[*at]));
            all.truncate(k);
            prop_assert_eq!(top.into_sorted(), all);
        }
    }
}
