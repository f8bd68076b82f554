//! The common parts of the stored objects of users and channels.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::Error;
use serde_json::{Map, Value};

/// The schema number of the records that this version writes and reads.
const SCHEMA: u64 = 1;

/// Refuses a record of another schema.
pub fn check_schema(schema: u64) -> Result<(), serde_json::Error> {
    if schema == SCHEMA {
        return Ok(());
    }
    let message = format!("it has schema {schema}, and this version reads schema {SCHEMA}");
    Err(serde_json::Error::custom(message))
}

/// A text that is borrowed if it can be.
#[derive(Debug, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The members of a stored object that this version does not know; they are kept.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Unknown(Map<String, Value>);

impl Unknown {
    /// The members as JSON without braces, if there are any.
    pub fn into_members(self) -> Option<Box<str>> {
        if self.0.is_empty() {
            return None;
        }
        let object = Value::Object(self.0).to_string();
        Some(object[1..object.len() - 1].into())
    }
}
