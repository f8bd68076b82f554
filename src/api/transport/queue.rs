//! The queue between intake and executor, bounded in requests and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::Message;
use tokio::sync::mpsc;

use super::responder::Responder;
use crate::api::request::operation::Operation;

/// The bound on the memory of queued requests, in bytes.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// A request that was taken in.
#[derive(Debug)]
pub struct QueuedRequest {
    pub operation: Operation,
    pub request: Message,
    pub responder: Responder,
    /// When the request was taken in, on the monotonic clock.
    pub arrived_ms: u64,
    /// When, on the monotonic clock, the request is refused rather than executed.
    pub deadline_ms: u64,
}

/// The sending half of the queue.
#[derive(Debug)]
pub struct RequestQueue {
    sender: mpsc::UnboundedSender<QueuedRequest>,
    size: Arc<QueueSize>,
}

/// The receiving half of the queue.
#[derive(Debug)]
pub struct QueuedRequests {
    receiver: mpsc::UnboundedReceiver<QueuedRequest>,
    size: Arc<QueueSize>,
}

#[derive(Debug, Default)]
struct QueueSize {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// Reads the length of a queue.
#[derive(Debug, Clone)]
pub struct QueueGauge(Arc<QueueSize>);

impl QueueGauge {
    /// The number of requests that wait to be executed.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }
}

/// Creates a queue.
pub fn request_queue() -> (RequestQueue, QueuedRequests) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let size = Arc::<QueueSize>::default();
    (RequestQueue { sender, size: Arc::clone(&size) }, QueuedRequests { receiver, size })
}

impl RequestQueue {
    pub fn gauge(&self) -> QueueGauge {
        QueueGauge(Arc::clone(&self.size))
    }

    /// Whether `max_requests` wait, or as many bytes as may.
    pub fn is_full(&self, max_requests: usize) -> bool {
        self.size.requests.load(Ordering::Relaxed) >= max_requests
            || self.size.bytes.load(Ordering::Relaxed) >= MAX_QUEUED_BYTES
    }

    pub fn push(&self, queued: QueuedRequest) {
        self.size.requests.fetch_add(1, Ordering::Relaxed);
        self.size.bytes.fetch_add(queued.request.length, Ordering::Relaxed);
        // The executor ends only after the queue.
        let _ = self.sender.send(queued);
    }
}

impl QueuedRequests {
    /// Waits for requests, and moves the oldest ones, up to `limit`, into `taken`. Returns how many
    /// there are: none once the queue is gone and empty. They count as queued until each of them is
    /// [released](Self::release).
    pub async fn next(&mut self, taken: &mut Vec<QueuedRequest>, limit: usize) -> usize {
        self.receiver.recv_many(taken, limit).await
    }

    /// A request that was taken is executed now.
    pub fn release(&self, queued: &QueuedRequest) {
        self.size.requests.fetch_sub(1, Ordering::Relaxed);
        self.size.bytes.fetch_sub(queued.request.length, Ordering::Relaxed);
    }
}
