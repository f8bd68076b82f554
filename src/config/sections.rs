//! The rules of each section, with the range of every number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use figment::value::{Dict, Value};
use humantime::format_duration;
use tracing_subscriber::EnvFilter;

use super::error::ConfigError;
use super::keys::CHANNEL_TYPES;
use super::read::Reader;
use super::subjects::is_name;
use super::{
    ChannelType, Limits, Liveness, Log, LogFormat, Metrics, Runtime, Storage, Store, Users,
};
use crate::presence::field::Kind;
use crate::presence::id::Id;
use crate::presence::user::AnnouncedFields;

/// The name of a bucket becomes part of the name of a stream. The server keeps the stream in a
/// folder of that name: at most 255 bytes.
const MAX_BUCKET_BYTES: usize = 128;

/// A bucket that holds at least some thousand users.
const MIN_STORE_BYTES: usize = 1 << 20;

/// The largest size that JetStream can express.
const MAX_STORE_BYTES: usize = i64::MAX as usize;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// As `humantime` reads and writes it.
const YEAR: Duration = Duration::from_secs(31_557_600);

impl Store {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let must = format!("1 to {MAX_BUCKET_BYTES} characters of [A-Za-z0-9_-]");
        Ok(Self {
            bucket: reader.parsed("store.bucket", &must, |text| {
                (is_name(text) && text.len() <= MAX_BUCKET_BYTES).then(|| text.to_owned())
            })?,
            replicas: reader.count("store.replicas", 1..=5)?,
            storage: reader.parsed(
                "store.storage",
                "\"file\" or \"memory\"",
                |text| match text {
                    "file" => Some(Storage::File),
                    "memory" => Some(Storage::Memory),
                    _ => None,
                },
            )?,
            max_bytes: read_max_bytes(reader)?,
            marker_age: reader.duration("store.marker_age", SECOND..=DAY)?,
        })
    }
}

fn read_max_bytes(reader: &Reader) -> Result<Option<u64>, ConfigError> {
    let key = "store.max_bytes";
    let bytes = reader.count(key, 0..=MAX_STORE_BYTES)?;
    match bytes {
        0 => Ok(None),
        MIN_STORE_BYTES.. => Ok(Some(bytes as u64)),
        _ => Err(reader.refusal(key, format!("0 (unlimited) or at least {MIN_STORE_BYTES}"))),
    }
}

impl Liveness {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let liveness = Self {
            heartbeat_interval: reader.duration("liveness.heartbeat_interval", 100 * MS..=HOUR)?,
            lease: reader.duration("liveness.lease", 200 * MS..=DAY)?,
            offline_grace: reader.duration("liveness.offline_grace", Duration::ZERO..=HOUR)?,
            last_active_refresh: reader.duration("liveness.last_active_refresh", SECOND..=DAY)?,
        };
        // With a shorter lease the loss of one heartbeat would end connections.
        let least = 2 * liveness.heartbeat_interval;
        if liveness.lease < least {
            let least = format_duration(least);
            return Err(reader.refusal(
                "liveness.lease",
                format!("at least 2 × liveness.heartbeat_interval ({least})"),
            ));
        }
        Ok(liveness)
    }
}

impl Users {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let key = "users.announced_fields";
        let must = format!("[\"*\"] for all custom fields, or {}", custom_names());
        let fields = reader.texts(key, &must)?;
        let announced_fields = match fields.as_slice() {
            [all] if all == "*" => AnnouncedFields::All,
            _ if fields.iter().all(|field| is_custom(field)) => {
                AnnouncedFields::Listed(fields.into_iter().collect())
            }
            _ => return Err(reader.refusal(key, must)),
        };
        let forget_after =
            reader.duration_if_set("users.forget_after", SECOND..=100 * YEAR, "90days")?;
        let allow_invisible = reader.flag("users.allow_invisible")?;
        Ok(Self { announced_fields, allow_invisible, forget_after })
    }
}

impl Limits {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        Ok(Self {
            request_timeout: reader.duration("limits.request_timeout", 100 * MS..=MINUTE)?,
            connections_per_user: reader.count("limits.connections_per_user", 1..=1_000)?,
            trusted_fields: read_trusted_fields(reader)?,
            pending_requests: reader.count("limits.pending_requests", 1..=1_000_000)?,
            concurrent_scans: reader.count("limits.concurrent_scans", 1..=64)?,
            pending_scans: reader.count("limits.pending_scans", 1..=10_000)?,
        })
    }
}

