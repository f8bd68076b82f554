//! Records and markers as NATS messages.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use bytes::Bytes;

use super::bucket::MARKER_TTL;
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
            headers.insert(TTL, MARKER_TTL);
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
