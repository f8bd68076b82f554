//! All settings by their dotted names, with their defaults. Channel types are separate: their
//! section is keyed by names that the operator chooses.

use figment::value::{Dict, Value};

/// The default of a setting. It also determines how a value from the environment is read: text is
/// taken literally, so that a password of digits stays text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Preset {
    /// Text without a default.
    Nothing,
    Text(&'static str),
    Number(u64),
    Flag(bool),
    EmptyList,
}

use Preset::{EmptyList, Flag, Nothing, Number, Text};

pub(super) const KEYS: &[(&str, Preset)] = &[
    ("nats.url", Text("nats://127.0.0.1:4222")),
    ("nats.creds", Nothing),
    ("nats.nkey", Nothing),
    ("nats.user", Nothing),
    ("nats.password", Nothing),
    ("nats.token", Nothing),
    ("nats.token_file", Nothing),
    ("nats.tls_first", Flag(false)),
    ("nats.tls_ca", Nothing),
    ("nats.tls_cert", Nothing),
    ("nats.tls_key", Nothing),
    ("nats.inbox_prefix", Text("_INBOX")),
    ("nats.js_domain", Nothing),
    ("nats.js_api_prefix", Nothing),
    ("subjects.prefix", Text("presence")),
    ("subjects.events", Text("user.presence.changed")),
    ("subjects.channel_events", Text("channel.presence.changed")),
    ("store.bucket", Text("presence")),
    ("store.replicas", Number(1)),
    ("store.storage", Text("file")),
    ("store.max_bytes", Number(0)),
    ("store.marker_age", Text("24h")),
    ("liveness.heartbeat_interval", Text("20s")),
    ("liveness.lease", Text("60s")),
    ("liveness.offline_grace", Text("5s")),
    ("liveness.last_active_refresh", Text("15m")),
    ("users.announced_fields", EmptyList),
    ("users.allow_invisible", Flag(true)),
    ("users.forget_after", Nothing),
    ("limits.request_timeout", Text("2s")),
    ("limits.connections_per_user", Number(50)),
    ("limits.trusted_fields", EmptyList),
    ("limits.pending_requests", Number(8_192)),
    ("limits.concurrent_scans", Number(1)),
    ("limits.pending_scans", Number(64)),
    ("log.level", Text("info")),
    ("log.format", Text("text")),
    ("metrics.listen", Nothing),
    ("runtime.threads", Number(0)),
];

/// The section keyed by channel type, and the settings of each type.
pub(super) const CHANNEL_TYPES: &str = "channel_types";
pub(super) const CHANNEL_TYPE_KEYS: [&str; 3] = ["presence", "client_create", "occupancy_interval"];

/// The settings of a login.
pub(super) const LOGIN: [&str; 6] =
    ["nats.creds", "nats.nkey", "nats.user", "nats.password", "nats.token", "nats.token_file"];

/// Returns whether a running daemon adopts a new value of `key`. `config/presenced.toml` marks
/// these keys.
pub(super) fn is_live(key: &str) -> bool {
    key == "log.level" || key.starts_with("limits.")
}

/// Returns whether a value of `key` may be shown. A path in `nats.nkey` may: a seed holds neither
/// of the characters that make text a path.
pub(super) fn may_show(key: &str, value: &Value) -> bool {
    match key {
        "nats.nkey" => value.as_str().is_some_and(|text| text.contains(['/', '.'])),
        "nats.password" | "nats.token" => false,
        _ => true,
    }
}

pub(super) fn preset(key: &str) -> Option<Preset> {
    KEYS.iter().find(|(name, _)| *name == key).map(|(_, preset)| *preset)
}

/// The sections, each once, in the order of [`KEYS`], and last the channel types.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> =
        KEYS.iter().filter_map(|(name, _)| Some(name.split_once('.')?.0)).collect();
    sections.dedup();
    sections.push(CHANNEL_TYPES);
    sections
}

/// The keys of one section, without its name.
pub(super) fn keys_of(section: &str) -> Vec<&'static str> {
    KEYS.iter()
        .filter_map(|(name, _)| name.split_once('.'))
        .filter_map(|(of, key)| (of == section).then_some(key))
        .collect()
}

/// The lowest layer of all.
pub(super) fn defaults() -> Dict {
    let mut dict = Dict::new();
    for (name, preset) in KEYS {
        let value = match *preset {
            Nothing => continue,
            Text(text) => Value::from(text),
            Number(number) => Value::from(number),
            Flag(flag) => Value::from(flag),
            EmptyList => Value::from(Vec::<Value>::new()),
        };
        insert(&mut dict, &name.split('.').collect::<Vec<_>>(), value);
    }
    dict
}

/// Puts `value` at `path`, making the tables on the way.
pub(super) fn insert(dict: &mut Dict, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            dict.insert((*key).to_owned(), value);
        }
        [section, rest @ ..] => {
            let inner = dict.entry((*section).to_owned()).or_insert_with(|| Dict::new().into());
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
