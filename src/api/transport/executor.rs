//! Executes requests, in the order in which they were taken in.
//!
//! Between the intake and here is a queue that knows how old each request is: whatever waits too
//! long is refused rather than applied late, and what does not fit is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::Message;
use tokio::sync::mpsc;

use super::responder::Responder;
use super::subjects::Subjects;
use crate::api::operations::Operation;
use crate::api::operations::batch::Batch;
use crate::api::operations::connect::Connect;
use crate::api::operations::delete_channel::DeleteChannel;
use crate::api::operations::delete_users::DeleteUsers;
use crate::api::operations::disconnect::Disconnect;
use crate::api::operations::explain::Explain;
use crate::api::operations::heartbeat::Heartbeat;
use crate::api::operations::query_channels::QueryChannels;
use crate::api::operations::query_users::QueryUsers;
use crate::api::operations::upsert_channel::UpsertChannel;
use crate::api::operations::upsert_users::UpsertUsers;
use crate::api::operations::watch_channel::WatchChannel;
use crate::presence::refusal::Refusal;
use crate::service::{Service, overloaded, unavailable};
use crate::watchdog::WatchdogTap;

/// The most that waiting requests may take together, in bytes.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// A request that was taken in.
#[derive(Debug)]
pub struct QueuedRequest {
    pub operation: Operation,
    pub request: Message,
    pub responder: Responder,
    /// When, on the monotonic clock, it is refused rather than executed.
    pub deadline_ms: u64,
}

/// Where requests wait for their turn.
#[derive(Debug)]
pub struct RequestQueue {
    sender: mpsc::UnboundedSender<QueuedRequest>,
    waiting: Arc<QueueSize>,
}

/// How much waits.
#[derive(Debug, Default)]
struct QueueSize {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// Tells how much waits in a queue.
#[derive(Debug, Clone)]
pub struct QueueGauge(Arc<QueueSize>);

impl QueueGauge {
    /// How many requests wait to be executed.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }
}

/// Executes what comes out of a queue.
#[derive(Debug)]
pub struct Executor {
    service: Service,
    subjects: Subjects,
    taken: mpsc::UnboundedReceiver<QueuedRequest>,
    waiting: Arc<QueueSize>,
}

/// A queue for requests, and the executor at its end.
pub fn executor(service: Service, subjects: Subjects) -> (RequestQueue, Executor) {
    let (sender, taken) = mpsc::unbounded_channel();
    let waiting = Arc::<QueueSize>::default();
    let queue = RequestQueue { sender, waiting: Arc::clone(&waiting) };
    (queue, Executor { service, subjects, taken, waiting })
}

impl RequestQueue {
    pub fn gauge(&self) -> QueueGauge {
        QueueGauge(Arc::clone(&self.waiting))
    }

    /// Whether `most` requests wait, or more bytes than may.
    pub fn is_full(&self, most: usize) -> bool {
        self.waiting.requests.load(Ordering::Relaxed) >= most
            || self.waiting.bytes.load(Ordering::Relaxed) >= MAX_WAITING_BYTES
    }

    pub fn push(&self, taken: QueuedRequest) {
        self.waiting.requests.fetch_add(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_add(taken.request.length, Ordering::Relaxed);
        // The executor ends only after the queue.
        let _ = self.sender.send(taken);
    }
}

impl Executor {
    /// Executes requests until the queue is gone and empty.
    pub async fn run(mut self, mut tap: WatchdogTap) {
        loop {
            let taken = tokio::select! {
                biased;
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                taken = self.taken.recv() => taken,
            };
            let Some(taken) = taken else { return };
            self.waiting.requests.fetch_sub(1, Ordering::Relaxed);
            self.waiting.bytes.fetch_sub(taken.request.length, Ordering::Relaxed);
            if let Err((refusal, responder)) = self.execute(taken) {
                responder.refuse(&refusal);
            }
        }
    }

    fn execute(&self, taken: QueuedRequest) -> Result<(), (Refusal, Responder)> {
        let QueuedRequest { operation, request, mut responder, deadline_ms } = taken;
        macro_rules! parsed {
            ($result:expr) => {
                match $result {
                    Ok(parsed) => parsed,
                    Err(refusal) => return Err((refusal, responder)),
                }
            };
        }
        macro_rules! admitted {
            ($weight:expr) => {
                match self.service.admit($weight) {
                    Ok(permit) => responder.permit = Some(permit),
                    Err(refusal) => return Err((refusal, responder)),
                }
            };
        }
        let door = parsed!(self.subjects.door(operation, request.subject.as_str()));
        let (service, limits) = (&self.service, &self.service.limits());
        if service.now().mono_ms >= deadline_ms {
            let late = "the daemon has more requests than it can serve; nothing was done; repeat the request";
            return Err((unavailable(late), responder));
        }
        if self.service.pending() >= limits.pending_requests {
            // Not worth the parsing.
            return Err((overloaded(), responder));
        }
        let body = &request.payload;
        let fields = || door.fields(body);
        match operation {
            Operation::Connect => {
                let connect = parsed!(Connect::parse(parsed!(fields()), &door, limits));
                admitted!(1);
                connect.run(service, door, deadline_ms, responder);
            }
            Operation::Heartbeat => {
                let heartbeat = parsed!(Heartbeat::parse(body, &door));
                admitted!(1);
                heartbeat.run(service, deadline_ms, responder);
            }
            Operation::Disconnect => {
                let disconnect = parsed!(Disconnect::parse(parsed!(fields()), &door));
                admitted!(1);
                disconnect.run(service, door, deadline_ms, responder);
            }
            Operation::UpsertUsers => {
                let upsert = parsed!(UpsertUsers::parse(parsed!(fields()), &door, limits));
                admitted!(upsert.len());
                upsert.run(service, door, deadline_ms, responder);
            }
            Operation::DeleteUsers => {
                let delete = parsed!(DeleteUsers::parse(parsed!(fields())));
                admitted!(delete.len());
                delete.run(service, deadline_ms, responder);
            }
            Operation::QueryUsers => {
                let query = parsed!(QueryUsers::parse(parsed!(fields()), body, &door));
                admitted!(1);
                query.run(service, &self.subjects.events, door, deadline_ms, responder);
            }
            Operation::UpsertChannel => {
                let upsert = parsed!(UpsertChannel::parse(parsed!(fields())));
                admitted!(1);
                upsert.run(service, deadline_ms, responder);
            }
            Operation::DeleteChannel => {
                let delete = parsed!(DeleteChannel::parse(parsed!(fields())));
                admitted!(1);
                delete.run(service, deadline_ms, responder);
            }
            Operation::WatchChannel => {
                let watch = parsed!(WatchChannel::parse(parsed!(fields()), door, limits));
                admitted!(1);
                watch.run(service, &self.subjects.events, deadline_ms, responder);
            }
            Operation::QueryChannels => {
                let query = parsed!(QueryChannels::parse(parsed!(fields()), body, &door));
                admitted!(1);
                query.run(service, &self.subjects.events, &door, deadline_ms, responder);
            }
            Operation::Batch => {
                let batch = parsed!(Batch::parse(parsed!(fields()), limits));
                admitted!(batch.users());
                batch.run(service, deadline_ms, responder);
            }
            Operation::Explain => {
                let explain = parsed!(Explain::parse(parsed!(fields())));
                admitted!(1);
                explain.run(service, deadline_ms, responder);
            }
        }
        Ok(())
    }
}
