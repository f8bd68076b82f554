//! Sends the one answer to a request, and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderName;

use crate::api::operations::{Reply, push_refusal, too_large};
use crate::api::request::operation::{OPERATIONS, Operation};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::payload_limit::PayloadLimit;
use crate::presence::refusal::{Code, Refusal};
use crate::store::outbox::{Message, Outbox};

const ERROR: HeaderName = HeaderName::from_static("Nats-Service-Error");
const ERROR_CODE: HeaderName = HeaderName::from_static("Nats-Service-Error-Code");

/// The longest error line in a header.
const MAX_ERROR_LINE_CHARS: usize = 512;

/// The counters of one operation.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub processing_ns: AtomicU64,
}

/// The counters of all operations.
#[derive(Debug, Default)]
pub struct Stats([Counters; OPERATIONS.len()]);

impl Stats {
    pub fn of(&self, operation: Operation) -> &Counters {
        &self.0[operation as usize]
    }
}

/// The parts that all responders share.
#[derive(Debug)]
pub struct ReplyContext {
    pub outbox: Outbox,
    pub stats: Stats,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub payload_limit: PayloadLimit,
}

/// Sends the answer to one request.
#[derive(Debug)]
pub struct Responder {
    pub context: Arc<ReplyContext>,
    pub operation: Operation,
    /// The reply subject; `None` if the request asked for no answer.
    pub reply: Option<String>,
    /// The time of intake on the monotonic clock.
    pub taken_ns: u64,
    /// Whether the request concerns invisible users only. The statistics of the service are public
    /// and do not move with it.
    pub invisible: bool,
}

impl Responder {
    /// Sends the answer to a request, and counts it.
    pub fn respond(self, result: Result<Reply, Refusal>) {
        let max_answer = self.context.payload_limit.body();
        let result = result.and_then(|body| match body.len() {
            bytes if bytes > max_answer => Err(too_large(self.operation, bytes, max_answer)),
            _ => Ok(body),
        });
        self.count(result.as_ref().err().map(|refusal| refusal.code));
        match result {
            Ok(body) => self.send(None, body),
            Err(refusal) => {
                let (headers, body) = error(&refusal);
                self.send(Some(headers), body);
            }
        }
    }

    /// Refuses a request for an operation that does not exist, which is not counted.
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

/// The headers and the body of an error reply.
fn error(refusal: &Refusal) -> (HeaderMap, Vec<u8>) {
    let mut headers = HeaderMap::new();
    let line: String = refusal.message.chars().take(MAX_ERROR_LINE_CHARS).collect();
    headers.insert(ERROR, line.as_str());
    headers.insert(ERROR_CODE, refusal.code.status().to_string());
    let mut body = b"{\"error\":".to_vec();
    push_refusal(&mut body, refusal);
    body.push(b'}');
    (headers, body)
}
