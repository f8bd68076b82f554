//! Answers that would be too large: the same is asked for in smaller pages.

use serde_json::{Map, Value};

use crate::error::Error;

/// Halves the page that `limit` names in a request whose answer would be too large. Returns whether
/// it can be smaller.
pub(crate) fn halve(error: &Error, body: &mut Map<String, Value>, limit: &str) -> bool {
    let size = body.get(limit).and_then(Value::as_u64).unwrap_or_default();
    let can = error.code() == "too_large" && size > 1;
    if can {
        body.insert(limit.to_owned(), (size / 2).into());
    }
    can
}
