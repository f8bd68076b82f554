//! The reasons why a request is refused: the errors of the protocol (`docs/protocol.md`,
//! *Errors*).

use serde_json::{Map, Value};

/// The code of an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidRequest,
    InvalidId,
    InvalidFilter,
    InvalidSort,
    TooManyUsers,
    LimitExceeded,
    IdentityMismatch,
    ForbiddenField,
    UserNotFound,
    ChannelNotFound,
    Contended,
    TooLarge,
    Overloaded,
    Unavailable,
}

impl Code {
    /// The numeric status that the code travels with.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest
            | Self::InvalidId
            | Self::InvalidFilter
            | Self::InvalidSort
            | Self::TooManyUsers
            | Self::LimitExceeded => 400,
            Self::IdentityMismatch | Self::ForbiddenField => 403,
            Self::UserNotFound | Self::ChannelNotFound => 404,
            Self::Contended => 409,
            Self::TooLarge => 413,
            Self::Overloaded => 429,
            Self::Unavailable => 503,
        }
    }

    /// The name of the code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidId => "invalid_id",
            Self::InvalidFilter => "invalid_filter",
            Self::InvalidSort => "invalid_sort",
            Self::TooManyUsers => "too_many_users",
            Self::LimitExceeded => "limit_exceeded",
            Self::IdentityMismatch => "identity_mismatch",
            Self::ForbiddenField => "forbidden_field",
            Self::UserNotFound => "user_not_found",
            Self::ChannelNotFound => "channel_not_found",
            Self::Contended => "contended",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A request that is not carried out, and what its sender can do about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub code: Code,
    /// One line: what was wrong with which field, and what is accepted.
    pub message: String,
    /// Values on which a program may act: `field`, `limit`, `retry_after_ms`, `written`.
    pub details: Map<String, Value>,
}

/// The longest message, in characters.
const MAX_MESSAGE: usize = 1000;
/// The longest path of a field, in characters.
const MAX_FIELD: usize = 200;

impl Refusal {
    /// A refusal with a message, which may repeat parts of the request. The message is brought on
    /// one line and cut, so that no request can make an answer that is too large to be sent.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        Self { code, message: one_line(message.as_ref(), MAX_MESSAGE), details: Map::new() }
    }

    /// A refusal of what stands at `path`, which the message and the details name.
    pub fn at(code: Code, path: &str, flaw: &str) -> Self {
        let path = one_line(path, MAX_FIELD);
        Self::new(code, format!("`{path}` {flaw}")).field(path)
    }

    /// Names the field that is at fault.
    pub fn field(self, field: impl AsRef<str>) -> Self {
        self.detail("field", one_line(field.as_ref(), MAX_FIELD))
    }

    /// At most how many bytes it takes in an answer: what is repeated needs at most one escape for
    /// each byte.
    pub fn bytes(&self) -> usize {
        let field = self.details.get("field").and_then(Value::as_str).map_or(0, str::len);
        256 + 2 * (self.message.len() + field)
    }

    /// States the limit that was exceeded.
    pub fn limit(self, limit: u64) -> Self {
        self.detail("limit", limit)
    }

    /// Adds a detail for programs.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// The beginning of a text, without control characters.
fn one_line(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_said_is_repeated_on_one_line_and_cut() {
        let long = "\u{1}\"".repeat(100_000);
        let refusal =
            Refusal::new(Code::InvalidRequest, format!("`{long}` is unknown")).field(&long);
        assert!(!refusal.message.contains(char::is_control));
        let details = Value::Object(refusal.details.clone()).to_string();
        let message = Value::String(refusal.message.clone()).to_string();
        assert!(details.len() + message.len() < refusal.bytes());
        assert!(refusal.bytes() < 10_000);
    }
}
