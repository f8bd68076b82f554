//! Records and markers as NATS messages.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use bytes::Bytes;
use serde::Deserialize;

use super::bucket::RawEntry;
use super::markers::Kind;
use super::stripe::{Content, Entry};
use crate::presence::entity::DaemonId;

/// The daemon that wrote the message.
const WRITER: HeaderName = HeaderName::from_static("Presence-Writer");
/// The version of the message's visible change, if it has one.
pub const VERSION: HeaderName = HeaderName::from_static("Presence-Version");
/// The daemon that made that change; only on a marker, which has no record to hold it.
const CHANGED_BY: HeaderName = HeaderName::from_static("Presence-Changed-By");
const OPERATION: HeaderName = HeaderName::from_static("KV-Operation");
const ROLLUP: HeaderName = HeaderName::from_static("Nats-Rollup");
const TTL: HeaderName = HeaderName::from_static("Nats-TTL");
/// On a marker that stands above another one, and expires.
const LAST_MARKER: HeaderName = HeaderName::from_static("Presence-Last-Marker");
/// The server's reason for a marker of its own.
const MARKER_REASON: HeaderName = HeaderName::from_static("Nats-Marker-Reason");

/// The headers and the payload of a write.
pub fn write(
    daemon: &str,
    expected: u64,
    content: Content,
    visible: Option<u64>,
) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
    headers.insert(WRITER, daemon);
    if let Some(version) = visible {
        headers.insert(VERSION, version.to_string());
    }
    match content {
        Content::Put(value) => (headers, value),
        Content::Purge { version, changed_by } => {
            if let Some(daemon) = changed_by {
                headers.insert(CHANGED_BY, daemon.to_string());
            }
            headers.insert(OPERATION, "PURGE");
            headers.insert(ROLLUP, "sub");
            headers.insert(VERSION, version.to_string());
            (headers, Bytes::new())
        }
    }
}

/// Returns whether a stored message is the marker of a deletion.
pub fn is_marker(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.get(OPERATION).is_some_and(|operation| operation.as_str() != "PUT")
            || headers.get(MARKER_REASON).is_some()
    })
}

/// The kind of marker that a stored message is, if it is one.
pub fn marker_kind(headers: Option<&HeaderMap>) -> Option<Kind> {
    let headers = headers.filter(|headers| is_marker(Some(headers)))?;
    Some(match (headers.get(TTL), headers.get(LAST_MARKER)) {
        (None, _) => Kind::Lasting,
        (Some(_), None) => Kind::Unsafe,
        (Some(_), Some(_)) => Kind::Last,
    })
}

/// The time after which a stored message expires, in milliseconds; `None` if never.
pub fn ttl_ms(headers: Option<&HeaderMap>) -> Option<i64> {
    let ttl = headers?.get(TTL)?.as_str();
    let whole_seconds = ttl.parse().ok().map(Duration::from_secs);
    let ttl = whole_seconds.or_else(|| humantime::parse_duration(ttl).ok())?;
    i64::try_from(ttl.as_millis()).ok()
}

/// The headers of the lasting marker that replaces a marker which would expire above a record, or
/// a deleted record that a server brought back.
pub fn lasting_marker(daemon: DaemonId, stored: &RawEntry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut keep = |name: HeaderName, from: HeaderName| {
        if let Some(value) = stored.headers.get(from) {
            headers.insert(name, value.clone());
        }
    };
    keep(CHANGED_BY, WRITER);
    keep(CHANGED_BY, CHANGED_BY);
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, stored.seq.to_string());
    headers.insert(WRITER, daemon.to_string());
    headers.insert(OPERATION, "PURGE");
    headers.insert(ROLLUP, "sub");
    if let Some(version) = version(stored) {
        headers.insert(VERSION, version);
    }
    headers
}

/// The headers of the marker that replaces a lasting one and expires after `ttl`. A bucket that is
/// full takes it only if it is no larger: it names no daemon, and the replacement by itself rolls
/// up.
pub fn last_marker(stored: &RawEntry, ttl: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, stored.seq.to_string());
    headers.insert(OPERATION, "PURGE");
    headers.insert(LAST_MARKER, "true");
    headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
    if let Some(version) = version(stored) {
        headers.insert(VERSION, version);
    }
    headers
}

/// The headers with which a stored record is written once more as it is.
pub fn copy(stored: &RawEntry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, stored.seq.to_string());
    if let Some(writer) = stored.headers.get(WRITER) {
        headers.insert(WRITER, writer.clone());
    }
    headers
}

/// The version of what is stored: a marker has it in a header, a record in its text.
fn version(stored: &RawEntry) -> Option<String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    if is_marker(Some(&stored.headers)) {
        return stored.headers.get(VERSION).map(|version| version.as_str().to_owned());
    }
    let record = serde_json::from_slice::<Versioned>(&stored.payload).ok()?;
    Some(record.version.to_string())
}

/// Reads a stored message.
pub fn entry(rev: u64, headers: Option<&HeaderMap>, payload: &Bytes) -> Entry {
    let header = |name: HeaderName| {
        headers.and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str)
    };
    let writer = header(WRITER).and_then(DaemonId::parse);
    let content = if is_marker(headers) {
        let version = header(VERSION).and_then(|text| text.parse().ok()).unwrap_or(0);
        Content::Purge { version, changed_by: header(CHANGED_BY).and_then(DaemonId::parse) }
    } else {
        Content::Put(payload.clone())
    };
    let expires = marker_kind(headers).is_some_and(|kind| kind != Kind::Lasting);
    let base = header(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE).and_then(|text| text.parse().ok());
    Entry { rev, base, content, writer, expires }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(headers: &HeaderMap) -> usize {
        headers
            .iter()
            .flat_map(|(name, values)| {
                let name = name.to_string().len();
                values.iter().map(move |value| name + value.as_str().len() + 4)
            })
            .sum()
    }

    fn stored(seq: u64, headers: HeaderMap, payload: &'static str) -> RawEntry {
        RawEntry { seq, stored_ms: 0, headers, payload: payload.into() }
    }

    #[test]
    fn a_full_bucket_takes_the_last_marker_in_place_of_the_lasting_one() {
        let daemon = DaemonId(u64::MAX).to_string();
        for changed_by in [None, Some(DaemonId(7))] {
            let content = Content::Purge { version: 1_700_000_000_000, changed_by };
            let (lasting, _) = write(&daemon, 9, content, None);
            let lasting = stored(9_999_999_999, lasting, "");
            let last = last_marker(&lasting, Duration::from_secs(60));
            assert!(size(&last) <= size(&lasting.headers), "{last:?}");
            assert_eq!(last.get(VERSION), lasting.headers.get(VERSION));
            assert_eq!(marker_kind(Some(&last)), Some(Kind::Last));
        }
    }

    #[test]
    fn a_full_bucket_takes_a_copy_of_a_record() {
        let daemon = DaemonId(u64::MAX).to_string();
        let (headers, payload) = write(&daemon, 8, Content::Put("{}".into()), Some(3));
        let record = RawEntry { seq: 9_999_999_999, stored_ms: 0, headers, payload };
        assert!(size(&copy(&record)) <= size(&record.headers));
    }

    #[test]
    fn the_marker_above_a_record_that_came_back_has_its_version() {
        let record = stored(5, HeaderMap::new(), r#"{"v":1,"version":77,"name":"x"}"#);
        let marker = lasting_marker(DaemonId(1), &record);
        assert_eq!(marker.get(VERSION).map(async_nats::HeaderValue::as_str), Some("77"));
        assert_eq!(marker_kind(Some(&marker)), Some(Kind::Lasting));
    }
}
