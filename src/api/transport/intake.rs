//! Takes requests in: queues, refuses or drops them.
//!
//! One loop reads the subscription, dates each request, and queues it for the executor. The loop
//! never blocks, so that no request waits unnoticed.
//!
//! The loop also detects that the daemon was stalled. Requests that waited meanwhile, here or in
//! the server, are refused rather than applied late. The fence, a message from the daemon to itself
//! on the same connection, marks where they end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::drain::{ArrivalRate, drain};
use super::queue::{QueuedRequest, RequestQueue};
use super::responder::{ReplyContext, Responder};
use crate::api::request::operation::Operation;
use crate::api::request::subjects::Subjects;
use crate::clock::millis;
use crate::presence::refusal::{Code, Refusal};
use crate::service::{Service, overloaded, unavailable};
use crate::watchdog::WatchdogTap;

/// The queue group of the daemons.
pub const QUEUE_GROUP: &str = "presenced";

/// The interval of checks for a stall.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How many requests are taken before the clock and the other inputs are looked at.
const MAX_PER_TURN: usize = 64;

/// The interval at which a missing fence is sent again.
const FENCE_RETRY_MS: u64 = 1000;

/// The intake of a daemon.
#[derive(Debug)]
pub struct Intake {
    pub service: Service,
    pub context: Arc<ReplyContext>,
    pub client: Client,
    pub subjects: Subjects,
    /// The subject of fences.
    pub fence_subject: String,
    /// The queue to the executor.
    pub queue: RequestQueue,
    /// Whether other daemons are to take the requests.
    pub yields: watch::Receiver<bool>,
}

/// The division of `limits.request_timeout`.
///
/// A request may have waited for a pause before it was taken in, so the deadline and the pause
/// together stay within the timeout.
#[derive(Debug, Clone, Copy)]
struct RequestBudget {
    /// From the intake of a request to its deadline.
    deadline_ms: u64,
    /// The longest pause of the loop that is no stall.
    pause_ms: u64,
}

impl RequestBudget {
    fn of(request_timeout: Duration) -> Self {
        let timeout_ms = millis(request_timeout);
        Self { deadline_ms: timeout_ms / 8 * 5, pause_ms: timeout_ms / 8 * 3 }
    }
}

/// Detects pauses of the loop.
#[derive(Debug)]
struct StallDetector {
    budget: RequestBudget,
    last_ms: u64,
    /// The number of the awaited fence, and the time at which it was sent.
    fence: Option<(u64, u64)>,
    fences: u64,
}

impl Intake {
    /// Takes requests in until `stop`, then the last ones under way to this daemon. While it yields
    /// it is not in the queue group.
    pub async fn run(
        mut self,
        mut requests: Subscriber,
        mut fences: Subscriber,
        mut tap: WatchdogTap,
        stop: CancellationToken,
    ) {
        loop {
            self.serve(requests, &mut fences, &mut tap, &stop).await;
            requests = loop {
                tokio::select! {
                    // First: a daemon that stops does not come back to the queue group.
                    biased;
                    () = stop.cancelled() => return,
                    ping = tap.next() => ping.answer(),
                    () = becomes(&mut self.yields, false) => {
                        let all = self.subjects.all_requests();
                        match self.client.queue_subscribe(all, QUEUE_GROUP.to_owned()).await {
                            Ok(requests) => break requests,
                            Err(_) => return,
                        }
                    }
                }
            };
        }
    }

