//! Takes a request apart, field by field.
//!
//! An error names the field, and an unknown field is never ignored.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::json_strict::{self, Flaw};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};

/// The fields of an object that were not taken yet.
#[derive(Debug)]
pub struct Fields {
    fields: Map<String, Value>,
    /// The place of the object in the request, with a dot at the end; empty at the top.
    path: String,
    /// The flaws of the request, if this is the whole of it.
    flaws: Vec<Flaw>,
}

impl Fields {
    /// The fields of a whole request.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let parsed = json_strict::parse(body)
            .map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
        match parsed.value {
            Value::Object(fields) => Ok(Self { fields, path: String::new(), flaws: parsed.flaws }),
            _ => Err(invalid("the body must be a JSON object")),
        }
    }

    /// The fields of an object within a request.
    pub fn of(value: Value, path: &str) -> Result<Self, Refusal> {
        match value {
            Value::Object(fields) => {
                Ok(Self { fields, path: format!("{path}."), flaws: Vec::new() })
            }
            _ => Err(wrong(path, "takes an object")),
        }
    }

    /// Refuses a request with a flaw anywhere.
    pub fn refuse_flaws(&self) -> Result<(), Refusal> {
        match self.flaws.first() {
            Some(flaw) => Err(flawed(flaw)),
            None => Ok(()),
        }
    }

    /// The refusals of the flaws in the items of an array, each with the index of its item. A flaw
    /// elsewhere refuses the request.
    pub fn flaws_in(&self, array: &str) -> Result<Vec<(usize, Refusal)>, Refusal> {
        let place = |flaw: &Flaw| match flaw.index_in(array) {
            Some(index) => Ok((index, flawed(flaw))),
            None => Err(flawed(flaw)),
        };
        self.flaws.iter().map(place).collect()
    }

    /// The path of a field of this object.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name)
    }

    pub fn id(&mut self, name: &str) -> Result<Option<Id>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(id)) => Id::parse(&id, &self.path(name)).map(Some),
            Some(_) => Err(wrong(&self.path(name), "takes a string")),
        }
    }

    /// The shared lease that a request names.
    pub fn lease(&mut self) -> Result<Option<Id>, Refusal> {
        match self.take("lease") {
            None => Ok(None),
            Some(Value::String(id)) => Id::parse_shared(&id, &self.path("lease")).map(Some),
            Some(_) => Err(wrong(&self.path("lease"), "takes a string")),
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&self.path(name), "takes a string")),
        }
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(wrong(&self.path(name), "takes true or false")),
        }
    }

    /// A whole number within `range`.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) if number > *range.end() => Err(Refusal::new(
                Code::LimitExceeded,
                format!(
                    "`{}` is {number}, and at most {} is accepted",
                    self.path(name),
                    range.end()
                ),
            )
            .field(self.path(name))
            .limit(*range.end())),
            _ => {
                let (from, to) = range.into_inner();
                Err(wrong(&self.path(name), &format!("takes a whole number from {from} to {to}")))
            }
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(wrong(&self.path(name), "takes an object")),
        }
    }

    /// An array of at most `limit` values.
    pub fn array(&mut self, name: &str, limit: usize) -> Result<Option<Vec<Value>>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) if values.len() <= limit => Ok(Some(values)),
            Some(Value::Array(values)) => Err(too_many(&self.path(name), values.len(), limit)),
            Some(_) => Err(wrong(&self.path(name), "takes an array")),
        }
    }

    /// An array of at most `limit` ids.
    pub fn ids(&mut self, name: &str, limit: usize) -> Result<Option<Vec<Id>>, Refusal> {
        let Some(values) = self.array(name, limit)? else { return Ok(None) };
        let parse = |(index, value): (usize, Value)| {
            let path = format!("{}[{index}]", self.path(name));
            match value {
                Value::String(id) => Id::parse(&id, &path),
                _ => Err(wrong(&path, "takes a string")),
            }
        };
        values.into_iter().enumerate().map(parse).collect::<Result<_, _>>().map(Some)
    }

    /// The fields that were not taken.
    pub fn rest(self) -> Map<String, Value> {
        self.fields
    }

    /// Refuses fields that were not taken.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(wrong(&self.path(name), "is unknown to this operation; misspelt, perhaps?"))
            }
        }
    }
}

/// The refusal of a flaw of the text.
fn flawed(flaw: &Flaw) -> Refusal {
    wrong(&flaw.path(), flaw.what)
}

/// The refusal of a missing field.
pub fn missing(path: &str, takes: &str) -> Refusal {
    wrong(path, &format!("is missing; it takes {takes}"))
}

/// The refusal of a field with a wrong value.
pub fn wrong(path: &str, what: &str) -> Refusal {
    invalid(format!("`{path}` {what}")).field(path)
}

/// The refusal of an array that is too long.
pub fn too_many(path: &str, count: usize, limit: usize) -> Refusal {
    let message = format!("`{path}` has {count} entries, and at most {limit} are accepted");
    Refusal::new(Code::LimitExceeded, message).field(path).limit(limit as u64)
}

fn invalid(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::InvalidRequest, message)
}
