//! The body of an answer.

use crate::api::request::operation::Operation;
use crate::clock::millis;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::Service;

/// The body of an answer, as JSON.
pub type Reply = Vec<u8>;

/// Appends `"heartbeat":{…}`: how often clients send heartbeats, and how long a lease lasts.
pub fn push_heartbeat(out: &mut Vec<u8>, service: &Service) {
    json::push(out, "\"heartbeat\":{\"interval_ms\":");
    json::push_number(out, millis(service.liveness.heartbeat_interval));
    json::push(out, ",\"lease_ms\":");
    json::push_number(out, service.lease_ms());
    out.push(b'}');
}

/// Appends the object that describes a refusal.
pub fn push_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    json::push(out, "{\"code\":");
    json::push_str(out, refusal.code.as_str());
    json::push(out, ",\"message\":");
    json::push_str(out, &refusal.message);
    json::push(out, ",\"details\":");
    json::push(out, &serde_json::Value::Object(with_retry(refusal)).to_string());
    out.push(b'}');
}

/// The details, with a hint when to repeat where the protocol promises one.
fn with_retry(refusal: &Refusal) -> serde_json::Map<String, serde_json::Value> {
    let mut details = refusal.details.clone();
    let wait_ms = match refusal.code {
        Code::Overloaded => fastrand::u64(100..500),
        Code::Unavailable => fastrand::u64(200..1000),
        _ => return details,
    };
    details.insert("retry_after_ms".to_owned(), wait_ms.into());
    details
}

/// The refusal of an answer beyond the server's limit. It names the field to lower.
pub fn too_large(operation: Operation, bytes: usize, limit: usize) -> Refusal {
    let (field, advice) = match operation {
        Operation::QueryChannels => ("member_limit", "lower `member_limit` or `limit`"),
        Operation::WatchChannel => ("member_limit", "lower `member_limit`"),
        Operation::UpsertUsers => ("users", "name fewer `users`"),
        Operation::Batch => ("ops", "send fewer `ops`"),
        _ => ("limit", "lower `limit`"),
    };
    let message = format!(
        "the answer would have {bytes} bytes, and the NATS server's `max_payload` leaves room for {limit}: {advice}"
    );
    Refusal::new(Code::TooLarge, message).field(field).limit(limit as u64)
}
