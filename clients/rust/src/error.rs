//! The one error of the library.

use serde_json::{Map, Value};

/// The reason why an operation did not succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is not acceptable. A repeat changes nothing.
    #[error("refused ({code}): {message}")]
    Refused {
        /// The code of the contract, such as `limit_exceeded`.
        code: String,
        /// The field and its fault, for people.
        message: String,
        /// `field`, `limit` and what else a program may act on.
        details: Box<Map<String, Value>>,
        /// Whether an earlier try may have been applied.
        may_have_applied: bool,
    },
    /// The daemons could not do it before the deadline: `contended`, `overloaded`, `unavailable`.
    #[error("busy ({code}): {message}")]
    Busy {
        /// The code of the contract.
        code: String,
        /// The reason, for people.
        message: String,
        /// `retry_after_ms`, `written` and what else a program may act on.
        details: Box<Map<String, Value>>,
        /// Whether a try may have been applied, in whole or in part.
        may_have_applied: bool,
    },
    /// NATS answers, but no daemon serves the subject for this account.
    #[error("no daemon serves {subject}")]
    NoDaemon {
        /// The subject that has no listener.
        subject: String,
        /// Whether an earlier try may have been applied.
        may_have_applied: bool,
    },
    /// No answer came in time. NATS is silent about a refused publish too, unless [`Signals`] are
    /// tapped: the permission for the subject may be missing.
    ///
    /// [`Signals`]: crate::Signals
    #[error("no answer from {subject}; a missing permission to publish looks the same")]
    NoAnswer {
        /// The subject that was asked.
        subject: String,
    },
    /// NATS refused to publish or to subscribe.
    #[error("NATS permission missing for {subject}")]
    Permission {
        /// The subject that the login has no permission for.
        subject: String,
        /// Whether an earlier try may have been applied.
        may_have_applied: bool,
    },
    /// The link to NATS is down, or broke while the request was under way.
    #[error("disconnected from NATS")]
    Disconnected {
        /// Whether the request had been sent.
        may_have_applied: bool,
    },
    /// The object was closed, or the client of NATS has ended for good.
    #[error("closed")]
    Closed,
    /// An answer that the contract does not know.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl Error {
    pub(crate) fn invalid_id(text: &str) -> Self {
        let shown: String = text.chars().take(40).collect();
        Self::invalid("invalid_id", &format!("{shown:?} is not 1 to 255 bytes without controls"))
    }

    /// A refusal by the library itself: nothing was sent.
    pub(crate) fn invalid(code: &str, message: &str) -> Self {
        Self::Refused {
            code: code.to_owned(),
            message: message.to_owned(),
            details: Box::default(),
            may_have_applied: false,
        }
    }

    /// The code of the contract, or the kind of the error where the contract has none.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } | Self::Busy { code, .. } => code,
            other => other.kind(),
        }
    }

    /// The kind of the error, under the name that it has in the clients of all languages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Busy { .. } => "busy",
            Self::NoDaemon { .. } => "no_daemon",
            Self::NoAnswer { .. } => "no_answer",
            Self::Permission { .. } => "permission",
            Self::Disconnected { .. } => "disconnected",
            Self::Closed => "closed",
            Self::Malformed(_) => "malformed",
        }
    }

    /// The field at fault, if the daemon named one: as the caller gave it, whatever request it rode
    /// in. Of several users it begins with the place of one, such as `users[3].`.
    pub fn field(&self) -> Option<&str> {
        self.detail("field")?.as_str()
    }

    /// The accepted number, if the daemon named a limit.
    pub fn limit(&self) -> Option<u64> {
        self.detail("limit")?.as_u64()
    }

    pub(crate) fn retry_after_ms(&self) -> u64 {
        self.detail("retry_after_ms").and_then(Value::as_u64).unwrap_or(0)
    }

    fn detail(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Refused { details, .. } | Self::Busy { details, .. } => details.get(name),
            _ => None,
        }
    }

    /// Returns whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::NoDaemon { .. }
                | Self::NoAnswer { .. }
                | Self::Disconnected { .. }
        )
    }

    /// Returns whether an object that is kept alive tries again: one garbled answer is no reason to
    /// end it.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_retryable() || matches!(self, Self::Malformed(_))
    }

    /// Returns whether the operation may have had its effect, in whole or in part.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::Refused { may_have_applied, .. }
            | Self::Busy { may_have_applied, .. }
            | Self::NoDaemon { may_have_applied, .. }
            | Self::Permission { may_have_applied, .. }
            | Self::Disconnected { may_have_applied } => *may_have_applied,
            Self::NoAnswer { .. } | Self::Malformed(_) => true,
            Self::Closed => false,
        }
    }

    /// The same error of an operation of which an earlier try may have been applied.
    pub(crate) fn after(mut self, earlier_may_have_applied: bool) -> Self {
        if let Self::Refused { may_have_applied, .. }
        | Self::Busy { may_have_applied, .. }
        | Self::NoDaemon { may_have_applied, .. }
        | Self::Permission { may_have_applied, .. }
        | Self::Disconnected { may_have_applied } = &mut self
        {
            *may_have_applied |= earlier_may_have_applied;
        }
        self
    }

    /// The same error of a change of one user: without the place of that user in the request, which
    /// the caller does not see.
    pub(crate) fn of_one_user(mut self) -> Self {
        let Some(field) = self.field().map(str::to_owned) else { return self };
        let own = own_field(&field);
        if let Self::Refused { message, details, .. } | Self::Busy { message, details, .. } =
            &mut self
            && own != field
        {
            *message = message.replace(&field, own);
            details.insert("field".to_owned(), own.into());
        }
        self
    }

    /// Reads the `error` of a body, with the status of the header if there was one.
    pub(crate) fn of_reply(status: Option<u16>, error: &Value) -> Self {
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        let details = error["details"].as_object().cloned().unwrap_or_default().into();
        let status = match (code.as_str(), status) {
            ("contended", _) => 409,
            ("overloaded", _) => 429,
            ("unavailable", _) => 503,
            (_, Some(status)) => status,
            (_, None) => 400,
        };
        match status {
            409 | 429 | 500.. => {
                let may_have_applied = status != 429;
                Self::Busy { code, message, details, may_have_applied }
            }
            _ => Self::Refused { code, message, details, may_have_applied: false },
        }
    }
}

/// A field without `ops[…].` and `users[0].` or `user.` before it.
fn own_field(field: &str) -> &str {
    let in_op = field.strip_prefix("ops[").and_then(|rest| rest.split_once("]."));
    let in_op = in_op.filter(|(index, _)| index.bytes().all(|byte| byte.is_ascii_digit()));
    let field = in_op.map_or(field, |(_, rest)| rest);
    let own = field.strip_prefix("users[0].").or_else(|| field.strip_prefix("user."));
    own.filter(|own| !own.is_empty()).unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_as_the_caller_gave_it() {
        for (field, own) in [
            ("ops[17].users[0].team", "team"),
            ("ops[0].user.status", "status"),
            ("ops[2].device", "device"),
            ("users[0].address.street", "address.street"),
            ("user.user.x", "user.x"),
            ("users[3].team", "users[3].team"),
            ("ops[x].team", "ops[x].team"),
            ("user.", "user."),
            ("defaults.team", "defaults.team"),
        ] {
            assert_eq!(own_field(field), own);
        }
    }
}
