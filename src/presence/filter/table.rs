//! The contract's table: which operators a field takes, and which operands an operator takes.

use chrono::DateTime;
use serde_json::Value;

use super::super::channel::MAX_MEMBERS;
use super::super::field::Field;
use super::super::number::Number;
use super::super::refusal::{Code, Refusal};
use super::words::folded;
use super::{Moment, Operand, Test, Values};

/// The maximum number of values of `$in` and `$nin` (`docs/protocol.md`, *Filters*).
pub const MAX_VALUES: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Eq,
    Ne,
    In,
    Nin,
    Gt,
    Gte,
    Lt,
    Lte,
    Exists,
    Autocomplete,
    Contains,
}

impl Operator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Eq => "$eq",
            Self::Ne => "$ne",
            Self::In => "$in",
            Self::Nin => "$nin",
            Self::Gt => "$gt",
            Self::Gte => "$gte",
            Self::Lt => "$lt",
            Self::Lte => "$lte",
            Self::Exists => "$exists",
            Self::Autocomplete => "$autocomplete",
            Self::Contains => "$contains",
        }
    }
}

/// A row of the contract's table of operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Key,
    Flag,
    Status,
    Availability,
    Devices,
    Time,
    Members,
    Count,
    /// All three custom rows: which of them holds is decided by the operand.
    Custom,
}

impl Class {
    pub(super) fn of(field: &Field) -> Self {
        match field {
            Field::Id | Field::Cid | Field::Type => Self::Key,
            Field::Online | Field::Invisible => Self::Flag,
            Field::Status => Self::Status,
            Field::Availability => Self::Availability,
            Field::Devices => Self::Devices,
            Field::LastActive
            | Field::OfflineSince
            | Field::LastMessageAt
            | Field::CreatedAt
            | Field::UpdatedAt => Self::Time,
            Field::Members => Self::Members,
            Field::MemberCount => Self::Count,
            Field::Custom(_) => Self::Custom,
        }
    }

    pub(super) fn operators(self) -> &'static [Operator] {
        use Operator::*;
        match self {
            Self::Key => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Autocomplete],
            Self::Flag => &[Eq, Ne],
            Self::Status => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists, Autocomplete],
            Self::Availability => &[Eq, Ne, In, Nin],
            Self::Devices => &[Eq, Ne, Exists, Contains, In, Nin],
            Self::Time => &[Eq, Ne, Gt, Gte, Lt, Lte, Exists],
            Self::Members => &[Eq, In, Contains],
            Self::Count => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists],
            Self::Custom => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists, Autocomplete, Contains],
        }
    }

    pub(super) fn accepts(self) -> String {
        let names: Vec<_> = self.operators().iter().map(|operator| operator.name()).collect();
        format!("this field takes a value or {}", names.join(" "))
    }

    /// The test that one operator of this row makes of its operand.
    pub(super) fn test(
        self,
        operator: Operator,
        operand: &Value,
        path: &str,
    ) -> Result<Test, Refusal> {
        use Operator as O;
        Ok(match (self, operator) {
            (Self::Members, O::Eq) => Test::ExactMembers(ids(operand, MAX_MEMBERS, path)?),
            (Self::Members, O::In) => Test::AnyMember(ids(operand, MAX_VALUES, path)?),
            (Self::Members, _) => Test::AnyMember([text(operand, path)?.into()].into()),
            (_, O::Eq) => Test::Equal(self.value(operand, path)?),
            (_, O::Ne) => Test::NotEqual(self.value(operand, path)?),
            (_, O::In) => Test::In(self.values(operand, path)?),
            (_, O::Nin) => Test::NotIn(self.values(operand, path)?),
            (_, O::Gt) => Test::Greater(self.ordered(operand, path)?),
            (_, O::Gte) => Test::GreaterOrEqual(self.ordered(operand, path)?),
            (_, O::Lt) => Test::Less(self.ordered(operand, path)?),
            (_, O::Lte) => Test::LessOrEqual(self.ordered(operand, path)?),
            (_, O::Exists) => match operand {
                Value::Bool(wanted) => Test::Exists(*wanted),
                _ => return Err(wrong(path, "true or false", operand)),
            },
            (_, O::Autocomplete) => match folded(text(operand, path)?).collect::<String>() {
                prefix if prefix.trim().is_empty() => {
                    return Err(invalid(path, "is blank; it takes the beginning of a word"));
                }
                prefix => Test::Autocomplete(prefix.into()),
            },
            (Self::Devices, O::Contains) => Test::Contains(text(operand, path)?.into()),
            (_, O::Contains) => match operand {
                Value::String(_) | Value::Number(_) | Value::Bool(_) => {
                    Test::Contains(operand.clone())
                }
                _ => return Err(wrong(path, "a string, a number or a boolean", operand)),
            },
        })
    }

    /// An operand to be equal to.
    fn value(self, operand: &Value, path: &str) -> Result<Operand, Refusal> {
        match (self, operand) {
            (Self::Flag | Self::Custom, Value::Bool(flag)) => Ok(Operand::Bool(*flag)),
            (Self::Flag, _) => Err(wrong(path, "true or false", operand)),
            (Self::Custom, Value::Array(array)) => Ok(Operand::Array(array.clone())),
            (Self::Devices, Value::Array(array)) => {
                for (at, device) in array.iter().enumerate() {
                    text(device, &format!("{path}[{at}]"))?;
                }
                Ok(Operand::Array(array.clone()))
            }
            (Self::Devices, _) => Err(wrong(path, "an array of strings", operand)),
            (Self::Custom, Value::Object(_)) => {
                Err(wrong(path, "a string, a number, a boolean or an array", operand))
            }
            _ => self.ordered(operand, path),
        }
    }

    /// An operand to be greater or less than.
    fn ordered(self, operand: &Value, path: &str) -> Result<Operand, Refusal> {
        match (self, operand) {
            (Self::Time, _) => moment(operand, path).map(Operand::Time),
            (Self::Count | Self::Custom, Value::Number(n)) => Ok(Operand::Number(n.into())),
            (Self::Count, _) => Err(wrong(path, "a number", operand)),
            (Self::Custom, Value::String(text)) => Ok(Operand::Text(text.as_str().into())),
            (Self::Custom, _) => Err(wrong(path, "a string or a number", operand)),
            _ => text(operand, path).map(|text| Operand::Text(text.into())),
        }
    }

    fn values(self, operand: &Value, path: &str) -> Result<Values, Refusal> {
        let mut texts = Vec::new();
        let (mut numbers, mut flags) = (Vec::<Number>::new(), Vec::new());
        for (at, value) in array(operand, MAX_VALUES, path)?.iter().enumerate() {
            let path = format!("{path}[{at}]");
            let operand = match (self, value) {
                (Self::Custom, Value::Bool(flag)) => Operand::Bool(*flag),
                (Self::Custom, Value::String(_) | Value::Number(_)) => {
                    self.ordered(value, &path)?
                }
                (Self::Custom, _) => {
                    return Err(wrong(&path, "a string, a number or a boolean", value));
                }
                _ => self.ordered(value, &path)?,
            };
            match operand {
                Operand::Text(text) => texts.push(text),
                Operand::Number(number) => numbers.push(number),
                Operand::Bool(flag) => flags.push(flag),
                // No class with `$in` has operands of another type.
                Operand::Time(_) | Operand::Array(_) => {}
            }
        }
        Ok(Values { texts: sorted(texts), numbers: sorted(numbers), flags: sorted(flags) })
    }
}

