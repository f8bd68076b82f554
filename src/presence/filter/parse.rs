//! Reading filters. Every error names the path of what is wrong and says what is accepted there.

use chrono::DateTime;
use serde_json::Value;

use super::super::field::{Field, Kind};
use super::super::number::Number;
use super::super::refusal::{Code, Refusal};
use super::matching::lower;
use super::{Filter, Moment, Node, Operand, Test, Values};

/// How deep `$and`, `$or` and `$nor` nest at most (`PROTOCOL`, section 3).
pub const MAX_DEPTH: usize = 8;
/// How many values `$in` and `$nin` take (`PROTOCOL`, section 3).
pub const MAX_VALUES: usize = 100;
/// How many ids `members` compares with by `$eq`: as many as a channel can have.
pub const MAX_MEMBERS: usize = 10_000;
/// How many operators, bare values and groups a filter has. Ours: a filter for 100 ids or members
/// uses one, and 1000 of them on each of a million records are about what a query can afford.
pub const MAX_CONDITIONS: usize = 1000;
/// How many characters of a path an error repeats.
const MAX_SHOWN: usize = 200;

pub(super) fn filter(kind: Kind, value: &Value) -> Result<Filter, Refusal> {
    Parser { kind, conditions: 0 }.filter(value, "", 0)
}

struct Parser {
    kind: Kind,
    /// Read so far.
    conditions: usize,
}

impl Parser {
    fn filter(&mut self, value: &Value, path: &str, depth: usize) -> Result<Filter, Refusal> {
        let Value::Object(fields) = value else {
            let path = if path.is_empty() { "filter" } else { path };
            return Err(wrong(path, "an object of fields and operators", value));
        };
        let mut nodes = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            nodes.push(self.node(name, value, &path, depth)?);
        }
        nodes.sort_by_key(Node::cost);
        Ok(Filter { nodes })
    }

    fn node(
        &mut self,
        name: &str,
        value: &Value,
        path: &str,
        depth: usize,
    ) -> Result<Node, Refusal> {
        match name {
            "$and" => Ok(Node::And(self.group(value, path, depth)?)),
            "$or" => Ok(Node::Or(self.group(value, path, depth)?)),
            "$nor" => Ok(Node::Nor(self.group(value, path, depth)?)),
            _ if name.starts_with('$') => {
                Err(invalid(path, "is not accepted here; fields, `$and`, `$or` and `$nor` are"))
            }
            _ => {
                let field =
                    Field::named(self.kind, name).ok_or_else(|| no_field(self.kind, path))?;
                let tests = self.tests(&field, value, path)?;
                Ok(Node::Field(field, tests))
            }
        }
    }

    fn group(&mut self, value: &Value, path: &str, depth: usize) -> Result<Vec<Filter>, Refusal> {
        self.count(path)?;
        if depth == MAX_DEPTH {
            let flaw = format!("is nested too deep; groups nest at most {MAX_DEPTH} deep");
            return Err(invalid(path, flaw).limit(MAX_DEPTH as u64));
        }
        match value {
            Value::Array(filters) if !filters.is_empty() => filters
                .iter()
                .enumerate()
                .map(|(at, filter)| self.filter(filter, &format!("{path}[{at}]"), depth + 1))
                .collect(),
            Value::Array(_) => Err(invalid(path, "is empty; it takes at least one filter")),
            _ => Err(wrong(path, "an array of filters", value)),
        }
    }

    /// The tests of one field: a bare value, or an object of operators.
    fn tests(&mut self, field: &Field, value: &Value, path: &str) -> Result<Vec<Test>, Refusal> {
        let class = Class::of(field);
        let Value::Object(operators) = value else {
            self.count(path)?;
            return Ok(vec![class.test(Operator::Eq, value, path)?]);
        };
        if operators.is_empty() {
            return Err(invalid(path, format!("has no operator; {}", class.accepts())));
        }
        let mut tests = Vec::with_capacity(operators.len());
        for (name, operand) in operators {
            let path = format!("{path}.{name}");
            self.count(&path)?;
            let operator =
                class.operators().iter().find(|operator| operator.name() == name).ok_or_else(
                    || invalid(&path, format!("is no operator here; {}", class.accepts())),
                )?;
            tests.push(class.test(*operator, operand, &path)?);
        }
        Ok(tests)
    }

    fn count(&mut self, path: &str) -> Result<(), Refusal> {
        self.conditions += 1;
        at_most(self.conditions, MAX_CONDITIONS, "conditions in a filter", path)
    }
}

