//! Settings that are read again while the daemon runs.

use std::path::{Path, PathBuf};

use super::Settings;
use super::error::ConfigError;
use super::keys::is_live;
use super::layers::{self, Flags};
use super::read::Reader;

/// The sources of settings beside the environment. There is no `Debug`: a flag may hold a secret.
#[derive(Clone, Default)]
pub struct Sources {
    config: Option<PathBuf>,
    flags: Flags,
}

/// Settings, and how they were written. There is no `Debug`, for the same reason.
pub struct Loaded {
    pub settings: Settings,
    pub(super) reader: Reader,
}

impl Sources {
    /// `config` is the file that was named, if one was.
    pub fn new(config: Option<&Path>, flags: Flags) -> Self {
        Self { config: config.map(Path::to_owned), flags }
    }

    /// Reads and checks all layers.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let environment = layers::environment();
        let reader = layers::gather(self.config.as_deref(), &environment, &self.flags)?;
        let settings = Settings::read(&reader)?;
        settings.nats.check_files(&reader)?;
        Ok(Loaded { settings, reader })
    }
}

impl Loaded {
    /// Every setting as it counts, with its origin and without secrets, a line each.
    pub fn listing(&self) -> String {
        self.reader.listing()
    }

    /// The settings that differ from `before` and that a running daemon adopts.
    pub fn live_changes(&self, before: &Self) -> Vec<&'static str> {
        self.changes(before, true)
    }

    /// The settings that differ from `before` and need a restart.
    pub fn fixed_changes(&self, before: &Self) -> Vec<&'static str> {
        self.changes(before, false)
    }

    fn changes(&self, before: &Self, live: bool) -> Vec<&'static str> {
        let differing = self.reader.differing(&before.reader).into_iter();
        differing.filter(|key| is_live(key) == live).collect()
    }
}
