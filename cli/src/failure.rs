//! The reason why a command did not succeed, its exit code, and the next step for its user.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use presenced_client::Error;

/// Exit codes: from 64 to 78 those of sysexits.h.
pub mod code {
    pub const REFUSED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_SO: u8 = 3;
    pub const NO_INPUT: u8 = 66;
    pub const UNREACHABLE: u8 = 69;
    pub const NO_OUTPUT: u8 = 73;
    pub const IO: u8 = 74;
    pub const DENIED: u8 = 77;
    pub const CONTEXT: u8 = 78;
    pub const INTERRUPTED: u8 = 130;

    /// As the help and the manual pages name them.
    pub const MEANINGS: [(u8, &str); 11] = [
        (0, "done"),
        (REFUSED, "refused; the code stands on standard error"),
        (USAGE, "a command line that cannot be understood"),
        (NOT_SO, "not there, or not so in time"),
        (NO_INPUT, "a file that cannot be read"),
        (UNREACHABLE, "NATS or the daemons cannot be reached"),
        (NO_OUTPUT, "a file that cannot be written"),
        (IO, "a terminal, a pipe, a port or a program that cannot be used"),
        (DENIED, "login or permission; the line to grant stands on standard error"),
        (CONTEXT, "a context that cannot be used"),
        (INTERRUPTED, "Ctrl-C"),
    ];
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An error of the client of the service.
    #[error("{0}")]
    Presence(#[from] Error),
    /// The requested record does not exist, or the awaited state did not come about in time.
    #[error("{0}")]
    NotSo(String),
    /// The command line contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// NATS cannot be reached, or nobody serves.
    #[error("{0}")]
    Unreachable(String),
    /// NATS can be reached, and no daemon answers.
    #[error("NATS answers, but no daemon serves {0} here")]
    NoDaemon(String),
    /// NATS refuses the login.
    #[error("{0}")]
    Login(String),
    /// NATS refuses a subject.
    #[error("NATS permission missing for {0}")]
    Permission(String),
    /// The context of the connection, or a file that it names, cannot be used.
    #[error("{0}")]
    Context(String),
    /// A file of the command line that is to be read.
    #[error("cannot read {}: {error}", path.display())]
    NoInput { path: PathBuf, error: io::Error },
    /// A file of the command line that is to be written.
    #[error("cannot write {}: {error}", path.display())]
    NoOutput { path: PathBuf, error: io::Error },
    /// Something of this machine that is no file of the command line.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The result of `check`, which has been printed.
    #[error("")]
    Check(u8),
    /// Ctrl-C.
    #[error("")]
    Interrupted,
}

impl Failure {
    pub fn not_so(text: impl Display) -> Self {
        Self::NotSo(text.to_string())
    }

    pub fn usage(text: impl Display) -> Self {
        Self::Usage(text.to_string())
    }

    pub fn context(text: impl Display) -> Self {
        Self::Context(text.to_string())
    }

    /// The failure to read a file.
    pub fn reading(path: &Path) -> impl Fn(io::Error) -> Self {
        |error| Self::NoInput { path: path.to_owned(), error }
    }

    /// The failure to write a file.
    pub fn writing(path: &Path) -> impl Fn(io::Error) -> Self {
        |error| Self::NoOutput { path: path.to_owned(), error }
    }

    /// The same failure, where its stream is this file.
    pub fn of_output(self, path: &Path) -> Self {
        match self {
            Self::Io(error) => Self::writing(path)(error),
            other => other,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Presence(Error::Refused { code, .. }) if code.ends_with("_not_found") => {
                code::NOT_SO
            }
            Self::Presence(Error::Permission { .. }) | Self::Permission(_) | Self::Login(_) => {
                code::DENIED
            }
            Self::Presence(error) if error.is_retryable() || *error == Error::Closed => {
                code::UNREACHABLE
            }
            Self::Presence(_) => code::REFUSED,
            Self::NoInput { .. } => code::NO_INPUT,
            Self::NoOutput { .. } => code::NO_OUTPUT,
            Self::Io(_) => code::IO,
            Self::NotSo(_) => code::NOT_SO,
            Self::Usage(_) => code::USAGE,
            Self::Unreachable(_) | Self::NoDaemon(_) => code::UNREACHABLE,
            Self::Context(_) => code::CONTEXT,
            Self::Check(code) => *code,
            Self::Interrupted => code::INTERRUPTED,
        }
    }

