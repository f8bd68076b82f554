//! Records the heartbeats of all clients, on a NATS connection of its own.
//!
//! The listener writes nothing and answers nothing. It sends itself probes, which show whether the
//! daemon hears.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::{Event, Subscriber};
use futures_util::{FutureExt, StreamExt};
use rustix::rand::GetRandomFlags;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{unconstrained, yield_now};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::fast_path;
use super::heartbeat::Heartbeat;
use super::queue::{Full, HeartbeatQueue, QueuedHeartbeat};
use crate::api::request::operation::Operation;
use crate::api::request::subjects::Subjects;
use crate::liveness::hearing::PROBE_MS;
use crate::liveness::internal::Beacons;
use crate::liveness::leader_check::check_leader;
use crate::store::Store;
use crate::watchdog::WatchdogTap;

/// The token of the second door on which probes travel. It belongs to no user.
const PROBE_TOKEN: &str = "probe";

/// The prefix of probes, which no heartbeat has.
const PROBE_PREFIX: &str = "probe ";

/// The capacity of a subscription to heartbeats, in messages. Messages stay there for the time of
/// one batch, and then wait in a queue that is bounded in bytes.
pub const CAPACITY: usize = 1 << 14;

/// The reason for deafness after dropped heartbeats.
const TOO_FAST: &str = "heartbeats came faster than they were taken";

/// The subjects of heartbeats below the request prefix: of trusted services, and of users' own
/// clients.
pub fn lanes(requests: &str) -> [String; 2] {
    let heartbeat = format!("{requests}.{}", Operation::Heartbeat.name());
    [heartbeat.clone(), format!("{heartbeat}.*")]
}

/// The subjects of the probes, one on each lane.
pub fn probe_lanes(requests: &str) -> [String; 2] {
    let [trusted, _] = lanes(requests);
    [trusted.clone(), format!("{trusted}.{PROBE_TOKEN}")]
}

/// The listener of a daemon.
#[derive(Debug)]
pub struct HeartbeatListener {
    store: Store,
    beacons: Beacons,
    subjects: Subjects,
    /// Known to this daemon alone, so that probes cannot be forged.
    secret: String,
}

impl HeartbeatListener {
    /// Creates a listener. Fails if the operating system has no random numbers.
    pub fn new(store: Store, beacons: Beacons, subjects: Subjects) -> std::io::Result<Self> {
        Ok(Self { store, beacons, subjects, secret: secret()? })
    }

    /// Listens until the connection ends.
    pub async fn run(
        self,
        mut lanes: [Subscriber; 2],
        mut events: UnboundedReceiver<Event>,
        mut tap: WatchdogTap,
    ) {
        let mut probes = interval(Duration::from_millis(PROBE_MS));
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged = self.beacons.hearing().deaf(self.now_ms());
        let context = Arc::clone(&self.store.context);
        let leader_check = check_leader(&self.beacons, &context.bucket, context.clock);
        let mut leader_check = std::pin::pin!(leader_check);
        let mut queue = HeartbeatQueue::default();
        loop {
            tokio::select! {
                biased;
                ping = tap.next() => ping.answer(),
                _ = probes.tick() => {
                    self.probe().await;
                    self.log_changes(&mut logged);
                }
                () = &mut leader_check => return,
                Some(event) = events.recv() => {
                    let slow = self.on_events(event, &mut events);
                    if slow > 0 {
                        self.drop_waiting(&mut queue, &mut lanes, slow);
                        yield_now().await;
                    }
                }
                moved = ready(&mut queue, &mut lanes) => {
                    match moved {
                        Moved::All => self.record_batch(queue.next_batch()),
                        Moved::TooMany => self.drop_waiting(&mut queue, &mut lanes, 1),
                        Moved::Ended => return,
                    }
                    // Other tasks run in between, among them the reader of the connection.
                    yield_now().await;
                }
            }
        }
    }

    /// Records a batch of heartbeats in the order of arrival.
    fn record_batch(&self, batch: impl Iterator<Item = QueuedHeartbeat>) {
        let mut at_ms = [0, 1].map(|lane| self.heard_ms(lane));
        for message in batch {
            let lane = message.lane;
            if let Some(number) = self.is_probe(&message.payload) {
                self.beacons.hearing().on_probe(lane, number, self.now_ms());
                // Messages behind a probe were sent after it.
                at_ms[lane] = self.heard_ms(lane);
            } else {
                self.record_message(&message, at_ms[lane]);
            }
        }
    }

    /// Drops all heartbeats that wait, after `lost` were dropped already.
    ///
    /// The daemon has missed heartbeats and is deaf for a lease, so it does not need the rest. The
    /// lease begins earlier without them.
    fn drop_waiting(&self, queue: &mut HeartbeatQueue, lanes: &mut [Subscriber; 2], lost: usize) {
        let mut count = lost + queue.clear();
        for lane in lanes {
            // At most what was there at first, as messages keep arriving.
            let ready = || unconstrained(lane.next()).now_or_never().flatten();
            count += std::iter::from_fn(ready).take(CAPACITY).count();
        }
        self.store.context.metrics.heartbeats_dropped.inc_by(count as u64);
        // The probes among them are older than the trouble and need not come back.
        self.beacons.hearing().on_trouble(self.now_ms(), TOO_FAST);
    }