impl Node {
    /// Ranks nodes by what they cost, for those to come first that spare the others: a custom
    /// field is parsed out of the record, a group holds several.
    fn cost(&self) -> u8 {
        match self {
            Self::Field(Field::Members, _) => 1,
            Self::Field(Field::Custom(_), _) => 2,
            Self::Field(..) => 0,
            Self::And(_) | Self::Or(_) | Self::Nor(_) => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
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
    fn name(self) -> &'static str {
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
enum Class {
    Key,
    Flag,
    Status,
    Time,
    Members,
    Count,
    /// All three custom rows: which of them holds is decided by the operand.
    Custom,
}

impl Class {
    fn of(field: &Field) -> Self {
        match field {
            Field::Id | Field::Cid | Field::Type => Self::Key,
            Field::Online | Field::Invisible => Self::Flag,
            Field::Status => Self::Status,
            Field::LastActive | Field::LastMessageAt | Field::CreatedAt | Field::UpdatedAt => {
                Self::Time
            }
            Field::Members => Self::Members,
            Field::MemberCount => Self::Count,
            Field::Custom(_) => Self::Custom,
        }
    }

    fn operators(self) -> &'static [Operator] {
        use Operator::*;
        match self {
            Self::Key => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Autocomplete],
            Self::Flag => &[Eq, Ne],
            Self::Status => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists, Autocomplete],
            Self::Time => &[Eq, Ne, Gt, Gte, Lt, Lte, Exists],
            Self::Members => &[Eq, In, Contains],
            Self::Count => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists],
            Self::Custom => &[Eq, Ne, In, Nin, Gt, Gte, Lt, Lte, Exists, Autocomplete, Contains],
        }
    }

    fn accepts(self) -> String {
        let names: Vec<_> = self.operators().iter().map(|operator| operator.name()).collect();
        format!("this field takes a value or {}", names.join(" "))
    }

    fn test(self, operator: Operator, operand: &Value, path: &str) -> Result<Test, Refusal> {
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
            (_, O::Autocomplete) => match text(operand, path)? {
                "" => return Err(invalid(path, "is empty; it takes the beginning of a word")),
                text => Test::Autocomplete(lower(text).collect::<String>().into()),
            },
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
        let mut numbers = Vec::<Number>::new();
        for (at, value) in array(operand, MAX_VALUES, path)?.iter().enumerate() {
            match self.ordered(value, &format!("{path}[{at}]"))? {
                Operand::Text(text) => texts.push(text),
                Operand::Number(number) => numbers.push(number),
                // No class with `$in` has ordered operands of another type.
                Operand::Bool(_) | Operand::Time(_) | Operand::Array(_) => {}
            }
        }
        Ok(Values { texts: sorted(texts), numbers: sorted(numbers) })
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

fn at_most(count: usize, most: usize, of_what: &str, path: &str) -> Result<(), Refusal> {
    if count <= most {
        return Ok(());
    }
    let message = format!("`{}`: more than {most} {of_what}", shown(path));
    Err(Refusal::new(Code::LimitExceeded, message).field(shown(path)).limit(most as u64))
}

fn no_field(kind: Kind, path: &str) -> Refusal {
    let (what, fields) = match kind {
        Kind::Users => {
            ("users", "id, online, invisible, status, last_active, created_at, updated_at")
        }
        Kind::Channels => (
            "channels",
            "id, cid, type, members, member_count, last_message_at, created_at, updated_at",
        ),
    };
    invalid(
        path,
        format!("is no field to filter {what} by; accepted are {fields} and custom fields"),
    )
}

/// An operand of the wrong type.
fn wrong(path: &str, expected: &str, found: &Value) -> Refusal {
    let found = match found {
        Value::Null => return invalid(path, format!("takes {expected}, not null; use `$exists`")),
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "this string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    invalid(path, format!("takes {expected}, not {found}"))
}

fn invalid(path: &str, flaw: impl std::fmt::Display) -> Refusal {
    let path = shown(path);
    Refusal::new(Code::InvalidFilter, format!("`{path}` {flaw}")).field(path)
}

/// A path as an error repeats it: on one line, and not longer than it helps.
fn shown(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN).collect()
}
