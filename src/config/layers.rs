//! The sources of settings, each as one layer with a name. From the lowest: defaults, the customary
//! `NATS_…` variables, the file, `PRESENCED_…` variables, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::ConfigError;
use super::keys::{self, CHANNEL_TYPE_KEYS, CHANNEL_TYPES, KEYS, LOGIN, Preset};
use super::read::Reader;

/// Read when no other file is named; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/presenced/presenced.toml";

/// The variable in which systemd names the folder of the credentials of the service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

const PREFIX: &str = "PRESENCED_";

/// Variables that other NATS programs honour too, and the settings that they stand for.
const CUSTOMARY: [(&str, &str); 6] = [
    ("NATS_URL", "nats.url"),
    ("NATS_CREDS", "nats.creds"),
    ("NATS_NKEY", "nats.nkey"),
    ("NATS_USER", "nats.user"),
    ("NATS_PASSWORD", "nats.password"),
    ("NATS_TOKEN", "nats.token"),
];

/// Settings from the command line: the flag as the user wrote it, the key it sets, the value. There
/// is no `Debug`: a value may be a secret.
#[derive(Clone, Default)]
pub struct Flags(Vec<(String, String, String)>);

impl Flags {
    /// Sets `key` (dotted) to `value`, read as in the environment. `flag` is what an error names.
    pub fn set(mut self, flag: &str, key: &str, value: impl Into<String>) -> Self {
        self.0.push((flag.to_owned(), key.to_owned(), value.into()));
        self
    }
}

/// The environment, as a parameter, so that tests need not share that of the process.
pub(super) type Environment = BTreeMap<String, String>;

pub(super) fn environment() -> Environment {
    std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect()
}

/// Joins all layers. Each is checked for unknown keys on its own, so that a mistake in one is not
/// hidden by another that lies above it.
pub(super) fn gather(
    config: Option<&Path>,
    environment: &Environment,
    flags: &Flags,
) -> Result<Reader, ConfigError> {
    let mut ours = Vec::new();
    ours.extend(file(config)?);
    ours.extend(variables(environment)?);
    ours.extend(flags.0.iter().map(|(flag, key, value)| Layer::of(flag.clone(), key, value)));
    for layer in &ours {
        layer.check()?;
    }
    let logged_in = ours.iter().any(Layer::has_login);
    let lower = customary(environment, logged_in);
    let figment = lower.into_iter().chain(ours).fold(defaults(), Figment::merge);
    Ok(Reader::new(figment, environment.get(CREDENTIALS).map(PathBuf::from)))
}

/// Only the defaults.
pub(super) fn defaults() -> Figment {
    Figment::from(Layer { origin: "the defaults".to_owned(), dict: keys::defaults() })
}

/// One source of settings.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Layer {
    /// A layer of one setting, given as text.
    fn of(origin: String, key: &str, text: &str) -> Self {
        let path: Vec<_> = match key.split_once('.') {
            // A channel type may contain dots itself, its settings do not.
            Some((section @ CHANNEL_TYPES, rest)) => match rest.rsplit_once('.') {
                Some((name, key)) => vec![section, name, key],
                None => vec![section, rest],
            },
            _ => key.splitn(2, '.').collect(),
        };
        let as_it_stands = matches!(keys::preset(key), Some(Preset::Text(_) | Preset::Nothing));
        let value = match as_it_stands {
            true => Value::from(text),
            false => text.parse().unwrap_or_else(|_| Value::from(text)),
        };
        let mut dict = Dict::new();
        keys::insert(&mut dict, &path, value);
        Self { origin, dict }
    }

    fn has_login(&self) -> bool {
        let Some(nats) = self.dict.get("nats").and_then(Value::as_dict) else { return false };
        let by_url = match nats.get("url") {
            Some(Value::String(_, url)) => url.contains('@'),
            Some(Value::Array(_, urls)) => {
                urls.iter().filter_map(Value::as_str).any(|url| url.contains('@'))
            }
            _ => false,
        };
        by_url || LOGIN.iter().any(|key| nats.contains_key(&key["nats.".len()..]))
    }

    /// Refuses sections and keys that do not exist.
    fn check(&self) -> Result<(), ConfigError> {
        for (section, value) in &self.dict {
            if !keys::sections().contains(&section.as_str()) {
                return Err(self.unknown(section, "section", &keys::sections()));
            }
            let known = keys::keys_of(section);
            for (key, value) in self.table(section, value)? {
                let name = format!("{section}.{key}");
                if section == CHANNEL_TYPES {
                    let inner = self.table(&name, value)?;
                    if let Some(key) =
                        inner.keys().find(|key| !CHANNEL_TYPE_KEYS.contains(&key.as_str()))
                    {
                        let name = format!("{name}.{key}");
                        return Err(self.unknown(&name, "key", &CHANNEL_TYPE_KEYS));
                    }
                } else if !known.contains(&key.as_str()) {
                    return Err(self.unknown(&name, "key", &known));
                }
            }
        }
        Ok(())
    }

    fn table<'a>(&self, key: &str, value: &'a Value) -> Result<&'a Dict, ConfigError> {
        value.as_dict().ok_or_else(|| ConfigError::Unacceptable {
            key: key.to_owned(),
            origin: self.origin.clone(),
            found: Some("a single value".to_owned()),
            must: format!("a section: [{key}]"),
        })
    }

    fn unknown(&self, key: &str, what: &str, known: &[&str]) -> ConfigError {
        ConfigError::Unknown {
            key: key.to_owned(),
            origin: self.origin.clone(),
            accepted: format!("known here as a {what}: {}", known.join(", ")),
        }
    }
}

/// The layer of the file: the one that was named must exist, the default one may be absent.
fn file(config: Option<&Path>) -> Result<Option<Layer>, ConfigError> {
    let path = config.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(toml(path, &text)?)),
        Err(error) if config.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError::Unreadable { path: path.to_owned(), error }),
    }
}

fn toml(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let dict = toml::from_str(text).map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError::Syntax {
            path: PathBuf::from(path),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            // The parser puts the expectation on a second line.
            message: error.message().replace('\n', "; "),
        }
    })?;
    Ok(Layer { origin: path.display().to_string(), dict })
}

/// The `PRESENCED_<SECTION>__<KEY>` variables, one layer each, so that an error can name the one.
///
/// A name without `__` is ignored: container platforms add such names (`PRESENCED_PORT`) beside a
/// service called presenced. The exception is the name of a setting that lacks the doubled
/// underscore, which is a mistake.
fn variables(environment: &Environment) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let lower = rest.to_lowercase();
        if lower.contains("__") {
            layers.push(Layer::of(name.clone(), &lower.replace("__", "."), value));
        } else if let Some((key, _)) = KEYS.iter().find(|(key, _)| key.replace('.', "_") == lower) {
            return Err(ConfigError::Unknown {
                key: name.clone(),
                origin: "the environment".to_owned(),
                accepted: format!("{key} is {PREFIX}{}", key.replace('.', "__").to_uppercase()),
            });
        }
    }
    Ok(layers)
}

/// The customary variables. Those of a login count only where no other layer has a login. Two ways
/// to log in are an error, and the environment may be meant for other programs.
fn customary(environment: &Environment, logged_in: bool) -> Vec<Layer> {
    CUSTOMARY
        .iter()
        .filter(|(_, key)| !(logged_in && LOGIN.contains(key)))
        .filter_map(|(name, key)| {
            let value = environment.get(*name).filter(|value| !value.is_empty())?;
            Some(Layer::of((*name).to_owned(), key, value))
        })
        .collect()
}
