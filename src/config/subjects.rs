//! The `[subjects]` section: where requests come in and events go out.

use super::error::ConfigError;
use super::read::Reader;

/// The prefix of messages between daemons. Fixed, and no client may publish there.
pub const INTERNAL: &str = "presence.internal.v1";

/// The version of the protocol, as the last token of the request prefix.
const VERSION: &str = "v1";

/// Long enough for any sensible prefix. The server's limit on a whole control line is 4 KiB, and an
/// encoded user id takes up to 765 bytes of it.
const MAX_BYTES: usize = 128;

/// Subjects without wildcards, of which none is, or lies under, another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// The prefix of requests, without the version.
    pub prefix: String,
    /// The prefix of events.
    pub events: String,
    /// The prefix of the announced counts of channels.
    pub channel_events: String,
}

impl Subjects {
    /// The request prefix with its version: `P` of the protocol.
    pub fn requests(&self) -> String {
        format!("{}.{VERSION}", self.prefix)
    }

    pub(super) fn read(reader: &Reader, inbox_prefix: &str) -> Result<Self, ConfigError> {
        let subjects = Self {
            prefix: read(reader, "subjects.prefix")?,
            events: read(reader, "subjects.events")?,
            channel_events: read(reader, "subjects.channel_events")?,
        };
        let (requests, events) = (subjects.requests(), subjects.events.as_str());
        let channel_events = subjects.channel_events.as_str();
        for (key, subject, others) in [
            ("subjects.prefix", requests.as_str(), &[INTERNAL][..]),
            ("subjects.events", events, &[&requests, INTERNAL]),
            ("subjects.channel_events", channel_events, &[&requests, events, INTERNAL]),
            ("nats.inbox_prefix", inbox_prefix, &[&requests, events, channel_events, INTERNAL]),
        ] {
            if let Some(other) = others.iter().find(|other| overlap(subject, other)) {
                let must = format!("subjects apart from `{other}`, which has another use");
                return Err(reader.refusal(key, must));
            }
        }
        Ok(subjects)
    }
}

/// A subject that others begin with.
pub(super) fn read(reader: &Reader, key: &str) -> Result<String, ConfigError> {
    let must = format!(
        "a subject of tokens in [A-Za-z0-9_-] between dots, without blanks, wildcards or a dot at \
         either end, at most {MAX_BYTES} bytes"
    );
    reader.parsed(key, &must, |text| is_plain_subject(text).then(|| text.to_owned()))
}

/// The prefix of JetStream's API: of the server's own, of a domain, or of an import.
pub(super) fn read_js_api(reader: &Reader) -> Result<String, ConfigError> {
    let (domain, prefix) = ("nats.js_domain", "nats.js_api_prefix");
    let must = "the name of a JetStream domain: letters, digits, `_` and `-`";
    let of_domain = reader.text(domain, must)?;
    let must = "a subject of tokens in [A-Za-z0-9_-] between dots, the first of which may begin \
                with $, such as \"$JS.hub.API\" or \"JS.presence.API\"";
    match (of_domain, reader.text(prefix, must)?) {
        (Some(_), Some(_)) => Err(ConfigError::Exclusive {
            first: reader.place(domain),
            second: reader.place(prefix),
            why: "a domain is a prefix of the API, too",
        }),
        (Some(name), None) if is_name(&name) => Ok(format!("$JS.{name}.API")),
        (Some(_), None) => Err(reader.refusal(domain, "a name of letters, digits, `_` and `-`")),
        (None, Some(text)) if is_plain_subject(text.strip_prefix('$').unwrap_or(&text)) => Ok(text),
        (None, Some(_)) => Err(reader.refusal(prefix, must)),
        (None, None) => Ok("$JS.API".to_owned()),
    }
}

fn is_plain_subject(text: &str) -> bool {
    text.len() <= MAX_BYTES && text.split('.').all(is_name)
}

/// Returns whether `text` is one token that needs no escape. A leading `$` is reserved for the
/// server.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Returns whether one subject is the other or lies under it.
fn overlap(one: &str, other: &str) -> bool {
    one.split('.').zip(other.split('.')).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_overlap_where_one_is_a_prefix_of_the_other_by_tokens() {
        assert!(overlap("a.b", "a.b"));
        assert!(overlap("a", "a.b"));
        assert!(overlap("a.b.c", "a.b"));
        assert!(!overlap("a.bc", "a.b"));
        assert!(!overlap("b", "a.b"));
    }
}
