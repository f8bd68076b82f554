//! Errors in the settings. Every message names the source, the key and the accepted values; none
//! shows a secret.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The reason why the settings were refused. A daemon that gets one does not start (exit code 78).
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },

    /// Without the line that the parser quotes, as it may hold a password.
    #[error("{} is not valid TOML: line {line}, column {column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },

    /// The key is shown with escapes: an invisible character may be all that is wrong with it.
    #[error("{} in {origin} is not a setting; {accepted}", key.escape_debug())]
    Unknown { key: String, origin: String, accepted: String },

    /// `found` is the value as it was written; it is absent where it is secret.
    #[error("{key}{} in {origin}, but must be {must}", is(found))]
    Unacceptable { key: String, origin: String, found: Option<String>, must: String },

    #[error("{first} and {second} are both set, but only one of them may be: {why}")]
    Exclusive { first: String, second: String, why: &'static str },

    #[error("{present} is set, but {missing} is not: {why}")]
    Incomplete { present: String, missing: &'static str, why: &'static str },
}

fn is(found: &Option<String>) -> String {
    match found {
        Some(found) => format!(" is {found}"),
        None => " is something else (not shown)".to_owned(),
    }
}
