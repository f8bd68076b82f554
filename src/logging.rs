//! The log: one line on standard error for each event.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// The level of the log, which can be changed.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Level")
    }
}

impl Level {
    fn of<S: 'static>(handle: Handle<EnvFilter, S>) -> Self {
        Self(Box::new(move |filter| handle.reload(filter)))
    }

    /// Applies `settings.level`.
    pub fn set(&self, settings: &Log) {
        if let Err(error) = (self.0)(filter(settings)) {
            tracing::error!(%error, "the log level could not be changed");
        }
    }
}

/// Starts the log of the whole process. To be called once, by a binary.
pub fn init(settings: &Log) -> Level {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(settings))
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    match settings.format {
        LogFormat::Text => {
            let subscriber = subscriber.with_filter_reloading();
            let level = Level::of(subscriber.reload_handle());
            subscriber.finish().init();
            level
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_filter_reloading();
            let level = Level::of(subscriber.reload_handle());
            subscriber.finish().init();
            level
        }
    }
}

fn filter(settings: &Log) -> EnvFilter {
    EnvFilter::new(directives(&settings.level))
}

/// The NATS client logs its connection too, at INFO, and each failed attempt at ERROR. The daemon
/// logs the same once. Unless the directives name the client, it is therefore left out below DEBUG.
fn directives(level: &str) -> String {
    let general = level.split(',').map(str::trim).find(|directive| !directive.contains('='));
    if level.contains("async_nats") {
        return level.to_owned();
    }
    match general.map(str::to_lowercase).as_deref() {
        Some("info") => format!("{level},async_nats=warn,async_nats::connector=off"),
        Some("warn" | "error") => format!("{level},async_nats::connector=off"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_library_is_quiet_unless_it_is_named_or_everything_is_logged() {
        assert!(directives("info,presenced=debug").contains("async_nats=warn"));
        assert!(directives("Info").contains("async_nats=warn"));
        assert_eq!(directives("info,async_nats=debug"), "info,async_nats=debug");
        assert_eq!(directives("debug"), "debug");
    }
}