    /// Returns whether there is nothing to say: the reader of a pipe has gone, or the user knows
    /// already.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Check(_) | Self::Interrupted) || self.is_broken_pipe()
    }

    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// In one text with its advice.
    pub fn with_advice(&self, events: &str) -> String {
        match self.advice(events) {
            Some(advice) => format!("{self}. {advice}"),
            None => self.to_string(),
        }
    }

    /// The advice that removes the cause. `events` is the prefix of events.
    pub fn advice(&self, events: &str) -> Option<String> {
        Some(match self {
            Self::Presence(Error::NoDaemon { subject, .. }) => format!(
                "NATS answers, but no daemon serves {subject} here. See `presencectl daemons`; \
                 or the account lacks the import, or `--prefix` is another."
            ),
            Self::Presence(Error::NoAnswer { .. }) => "Try again with a longer --timeout; see \
                 whether `presencectl daemons` answers."
                .to_owned(),
            Self::Presence(Error::Permission { subject, .. }) | Self::Permission(subject) => {
                advise_grant(subject, events)
            }
            Self::Presence(error @ Error::Busy { .. }) if error.may_have_applied() => {
                "It may have been applied in part; the same command may be repeated.".to_owned()
            }
            Self::NoDaemon(_) => "The account may lack the import, or --prefix is another; see \
                 whether a daemon runs."
                .to_owned(),
            Self::Unreachable(_) => "Name the server with --server or NATS_URL, or a context of \
                 the nats command with --context."
                .to_owned(),
            Self::Login(_) => "Give a login with --creds, --nkey, --user or --token, or a context \
                 of the nats command with --context."
                .to_owned(),
            Self::Context(_) => {
                "Mend the flag, the variable, or the context that names it (`nats context edit`); \
                 --no-context leaves the context aside."
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// The shipped configuration gives each login inboxes of its own. A login that may hear `_INBOX.>`
/// hears the answers to all.
fn advise_grant(subject: &str, events: &str) -> String {
    let line = grant(subject, events);
    if subject.starts_with("_INBOX.") {
        format!(
            "Name the inboxes of this login with --inbox-prefix, such as _INBOX_ann. If it shares \
             none with others, grant it: {line}"
        )
    } else {
        format!("Grant it to this login: {line}")
    }
}

/// The line of nats-server's configuration that allows a subject.
fn grant(subject: &str, events: &str) -> String {
    let inbox = subject.starts_with("_INBOX");
    if inbox || subject.starts_with(events) {
        let subject = if inbox { inbox_of(subject) } else { subject.to_owned() };
        format!("subscribe: {{ allow: [\"{subject}\"] }}")
    } else {
        format!("publish: {{ allow: [\"{subject}\"] }}")
    }
}

/// All answers of a login: the prefix of its inboxes without what is random.
fn inbox_of(subject: &str) -> String {
    format!("{}.>", subject.split('.').next().unwrap_or(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(subject: &str) -> Failure {
        Error::Permission { subject: subject.to_owned(), may_have_applied: false }.into()
    }

    #[test]
    fn each_exit_code_stands_on_the_page() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/presencectl.md");
        let page = std::fs::read_to_string(page).unwrap();
        for (code, meaning) in code::MEANINGS {
            let row = format!("| {code} | {meaning} |");
            assert!(page.lines().any(|line| line == row), "{row}");
        }
    }

    #[test]
    fn a_missing_permission_is_named_as_the_line_that_grants_it() {
        let advice = |subject| permission(subject).advice("user.presence.changed").unwrap();
        assert!(
            advice("presence.v1.explain").contains(r#"publish: { allow: ["presence.v1.explain"#)
        );
        let events = "user.presence.changed.john";
        assert!(advice(events).contains(&format!("subscribe: {{ allow: [\"{events}\"]")));
        assert!(advice("_INBOX.abc.1").contains("--inbox-prefix"));
        assert!(advice("_INBOX_ann.abc.1").contains(r#"subscribe: { allow: ["_INBOX_ann.>"]"#));
    }
}
