//! The context that all work on the bucket shares.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::barrier::Barrier;
use super::bucket::Bucket;
use super::clock_skew::ClockSkew;
use super::floor::Floor;
use super::markers::Markers;
use super::outbox::{Message, Outbox};
use super::stream_clock::StreamClock;
use super::told_lease::ToldLease;
use super::wire;
use super::write_health::WriteHealth;
use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::payload_limit::PayloadLimit;
use crate::presence::entity::DaemonId;
use crate::presence::time::Now;

/// The context that the keyspaces of a daemon share.
#[derive(Debug)]
pub struct StoreContext {
    pub clock: Clock,
    pub daemon: DaemonId,
    pub bucket: Bucket,
    pub barrier: Barrier,
    /// The outbox of writes.
    pub writes: Outbox,
    /// The outbox of events, on the connection of requests and answers.
    pub events: Outbox,
    /// The prefix of event subjects.
    pub event_prefix: String,
    /// The prefix of the subjects of acknowledgements.
    pub ack_inbox: String,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub payload_limit: PayloadLimit,
    pub write_health: WriteHealth,
    pub clock_skew: ClockSkew,
    pub stream_clock: StreamClock,
    pub told_lease: ToldLease,
    pub markers: Mutex<Markers>,
    pub floor: Floor,
    /// Notified when the connection to the stream's server is a new one.
    pub reconnected: Notify,
    /// Notified when the leader holds an older record than a known one.
    pub suspicion: Notify,
    /// Notified when the store is found to have lost what was known.
    pub repairs: Notify,
    /// The newest revision of a write of this daemon.
    pub acked: AtomicU64,
    /// The tasks that end before the daemon does.
    pub tracker: TaskTracker,
}

impl StoreContext {
    /// The present time, on all clocks.
    pub fn now(&self) -> Now {
        self.stream_clock.at(self.clock.now())
    }

    /// Publishes the JSON of an event of that version, unless it can only be sent later than
    /// `not_after_ms` on the monotonic clock.
    pub fn publish(&self, subject: String, version: u64, body: Vec<u8>, not_after_ms: Option<u64>) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(wire::VERSION, version.to_string());
        self.events.send(Message {
            subject,
            reply: None,
            headers: Some(headers),
            payload: body.into(),
            not_after_ms,
        });
    }

    /// The markers of deletions.
    pub fn markers(&self) -> MutexGuard<'_, Markers> {
        self.markers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that a write of this daemon was stored at.
    pub fn acked_rev(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}
