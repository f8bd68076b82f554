//! Sends the answer to one request, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderName;

use crate::api::operations::{OPERATIONS, Operation};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::Permit;
use crate::store::outbox::{Message, Outbox};

const ERROR: HeaderName = HeaderName::from_static("Nats-Service-Error");
const ERROR_CODE: HeaderName = HeaderName::from_static("Nats-Service-Error-Code");

/// The longest error line in a header, in characters.
const MAX_LINE: usize = 512;

/// What happened to the requests of one operation.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub processing_ns: AtomicU64,
}

/// What happened to all requests, by operation.
#[derive(Debug, Default)]
pub struct Stats([Counters; OPERATIONS.len()]);

impl Stats {
    pub fn of(&self, operation: Operation) -> &Counters {
        &self.0[operation as usize]
    }
}

/// What all responders share.
#[derive(Debug)]
pub struct ReplyContext {
    pub outbox: Outbox,
    pub stats: Stats,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// The largest answer that the server takes, in bytes.
    pub max_answer: usize,
}

/// The answer that a request waits for.
#[derive(Debug)]
pub struct Responder {
    pub context: Arc<ReplyContext>,
    pub operation: Operation,
    /// Where the answer goes; nowhere if the request asked for none.
    pub reply: Option<String>,
    /// When it was taken in, on the monotonic clock.
    pub taken_ns: u64,
    /// Whether it is about something that nobody else may know of, such as a connection of an
    /// invisible user: the statistics of the service do not move with it.
    pub invisible: bool,
    /// Held until the answer is given.
    pub permit: Option<Permit>,
}

impl Responder {
    /// Refuses what would be done and then not told: an answer with so many bytes of users.
    pub fn has_room_for(&self, bytes: usize) -> Result<(), Refusal> {
        if bytes <= self.context.max_answer {
            Ok(())
        } else {
            Err(too_large(self.operation, bytes, self.context.max_answer))
        }
    }

    /// Answers with a body.
    pub fn ok(self, body: Vec<u8>) {
        if let Err(refusal) = self.has_room_for(body.len()) {
            return self.refuse(&refusal);
        }
        self.count(None);
        self.send(None, body);
    }

    /// Answers with an error.
    pub fn refuse(self, refusal: &Refusal) {
        self.count(Some(refusal.code));
        let (headers, body) = error(refusal);
        self.send(Some(headers), body);
    }

    /// Answers with what a parse or a decision came to.
    pub fn result(self, result: Result<Vec<u8>, Refusal>) {
        match result {
            Ok(body) => self.ok(body),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// Answers a request for an operation that does not exist, which is counted nowhere.
    pub fn refuse_unknown(self, refusal: &Refusal) {
        let (headers, body) = error(refusal);
        self.send(Some(headers), body);
    }

    fn count(&self, error: Option<Code>) {
        let counters = self.context.stats.of(self.operation);
        let took_ns = self.context.clock.elapsed_ns().saturating_sub(self.taken_ns);
        if !self.invisible {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            counters.errors.fetch_add(u64::from(error.is_some()), Ordering::Relaxed);
            counters.processing_ns.fetch_add(took_ns, Ordering::Relaxed);
        }
        self.context.metrics.answered(
            self.operation.name(),
            error.map(Code::as_str),
            Duration::from_nanos(took_ns),
        );
    }

    fn send(self, headers: Option<HeaderMap>, body: Vec<u8>) {
        if let Some(subject) = self.reply {
            self.context.outbox.send(Message {
                subject,
                reply: None,
                headers,
                payload: body.into(),
                not_after_ms: None,
            });
        }
    }
}

/// The refusal of an answer that the server would not take; it says what to lower.
fn too_large(operation: Operation, bytes: usize, limit: usize) -> Refusal {
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

/// The headers and the body of an error reply.
fn error(refusal: &Refusal) -> (HeaderMap, Vec<u8>) {
    let mut headers = HeaderMap::new();
    let line: String = refusal.message.chars().take(MAX_LINE).collect();
    headers.insert(ERROR, line.as_str());
    headers.insert(ERROR_CODE, refusal.code.status().to_string());
    let mut body = b"{\"error\":".to_vec();
    push_refusal(&mut body, refusal);
    body.push(b'}');
    (headers, body)
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
    if matches!(refusal.code, Code::Overloaded | Code::Unavailable) {
        details.entry("retry_after_ms").or_insert_with(|| fastrand::u64(200..1000).into());
    }
    details
}