    /// Takes requests in until `stop`, or until others are to take them.
    async fn serve(
        &mut self,
        mut requests: Subscriber,
        fences: &mut Subscriber,
        tap: &mut WatchdogTap,
        stop: &CancellationToken,
    ) {
        let mut yields = self.yields.clone();
        let budget = self.budget();
        let last_ms = self.service.now().mono_ms;
        let mut detector = StallDetector { budget, last_ms, fence: None, fences: 0 };
        let mut rate = ArrivalRate::default();
        let mut beat = tokio::time::interval(STALL_CHECK_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = becomes(&mut yields, true) => break,
                fence = fences.next() => {
                    if let Some(fence) = fence
                        && detector.on_fence(&fence.payload)
                    {
                        self.refuse_queued(&mut requests);
                    }
                }
                ping = tap.next() => ping.answer(),
                _ = beat.tick() => self.check_stall(&mut detector).await,
                request = requests.next() => match request {
                    Some(request) => {
                        self.check_stall(&mut detector).await;
                        rate.count(detector.last_ms);
                        self.take(request, &detector);
                        for _ in 1..MAX_PER_TURN {
                            let next = requests.next().now_or_never();
                            let Some(request) = next.flatten() else { break };
                            rate.count(detector.last_ms);
                            self.take(request, &detector);
                        }
                    }
                    None => return,
                },
            }
        }
        drain(&self.client, requests, &rate, |request| {
            detector.on_turn(self.service.now().mono_ms);
            self.take(request, &detector);
        })
        .await;
    }

    fn budget(&self) -> RequestBudget {
        RequestBudget::of(self.service.limits().request_timeout)
    }

    /// Detects a stall, and sends a fence after it.
    async fn check_stall(&self, detector: &mut StallDetector) {
        detector.budget = self.budget();
        let now_ms = self.service.now().mono_ms;
        if let Some(number) = detector.on_turn(now_ms) {
            let payload = number.to_string().into();
            let sent = self.client.publish(self.fence_subject.clone(), payload);
            if tokio::time::timeout(STALL_CHECK_INTERVAL, sent).await.is_err() {
                tracing::debug!("a fence could not be sent; it is sent again");
            }
        }
    }

    /// Refuses requests that arrived before the fence that has just come back.
    fn refuse_queued(&self, requests: &mut Subscriber) {
        // The budget of the runtime would end the loop after some hundred requests.
        while let Some(Some(request)) = unconstrained(requests.next()).now_or_never() {
            self.refuse_old(request);
        }
    }

    fn refuse_old(&self, request: Message) {
        if let Some((operation, responder)) = self.responder(&request) {
            tracing::debug!(operation = operation.name(), "refused a request that had waited");
            responder.respond(Err(unavailable(
                "the daemon was stalled; nothing was done; repeat the request",
            )));
        }
    }

    /// Takes one request in and queues it.
    fn take(&self, mut request: Message, detector: &StallDetector) {
        if request.reply.is_none() && self.is_heartbeat(&request) {
            // Every daemon records it on another connection.
            return;
        }
        if detector.fence.is_some() {
            return self.refuse_old(request);
        }
        let Some((operation, responder)) = self.responder(&request) else { return };
        if self.queue.is_full(self.service.limits().pending_requests) {
            return responder.respond(Err(overloaded()));
        }
        // Headers mean nothing here, and parsed they take many times their text.
        request.headers = None;
        // The last check of the clock counts: a stall since then must not make the request fresh.
        let arrived_ms = detector.last_ms;
        let deadline_ms = arrived_ms + detector.budget.deadline_ms;
        self.queue.push(QueuedRequest { operation, request, responder, arrived_ms, deadline_ms });
    }

    fn is_heartbeat(&self, request: &Message) -> bool {
        let named = self.subjects.name_and_token(request.subject.as_str());
        named.is_some_and(|(name, _)| name == Operation::Heartbeat.name())
    }

    /// The responder of a request; `None` if the request is dropped.
    fn responder(&self, request: &Message) -> Option<(Operation, Responder)> {
        let reply = request.reply.as_ref().map(|reply| reply.as_str());
        if reply.is_some_and(|reply| self.subjects.is_forbidden_reply(reply)) {
            tracing::debug!("dropped a request whose reply subject is not the requester's");
            return None;
        }
        let responder = |operation| Responder {
            context: Arc::clone(&self.context),
            operation,
            reply: reply.map(str::to_owned),
            taken_ns: self.context.clock.elapsed_ns(),
            invisible: false,
        };
        let name = self.subjects.name_and_token(request.subject.as_str()).map(|(name, _)| name);
        match name.and_then(Operation::parse) {
            Some(operation) => Some((operation, responder(operation))),
            None => {
                let refusal = Refusal::new(
                    Code::InvalidRequest,
                    "there is no such operation: the subject is `<prefix>.<operation>`, or with the user's token behind it",
                );
                responder(Operation::Explain).refuse_unknown(&refusal);
                None
            }
        }
    }
}

/// Waits until the flag has the value; for ever if nobody sets it any more.
async fn becomes(flag: &mut watch::Receiver<bool>, value: bool) {
    let is_set = flag.wait_for(|flag| *flag == value).await.is_ok();
    if !is_set {
        std::future::pending::<()>().await;
    }
}

impl StallDetector {
    /// Records a turn of the loop at `now_ms`. Returns the number of a fence to send.
    fn on_turn(&mut self, now_ms: u64) -> Option<u64> {
        let paused_ms = now_ms.saturating_sub(std::mem::replace(&mut self.last_ms, now_ms));
        let stalled = paused_ms > self.budget.pause_ms;
        if stalled {
            tracing::warn!(paused_ms, "the daemon was stalled; what has waited is refused");
        }
        let overdue = self.fence.is_some_and(|(_, sent_ms)| sent_ms + FENCE_RETRY_MS <= now_ms);
        if !stalled && !overdue {
            return None;
        }
        self.fences += 1;
        self.fence = Some((self.fences, now_ms));
        Some(self.fences)
    }

    /// Records a fence that came back. Returns whether it is the awaited one.
    fn on_fence(&mut self, payload: &[u8]) -> bool {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        let awaited = number.is_some() && number == self.fence.map(|(number, _)| number);
        if awaited {
            self.fence = None;
        }
        awaited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_raises_a_fence_and_only_the_newest_one_lowers_it() {
        let budget = RequestBudget::of(Duration::from_secs(2));
        let mut detector = StallDetector { budget, last_ms: 0, fence: None, fences: 0 };
        assert_eq!(detector.on_turn(700), None);
        assert_eq!(detector.on_turn(60_700), Some(1));
        assert_eq!(detector.on_turn(61_000), None);
        assert_eq!(detector.on_turn(61_700), Some(2));
        assert!(!detector.on_fence(b"1"));
        assert!(detector.fence.is_some());
        assert!(detector.on_fence(b"2"));
        assert!(detector.fence.is_none());
    }

    #[test]
    fn deadline_and_pause_stay_within_the_request_timeout() {
        for seconds in 1..60 {
            let timeout = Duration::from_secs(seconds);
            let budget = RequestBudget::of(timeout);
            assert!(u128::from(budget.deadline_ms + budget.pause_ms) <= timeout.as_millis());
        }
    }
}
