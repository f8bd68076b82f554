//! Reads one setting at a time from the joined layers. Errors name the value, its source and the
//! accepted values.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};
use humantime::format_duration;

use super::error::ConfigError;
use super::keys::{self, CHANNEL_TYPES, KEYS};
use super::secret::without_login;

/// The prefix of a path among the credentials that systemd hands to the service, in the two ways in
/// which a variable is written.
const CREDENTIALS: [&str; 2] = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"];

/// The joined layers.
pub(super) struct Reader {
    figment: Figment,
    /// The folder of those credentials, where systemd sets one.
    credentials: Option<PathBuf>,
}

impl Reader {
    pub fn new(figment: Figment, credentials: Option<PathBuf>) -> Self {
        Self { figment, credentials }
    }

    /// The text of `key`, if there is one.
    pub fn text(&self, key: &str, must: &str) -> Result<Option<String>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(_, text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(self.refusal(key, must)),
        }
    }

    pub fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.text(key, "the path of a file")?;
        text.map(|text| self.file(key, &text)).transpose()
    }

    /// The path that `key` holds as text.
    pub fn file(&self, key: &str, text: &str) -> Result<PathBuf, ConfigError> {
        let mut names = CREDENTIALS.iter().filter_map(|prefix| text.strip_prefix(prefix));
        let Some(name) = names.next() else { return Ok(text.into()) };
        let credentials = self.credentials.as_ref().ok_or_else(|| {
            let must = "a path that can be resolved: systemd sets CREDENTIALS_DIRECTORY for \
                        a service with LoadCredential=, and it is not set";
            self.refusal(key, must)
        })?;
        Ok(credentials.join(name))
    }

    /// Text that `accept` understands.
    pub fn parsed<T>(
        &self,
        key: &str,
        must: &str,
        accept: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let text = self.text(key, must)?;
        text.and_then(|text| accept(&text)).ok_or_else(|| self.refusal(key, must))
    }

    /// A list of texts, or one text that holds several between commas.
    pub fn texts(&self, key: &str, must: &str) -> Result<Vec<String>, ConfigError> {
        let texts = match self.value(key) {
            Some(Value::Array(_, items)) => {
                items.into_iter().map(|item| item.into_string()).collect()
            }
            Some(Value::String(_, text)) => {
                Some(text.split(',').map(|item| item.trim().to_owned()).collect())
            }
            _ => None,
        };
        texts.ok_or_else(|| self.refusal(key, must))
    }

    pub fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        match self.value(key) {
            Some(Value::Bool(_, flag)) => Ok(flag),
            _ => Err(self.refusal(key, "true or false")),
        }
    }

    pub fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        self.value(key)
            .and_then(|value| usize::try_from(whole(&value)?).ok())
            .filter(|count| range.contains(count))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                self.refusal(key, format!("a whole number from {least} to {most}"))
            })
    }

    pub fn duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        const EXAMPLE: &str = "20s";
        self.duration_if_set(key, range.clone(), EXAMPLE)?
            .ok_or_else(|| self.refusal(key, period(&range, EXAMPLE)))
    }

    /// The duration of a setting without a default; `example` is one that is accepted.
    pub fn duration_if_set(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
        example: &str,
    ) -> Result<Option<Duration>, ConfigError> {
        let must = period(&range, example);
        let Some(text) = self.text(key, &must)? else { return Ok(None) };
        let duration = humantime::parse_duration(&text).ok();
        let accepted = duration.filter(|duration| range.contains(duration));
        accepted.map(Some).ok_or_else(|| self.refusal(key, must))
    }

    /// The section keyed by channel type.
    pub fn channel_types(&self) -> Vec<(String, Dict)> {
        let Some(Value::Dict(_, types)) = self.value(CHANNEL_TYPES) else { return Vec::new() };
        types.into_iter().filter_map(|(name, value)| Some((name, value.into_dict()?))).collect()
    }

    /// The error for the value of `key`, which must be `must`.
    pub fn refusal(&self, key: &str, must: impl Display) -> ConfigError {
        match self.value(key) {
            Some(value) => self.refusal_of(key, &value, must),
            None => ConfigError::Unacceptable {
                key: key.to_owned(),
                origin: "all that was read".to_owned(),
                found: Some("absent".to_owned()),
                must: must.to_string(),
            },
        }
    }

    pub fn refusal_of(&self, key: &str, value: &Value, must: impl Display) -> ConfigError {
        ConfigError::Unacceptable {
            key: key.to_owned(),
            origin: self.origin(value),
            found: keys::may_show(key, value).then(|| shown(value)),
            must: must.to_string(),
        }
    }

    /// `key`, and where its value comes from.
    pub fn place(&self, key: &str) -> String {
        match self.value(key) {
            Some(value) => format!("{key} ({})", self.origin(&value)),
            None => key.to_owned(),
        }
    }

    /// Every setting as it counts, with its origin, fit to be shown.
    pub fn listing(&self) -> String {
        let mut lines = String::new();
        let mut line = |key: &str, value: &Value| {
            let shown = match keys::may_show(key, value) {
                true => shown(value),
                false => "<secret>".to_owned(),
            };
            lines += &format!("{key} = {shown}  # {}\n", self.origin(value));
        };
        for (key, _) in KEYS {
            if let Some(value) = self.value(key) {
                line(key, &value);
            }
        }
        for (name, settings) in self.channel_types() {
            for (key, value) in &settings {
                line(&format!("{CHANNEL_TYPES}.{name:?}.{key}"), value);
            }
        }
        lines
    }

    /// The settings that are not the same in `other`; channel types are one of them.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let keys = KEYS.iter().map(|(key, _)| *key).chain([CHANNEL_TYPES]);
        keys.filter(|key| !same(self.value(key), other.value(key))).collect()
    }

    fn value(&self, key: &str) -> Option<Value> {
        self.figment.find_value(key).ok()
    }

    fn origin(&self, value: &Value) -> String {
        self.figment
            .get_metadata(value.tag())
            .map_or_else(|| "the settings".to_owned(), |metadata| metadata.name.to_string())
    }
}

/// The accepted durations, in words.
fn period(range: &RangeInclusive<Duration>, example: &str) -> String {
    let [least, most] = [range.start(), range.end()].map(|bound| format_duration(*bound));
    format!("a duration from \"{least}\" to \"{most}\", such as \"{example}\"")
}

/// A value much as it is written in the file. No URL shows a login.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => {
            let parts: Vec<_> = text.split(',').map(without_login).collect();
            format!("{:?}", parts.join(","))
        }
        Value::Char(_, char) => format!("{char:?}"),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(_, num) => match (whole(value), num.to_f64()) {
            (Some(integer), _) => integer.to_string(),
            (None, Some(float)) => float.to_string(),
            (None, None) => "a number".to_owned(),
        },
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(..) => "a table".to_owned(),
        Value::Empty(..) => "empty".to_owned(),
    }
}

/// A default may be another type of number than what stands in a file.
fn same(one: Option<Value>, other: Option<Value>) -> bool {
    match (&one, &other) {
        (Some(one), Some(other)) if whole(one).is_some() => whole(one) == whole(other),
        _ => one == other,
    }
}

fn whole(value: &Value) -> Option<i128> {
    let Value::Num(_, num) = value else { return None };
    num.to_i128().or_else(|| i128::try_from(num.to_u128()?).ok())
}
