//! Records and markers as NATS messages.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use bytes::Bytes;

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

/// Whether a stored message is the marker of a deletion.
pub fn is_marker(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.get(OPERATION).is_some_and(|operation| operation.as_str() != "PUT")
            || headers.get(MARKER_REASON).is_some()
    })
}

/// What kind of marker a stored message is, if it is one.
pub fn marker_kind(headers: Option<&HeaderMap>) -> Option<Kind> {
    let headers = headers.filter(|headers| is_marker(Some(headers)))?;
    Some(match (headers.get(TTL), headers.get(LAST_MARKER)) {
        (None, _) => Kind::Lasting,
        (Some(_), None) => Kind::Unsafe,
        (Some(_), Some(_)) => Kind::Last,
    })
}

/// After how long a stored message expires, in milliseconds; `None` if never.
pub fn ttl_ms(headers: Option<&HeaderMap>) -> Option<i64> {
    let ttl = headers?.get(TTL)?.as_str();
    let whole_seconds = ttl.parse().ok().map(Duration::from_secs);
    let ttl = whole_seconds.or_else(|| humantime::parse_duration(ttl).ok())?;
    i64::try_from(ttl.as_millis()).ok()
}

/// The headers of the marker that replaces the `stored` one, and means the same. The last one
/// expires after `ttl`.
pub fn next_marker(daemon: DaemonId, stored: &RawEntry, next: Kind, ttl: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut keep = |name: HeaderName, from: HeaderName| {
        if let Some(value) = stored.headers.get(from) {
            headers.insert(name, value.clone());
        }
    };
    keep(VERSION, VERSION);
    keep(CHANGED_BY, WRITER);
    keep(CHANGED_BY, CHANGED_BY);
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, stored.seq.to_string());
    headers.insert(WRITER, daemon.to_string());
    headers.insert(OPERATION, "PURGE");
    headers.insert(ROLLUP, "sub");
    if next == Kind::Last {
        headers.insert(LAST_MARKER, "true");
        headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
    }
    headers
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
    Entry { rev, content, writer }
}
