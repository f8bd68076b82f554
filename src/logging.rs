//! Where the log goes: to standard error, one line for each event.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process. To be called once, by a binary.
pub fn init(settings: &Log) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(&settings.level)))
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    match settings.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

/// The NATS client tells of its connection too, at INFO and, for each attempt anew, at ERROR; we
/// have told it already in our own words and measure. A lone level above DEBUG therefore leaves
/// that out; whoever gives directives, or DEBUG, wants all.
fn directives(level: &str) -> String {
    match level.to_lowercase().as_str() {
        "info" => format!("{level},async_nats=warn,async_nats::connector=off"),
        "warn" | "error" => format!("{level},async_nats::connector=off"),
        _ => level.to_owned(),
    }
}
