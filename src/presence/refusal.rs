//! Why a request is refused: the errors of the protocol (`PROTOCOL`, section 1, *Errors*).

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
    /// What a program may act on: `field`, `limit`, `retry_after_ms`, `written`.
    pub details: Map<String, Value>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Map::new() }
    }

    /// A refusal of what stands at `path`, which the message and the details name: on one line, and
    /// only as far as it helps.
    pub fn at(code: Code, path: &str, flaw: &str) -> Self {
        const MAX_CHARS: usize = 200;
        let path: String = path
            .chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .take(MAX_CHARS)
            .collect();
        Self::new(code, format!("`{path}` {flaw}")).field(path)
    }

    /// Names the field that is at fault.
    pub fn field(self, field: impl Into<String>) -> Self {
        self.detail("field", field.into())
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
