//! Raw settings in, settings that cannot be wrong out. All values of a [`Settings`] are checked; no
//! other module reads a file of settings or the environment.
//!
//! In reading order: `keys` (all settings, with defaults), `layers` (the sources of values), `read`
//! (one value at a time), `nats`, `subjects`, `sections` (the rules of each), `sources` (reading
//! them again).

mod error;
mod keys;
mod layers;
mod nats;
mod read;
mod secret;
mod sections;
mod sources;
mod subjects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub use error::ConfigError;
pub use layers::{DEFAULT_FILE, Flags};
pub use nats::{Auth, Nats, TlsIdentity};
pub use secret::Secret;
pub use sources::{Loaded, Sources};
pub use subjects::{INTERNAL, Subjects};

use crate::presence::user::AnnouncedFields;
use read::Reader;

/// All settings of a daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    pub nats: Nats,
    pub subjects: Subjects,
    pub store: Store,
    pub liveness: Liveness,
    pub users: Users,
    pub limits: Limits,
    /// By name. A type that is not named here has [`ChannelType::default`].
    pub channel_types: BTreeMap<String, ChannelType>,
    pub log: Log,
    pub metrics: Metrics,
    pub runtime: Runtime,
}

/// The bucket that holds the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub bucket: String,
    /// The number of servers that hold the bucket; 1 to 5.
    pub replicas: usize,
    pub storage: Storage,
    /// The largest size of the bucket in bytes; unlimited if absent.
    pub max_bytes: Option<u64>,
    /// For how long the marker of a deletion is kept.
    pub marker_age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    File,
    Memory,
}

/// The settings that decide when users count as offline (section 4 of the protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    pub heartbeat_interval: Duration,
    /// At least two heartbeat intervals.
    pub lease: Duration,
    /// With zero a user is offline at the end of the last connection.
    pub offline_grace: Duration,
    pub last_active_refresh: Duration,
}

/// The rights of users, and the announced fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// The custom fields that belong to what is announced.
    pub announced_fields: AnnouncedFields,
    /// Whether a user's own client may make the user invisible.
    pub allow_invisible: bool,
    /// A user who is offline and was not touched for so long is deleted; never if absent.
    pub forget_after: Option<Duration>,
}

/// Limits on everything that can grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request is applied within this time after it arrived, or never.
    pub request_timeout: Duration,
    pub connections_per_user: usize,
    /// Custom fields that only trusted services may set. None is a reserved name.
    pub trusted_fields: BTreeSet<String>,
    /// Requests taken and not yet answered; each user in one counts.
    pub pending_requests: usize,
    /// Queries that look at every record, running at once.
    pub concurrent_scans: usize,
    /// Such queries, running or waiting for their turn.
    pub pending_scans: usize,
}

/// The settings of a channel type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelType {
    /// Whether members may be watched.
    pub presence: bool,
    /// Whether a user's own client may make a channel.
    pub client_create: bool,
    /// At most how often the number of members online is announced; never if absent.
    pub occupancy_interval: Option<Duration>,
}

impl Default for ChannelType {
    fn default() -> Self {
        Self { presence: true, client_create: false, occupancy_interval: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives as `tracing_subscriber::EnvFilter` takes them.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address at which metrics are served; nowhere if absent.
    pub listen: Option<SocketAddr>,
}

/// The daemon's use of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Threads that carry out the daemon's tasks; as many as cores, up to a bound, if absent.
    pub threads: Option<usize>,
}

impl Settings {
    /// Reads and checks all layers. `config` is the file that was named, if one was.
    pub fn load(config: Option<&Path>, flags: Flags) -> Result<Self, ConfigError> {
        Ok(Sources::new(config, flags).load()?.settings)
    }

    /// Like [`Settings::load`], and lists every setting as it counts, with its origin and without
    /// secrets, a line each.
    pub fn load_listed(config: Option<&Path>, flags: Flags) -> Result<(Self, String), ConfigError> {
        let loaded = Sources::new(config, flags).load()?;
        let listing = loaded.listing();
        Ok((loaded.settings, listing))
    }

    /// The settings of the channels of type `name`.
    pub fn channel_type(&self, name: &str) -> ChannelType {
        self.channel_types.get(name).copied().unwrap_or_default()
    }

    fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let nats = Nats::read(reader)?;
        Ok(Self {
            subjects: Subjects::read(reader, &nats.inbox_prefix)?,
            nats,
            store: Store::read(reader)?,
            liveness: Liveness::read(reader)?,
            users: Users::read(reader)?,
            limits: Limits::read(reader)?,
            channel_types: sections::read_channel_types(reader)?,
            log: Log::read(reader)?,
            metrics: Metrics::read(reader)?,
            runtime: Runtime::read(reader)?,
        })
    }
}

impl Default for Settings {
    /// Every setting at its default, independent of the environment.
    fn default() -> Self {
        Self::read(&Reader::new(layers::defaults(), None)).expect("the defaults are acceptable")
    }
}
