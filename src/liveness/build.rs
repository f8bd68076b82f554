//! The version and the machine of a daemon, for the log of the others.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::version::VERSION;

/// Where a daemon runs, and what it is. Daemons of older versions do not tell all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub version: String,
}

impl Build {
    /// That of this daemon.
    pub fn own() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, version: VERSION.to_owned() }
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
        write!(f, "version {} on {}", known(&self.version), known(&self.host))
    }
}