    fn record_message(&self, message: &QueuedHeartbeat, at_ms: u64) {
        let reply = message.reply.as_ref().map(|reply| reply.as_str());
        if reply.is_some_and(|reply| self.subjects.is_forbidden_reply(reply)) {
            return;
        }
        // The daemon that answers the heartbeat reports its errors.
        let Ok(door) = self.subjects.door(Operation::Heartbeat, message.subject.as_str()) else {
            return;
        };
        if let Some(plain) = fast_path::read(&message.payload, &door) {
            self.record(&plain, at_ms);
            return;
        }
        let fields = door.fields(&message.payload);
        if let Ok(heartbeat) = fields.and_then(|fields| Heartbeat::parse(fields, &door)) {
            self.record(&heartbeat, at_ms);
        }
    }

    /// Records a heartbeat sent at `at_ms`.
    fn record<I: AsRef<str>>(&self, heartbeat: &Heartbeat<I>, at_ms: u64) {
        match heartbeat {
            Heartbeat::Lease(lease) => {
                self.store.context.metrics.heard_lease();
                self.store.leases().on_heartbeat(lease, at_ms);
            }
            Heartbeat::Connections(connections) => {
                self.store.context.metrics.heard_connections(connections.len());
                for (user, connection) in connections {
                    self.store.users.with_index(user.as_ref(), |index| {
                        index.agenda.on_heartbeat(user, connection, at_ms);
                    });
                }
            }
        }
    }

    /// Handles the connection events that are ready. Returns the number of dropped messages.
    fn on_events(&self, event: Event, events: &mut UnboundedReceiver<Event>) -> usize {
        let others = std::iter::from_fn(|| events.try_recv().ok());
        let is_slow = |event: &Event| matches!(event, Event::SlowConsumer(_));
        std::iter::once(event)
            .chain(others)
            .inspect(|event| self.on_event(event))
            .filter(is_slow)
            .count()
    }

    /// Reports a connection event that may have cost heartbeats.
    fn on_event(&self, event: &Event) {
        let (now_ms, mut hearing) = (self.now_ms(), self.beacons.hearing());
        match event {
            Event::SlowConsumer(_) => hearing.on_trouble(now_ms, TOO_FAST),
            Event::Disconnected => hearing.on_cut_off(now_ms, "it was cut off from NATS"),
            // The first connection makes no difference, as a daemon begins deaf.
            Event::Connected => {
                hearing.on_connected(now_ms, "it has just been connected to NATS again");
            }
            _ => {}
        }
    }

    /// Logs each change between hearing and deafness, and each new reason, once.
    fn log_changes(&self, logged: &mut Option<&'static str>) {
        let deaf = self.beacons.hearing().deaf(self.now_ms());
        if deaf == *logged {
            return;
        }
        match deaf {
            Some(reason) => tracing::warn!(
                reason,
                "may have missed heartbeats; no lease is ended for a whole lease"
            ),
            None => tracing::info!("has heard undisturbed for a lease; ends leases that lapse"),
        }
        *logged = deaf;
    }

    async fn probe(&self) {
        let number = self.beacons.hearing().probe(self.now_ms());
        let payload = format!("{PROBE_PREFIX}{} {number}", self.secret);
        let [trusted, own] = probe_lanes(&self.subjects.prefix);
        // One probe takes the connection of the writes. The two connections may lead to different
        // servers, and writes on one side of a partition must not rest on heartbeats of the other.
        let ways = [(self.store.context.bucket.client(), trusted), (self.beacons.client(), own)];
        for (client, subject) in ways {
            let sent = client.publish(subject, payload.clone().into());
            if timeout(Duration::from_millis(PROBE_MS), sent).await.is_err() {
                tracing::debug!("a probe could not be sent");
            }
        }
    }

    fn is_probe(&self, payload: &[u8]) -> Option<u64> {
        let text = payload.strip_prefix(PROBE_PREFIX.as_bytes())?;
        let (secret, number) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        (secret == self.secret).then(|| number.parse().ok()).flatten()
    }

    fn heard_ms(&self, lane: usize) -> u64 {
        self.beacons.hearing().heard_ms(lane, self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        self.store.context.now().mono_ms
    }
}

/// The result of moving ready messages from the lanes to the queue.
enum Moved {
    All,
    /// The queue was full, and a message was lost.
    TooMany,
    /// The connection ended.
    Ended,
}

/// Waits for messages and moves them from the lanes to the queue. Cancel-safe.
async fn ready(queue: &mut HeartbeatQueue, lanes: &mut [Subscriber; 2]) -> Moved {
    let moving = poll_fn(|context| {
        for (number, lane) in lanes.iter_mut().enumerate() {
            for _ in 0..CAPACITY {
                match lane.poll_next_unpin(context) {
                    Poll::Ready(Some(message)) => {
                        if queue.push(number, message) == Err(Full) {
                            return Poll::Ready(Moved::TooMany);
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(Moved::Ended),
                    Poll::Pending => break,
                }
            }
        }
        if queue.is_empty() { Poll::Pending } else { Poll::Ready(Moved::All) }
    });
    // The budget of the runtime would end the loop after some hundred messages.
    unconstrained(moving).await
}

/// A secret from the operating system. The generator of connection ids, which clients see, would
/// make it predictable.
fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
