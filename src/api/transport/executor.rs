//! Executes requests: parse, admit, run, respond, each in one place for all operations.
//!
//! Requests take effect in the order in which they were taken in. The executor polls each one once,
//! which submits its commands, before it looks at the next. A request that is not done by then
//! continues as a task of its own.

use std::sync::Arc;

use futures_util::FutureExt;

use super::queue::{QueuedRequest, QueuedRequests, RequestQueue, request_queue};
use super::responder::Responder;
use crate::api::operations::{Context, Request, Times};
use crate::api::request::subjects::Subjects;
use crate::presence::refusal::Refusal;
use crate::service::{Service, overloaded, unavailable};
use crate::watchdog::WatchdogTap;

/// How many requests are executed before the watchdog is looked at.
const MAX_PER_TURN: usize = 64;

/// Executes the requests of a queue.
#[derive(Debug)]
pub struct Executor {
    service: Arc<Service>,
    subjects: Subjects,
    event_prefix: Arc<str>,
    requests: QueuedRequests,
}

/// Creates a queue for requests, and the executor at its end.
pub fn executor(service: Service, subjects: Subjects) -> (RequestQueue, Executor) {
    let (queue, requests) = request_queue();
    let event_prefix = subjects.events.as_str().into();
    (queue, Executor { service: Arc::new(service), subjects, event_prefix, requests })
}

impl Executor {
    /// Executes requests until the queue is gone and empty.
    pub async fn run(mut self, mut tap: WatchdogTap) {
        let mut taken = Vec::with_capacity(MAX_PER_TURN);
        loop {
            let count = tokio::select! {
                biased;
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                count = self.requests.next(&mut taken, MAX_PER_TURN) => count,
            };
            if count == 0 {
                return;
            }
            for queued in taken.drain(..) {
                self.requests.release(&queued);
                self.execute(queued);
            }
        }
    }

    fn execute(&self, queued: QueuedRequest) {
        let (request, ctx) = match self.parse(&queued) {
            Ok(parsed) => parsed,
            Err(refusal) => return queued.responder.respond(Err(refusal)),
        };
        let permit = match self.service.admit(request.weight()) {
            Ok(permit) => permit,
            Err(refusal) => return queued.responder.respond(Err(refusal)),
        };
        let mut responder: Responder = queued.responder;
        let mut work = Box::pin(async move {
            let result = request.run(&ctx).await;
            responder.invisible = ctx.is_invisible();
            responder.respond(result);
            drop(permit);
        });
        if work.as_mut().now_or_never().is_none() {
            self.service.store.context.tracker.spawn(work);
        }
    }

    fn parse(&self, queued: &QueuedRequest) -> Result<(Request, Context), Refusal> {
        let QueuedRequest { operation, request, responder, arrived_ms, deadline_ms } = queued;
        let door = self.subjects.door(*operation, request.subject.as_str())?;
        let limits = self.service.limits();
        if self.service.now().mono_ms >= *deadline_ms {
            return Err(unavailable(
                "the daemon has more requests than it can serve; nothing was done; repeat the request",
            ));
        }
        if self.service.pending() >= limits.pending_requests {
            // Refused before the cost of parsing.
            return Err(overloaded());
        }
        let parsed = Request::parse(*operation, &request.payload, &door, &self.service)?;
        let ctx = Context::new(
            Arc::clone(&self.service),
            *operation,
            door,
            Arc::clone(&self.event_prefix),
            Times { arrived_ms: *arrived_ms, deadline_ms: *deadline_ms },
            responder.context.payload_limit.body(),
        );
        Ok((parsed, ctx))
    }
}
