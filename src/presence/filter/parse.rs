//! Reading filters. Every error names the path of what is wrong and says what is accepted there.

use serde_json::Value;

use super::super::field::{Field, Kind};
use super::super::refusal::Refusal;
use super::table::{Class, Operator, at_most, invalid};
use super::{Filter, Node, Test};

/// The maximum depth of `$and`, `$or` and `$nor` (`docs/protocol.md`, *Filters*).
pub const MAX_DEPTH: usize = 8;
/// The maximum number of operators, bare values and groups of a filter. Ours: a filter for 100 ids
/// or members uses one, and 1000 of them on each of a million records are about what a query can
/// afford.
pub const MAX_CONDITIONS: usize = 1000;

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
            return Err(invalid(path, "takes an object of fields and operators"));
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
            return Err(invalid(path, &flaw).limit(MAX_DEPTH as u64));
        }
        match value {
            Value::Array(filters) if !filters.is_empty() => filters
                .iter()
                .enumerate()
                .map(|(at, filter)| self.filter(filter, &format!("{path}[{at}]"), depth + 1))
                .collect(),
            Value::Array(_) => Err(invalid(path, "is empty; it takes at least one filter")),
            _ => Err(invalid(path, "takes an array of filters")),
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
            return Err(invalid(path, &format!("has no operator; {}", class.accepts())));
        }
        let mut tests = Vec::with_capacity(operators.len());
        for (name, operand) in operators {
            let path = format!("{path}.{name}");
            self.count(&path)?;
            let operator =
                class.operators().iter().find(|operator| operator.name() == name).ok_or_else(
                    || invalid(&path, &format!("is no operator here; {}", class.accepts())),
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
    /// Ranks nodes by their cost, for those to come first that spare the others. A custom field is
    /// parsed out of the record, a group holds several.
    fn cost(&self) -> u8 {
        match self {
            Self::Field(Field::Members, _) => 1,
            Self::Field(Field::Custom(_), _) => 2,
            Self::Field(..) => 0,
            Self::And(_) | Self::Or(_) | Self::Nor(_) => 3,
        }
    }
}

fn no_field(kind: Kind, path: &str) -> Refusal {
    let (what, fields) = match kind {
        Kind::Users => (
            "users",
            "id, online, invisible, status, availability, devices, last_active, offline_since, \
             created_at, updated_at",
        ),
        Kind::Channels => (
            "channels",
            "id, cid, type, members, member_count, last_message_at, created_at, updated_at",
        ),
    };
    invalid(
        path,
        &format!("is no field to filter {what} by; accepted are {fields} and custom fields"),
    )
}