fn read_trusted_fields(reader: &Reader) -> Result<BTreeSet<String>, ConfigError> {
    let key = "limits.trusted_fields";
    let must = custom_names();
    let fields = reader.texts(key, &must)?;
    match fields.iter().all(|field| is_custom(field)) {
        true => Ok(fields.into_iter().collect()),
        false => Err(reader.refusal(key, must)),
    }
}

/// The accepted entries of a list of custom fields.
fn custom_names() -> String {
    format!(
        "a list of names of custom fields: not empty, not beginning with $, and none of {}",
        Kind::Users.reserved().join(", ")
    )
}

fn is_custom(field: &str) -> bool {
    !field.is_empty() && !field.starts_with('$') && !Kind::Users.reserved().contains(&field)
}

impl Log {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let must = "a level (off, error, warn, info, debug, trace) or directives such as \
                    \"info,presenced=debug\"";
        Ok(Self {
            level: reader
                .parsed("log.level", must, |text| is_filter(text).then(|| text.to_owned()))?,
            format: reader.parsed("log.format", "\"text\" or \"json\"", |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            })?,
        })
    }
}

/// A single word that is no level would be taken for the name of a module, and log nothing.
fn is_filter(text: &str) -> bool {
    let meant = |directive: &str| {
        directive.contains('=') || LEVELS.contains(&directive.trim().to_lowercase().as_str())
    };
    text.split(',').all(meant) && EnvFilter::try_new(text).is_ok()
}

impl Metrics {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let (key, must) = ("metrics.listen", "an address and a port, such as \"127.0.0.1:9464\"");
        let listen = match reader.text(key, must)? {
            Some(text) => Some(text.parse().map_err(|_| reader.refusal(key, must))?),
            None => None,
        };
        Ok(Self { listen })
    }
}

impl Runtime {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let threads = reader.count("runtime.threads", 0..=256)?;
        Ok(Self { threads: (threads > 0).then_some(threads) })
    }
}

/// A type without presence has no counts to announce.
fn read_occupancy_interval(
    reader: &Reader,
    section: &str,
    settings: &Dict,
) -> Result<Option<Duration>, ConfigError> {
    let Some(value) = settings.get("occupancy_interval") else { return Ok(None) };
    let interval = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    let interval = interval.filter(|interval| (100 * MS..=HOUR).contains(interval));
    let has_presence = !matches!(settings.get("presence"), Some(Value::Bool(_, false)));
    let must = match (interval, has_presence) {
        (Some(interval), true) => return Ok(Some(interval)),
        (Some(_), false) => "absent where `presence` is false",
        (None, _) => "a duration from \"100ms\" to \"1h\", such as \"1s\"",
    };
    Err(reader.refusal_of(&format!("{section}.occupancy_interval"), value, must))
}

pub(super) fn read_channel_types(
    reader: &Reader,
) -> Result<BTreeMap<String, ChannelType>, ConfigError> {
    let mut types = BTreeMap::new();
    for (name, settings) in reader.channel_types() {
        let section = format!("{CHANNEL_TYPES}.{name:?}");
        if name.contains(':') || Id::parse(&name, CHANNEL_TYPES).is_err() {
            return Err(reader.refusal(
                CHANNEL_TYPES,
                format!(
                    "keyed by channel types, and {name:?} is none: 1 to 255 bytes without control \
                     characters and without `:`"
                ),
            ));
        }
        let flag = |key: &str, default: bool| match settings.get(key) {
            None => Ok(default),
            Some(Value::Bool(_, flag)) => Ok(*flag),
            Some(value) => {
                Err(reader.refusal_of(&format!("{section}.{key}"), value, "true or false"))
            }
        };
        let default = ChannelType::default();
        let channel_type = ChannelType {
            presence: flag("presence", default.presence)?,
            client_create: flag("client_create", default.client_create)?,
            occupancy_interval: read_occupancy_interval(reader, &section, &settings)?,
        };
        types.insert(name, channel_type);
    }
    Ok(types)
}