fn text<'a>(operand: &'a Value, path: &str) -> Result<&'a str, Refusal> {
    operand.as_str().ok_or_else(|| wrong(path, "a string", operand))
}

fn array<'a>(operand: &'a Value, most: usize, path: &str) -> Result<&'a [Value], Refusal> {
    let array = operand.as_array().ok_or_else(|| wrong(path, "an array", operand))?;
    at_most(array.len(), most, "values", path)?;
    Ok(array)
}

fn ids(operand: &Value, most: usize, path: &str) -> Result<Box<[Box<str>]>, Refusal> {
    let ids = array(operand, most, path)?.iter().enumerate();
    let ids = ids.map(|(at, id)| text(id, &format!("{path}[{at}]")).map(Box::from));
    Ok(sorted(ids.collect::<Result<_, _>>()?))
}

fn moment(operand: &Value, path: &str) -> Result<Moment, Refusal> {
    const EXPECTED: &str = "an RFC 3339 time such as \"2019-01-07T13:17:42.375Z\"";
    let time = operand
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .ok_or_else(|| wrong(path, EXPECTED, operand))?;
    Ok(Moment {
        floor_ms: time.timestamp_millis(),
        between: !time.timestamp_subsec_nanos().is_multiple_of(1_000_000),
    })
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

/// An operand of the wrong type.
fn wrong(path: &str, expected: &str, found: &Value) -> Refusal {
    let found = match found {
        Value::Null => return invalid(path, &format!("takes {expected}, not null; use `$exists`")),
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "this string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    invalid(path, &format!("takes {expected}, not {found}"))
}

pub(super) fn invalid(path: &str, flaw: &str) -> Refusal {
    Refusal::at(Code::InvalidFilter, path, flaw)
}

pub(super) fn at_most(count: usize, most: usize, of_what: &str, path: &str) -> Result<(), Refusal> {
    if count <= most {
        return Ok(());
    }
    let flaw = format!("has too many {of_what}; at most {most} are accepted");
    Err(Refusal::at(Code::LimitExceeded, path, &flaw).limit(most as u64))
}
