//! Hears heartbeats: every daemon all of them, outside the queue group and on a connection of
//! their own. Writes nothing and answers nothing. Sends itself the probes that tell whether it
//! hears.

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
use super::queue::{Full, HeartbeatQueue, QueuedHeartbeat};
use crate::api::operations::Operation;
use crate::api::operations::heartbeat::Heartbeat;
use crate::api::transport::subjects::Subjects;
use crate::liveness::hearing::PROBE_MS;
use crate::liveness::internal::Beacons;
use crate::liveness::leader_check::check_leader;
use crate::store::Store;
use crate::watchdog::WatchdogTap;

/// The token of the second door on which probes travel; whose it is does not matter.
const PROBE_TOKEN: &str = "probe";

/// What every probe begins with, so that no heartbeat is taken for one.
const PROBE: &str = "probe ";

/// How many messages a subscription to heartbeats holds before it drops the next. They lie there
/// while a few others are heard, and wait in a queue that is bounded in bytes.
pub const CAPACITY: usize = 1 << 14;

/// Why the daemon is deaf when there were too many.
const TOO_FAST: &str = "heartbeats came faster than they were taken";

/// The subjects to listen to, below the request prefix with its version: those of trusted services,
/// and those of users' own clients.
pub fn lanes(requests: &str) -> [String; 2] {
    let heartbeat = format!("{requests}.{}", Operation::Heartbeat.name());
    [heartbeat.clone(), format!("{heartbeat}.*")]
}

/// The subjects of the probes, one on each lane.
pub fn probe_lanes(requests: &str) -> [String; 2] {
    let [trusted, _] = lanes(requests);
    [trusted.clone(), format!("{trusted}.{PROBE_TOKEN}")]
}

/// The ears of a daemon.
#[derive(Debug)]
pub struct HeartbeatListener {
    store: Store,
    beacons: Beacons,
    subjects: Subjects,
    /// Known to nobody else: a probe cannot be forged.
    secret: String,
}

impl HeartbeatListener {
    /// An error says that the operating system has no random numbers.
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
        let mut told = self.beacons.hearing().deaf(self.now_ms());
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
                    self.tell(&mut told);
                }
                () = &mut leader_check => return,
                Some(event) = events.recv() => {
                    let slow = self.notice_all(event, &mut events);
                    if slow > 0 {
                        self.throw_away(&mut queue, &mut lanes, slow);
                        yield_now().await;
                    }
                }
                moved = ready(&mut queue, &mut lanes) => {
                    match moved {
                        Moved::All => self.hear(queue.next_batch()),
                        Moved::TooMany => self.throw_away(&mut queue, &mut lanes, 1),
                        Moved::Ended => return,
                    }
                    // Others have their turn: not least who reads from the connection.
                    yield_now().await;
                }
            }
        }
    }

    /// Hears a batch of what has come, in the order in which it came.
    fn hear(&self, batch: impl Iterator<Item = QueuedHeartbeat>) {
        let mut at_ms = [0, 1].map(|lane| self.heard_ms(lane));
        for waiting in batch {
            let lane = waiting.lane;
            if let Some(number) = self.is_probe(&waiting.payload) {
                self.beacons.hearing().on_probe(lane, number, self.now_ms());
                // What came behind it was sent later.
                at_ms[lane] = self.heard_ms(lane);
            } else {
                self.hear_one(&waiting, at_ms[lane]);
            }
        }
    }

    /// More has come than can be heard. The daemon has missed something and is deaf for a lease, so
    /// it does not judge by the rest either: better to be done with it at once than to begin that
    /// lease late. `lost` were dropped already.
    fn throw_away(&self, queue: &mut HeartbeatQueue, lanes: &mut [Subscriber; 2], lost: usize) {
        let mut count = lost + queue.clear();
        for lane in lanes {
            // At most what was there at first: more may come all the time.
            let ready = || unconstrained(lane.next()).now_or_never().flatten();
            count += std::iter::from_fn(ready).take(CAPACITY).count();
        }
        self.store.context.metrics.heartbeats_dropped.inc_by(count as u64);
        // The probes among them are from before it, and so are not missed.
        self.beacons.hearing().on_trouble(self.now_ms(), TOO_FAST);
    }

    fn hear_one(&self, message: &QueuedHeartbeat, at_ms: u64) {
        let reply = message.reply.as_ref().map(|reply| reply.as_str());
        if reply.is_some_and(|reply| self.subjects.is_forbidden_reply(reply)) {
            return;
        }
        // What is wrong with it is said by the daemon that answers it.
        let Ok(door) = self.subjects.door(Operation::Heartbeat, message.subject.as_str()) else {
            return;
        };
        if let Some(plain) = fast_path::read(&message.payload, &door) {
            self.note(&plain, at_ms);
        } else if let Ok(heartbeat) = Heartbeat::parse_any(&message.payload, &door) {
            self.note(&heartbeat, at_ms);
        }
    }

    /// Notes whom a heartbeat is of.
    fn note<I: AsRef<str>>(&self, heartbeat: &Heartbeat<I>, at_ms: u64) {
        match heartbeat {
            Heartbeat::Lease(lease) => {
                self.store.context.metrics.heard_lease();
                self.store.leases().heartbeat(lease, at_ms);
            }
            Heartbeat::Connections(connections) => {
                self.store.context.metrics.heard_connections(connections.len());
                for (user, connection) in connections {
                    self.store.users.with_index(user.as_ref(), |index| {
                        index.agenda.heartbeat(user, connection, at_ms);
                    });
                }
            }
        }
    }

    /// Notices all that has befallen the connection. Returns how many messages it has dropped.
    fn notice_all(&self, event: Event, events: &mut UnboundedReceiver<Event>) -> usize {
        let others = std::iter::from_fn(|| events.try_recv().ok());
        let is_slow = |event: &Event| matches!(event, Event::SlowConsumer(_));
        std::iter::once(event)
            .chain(others)
            .inspect(|event| self.notice(event))
            .filter(is_slow)
            .count()
    }

    /// Anything that befalls the connection may have cost heartbeats.
    fn notice(&self, event: &Event) {
        let (now_ms, mut hearing) = (self.now_ms(), self.beacons.hearing());
        match event {
            Event::SlowConsumer(_) => hearing.on_trouble(now_ms, TOO_FAST),
            Event::Disconnected => hearing.on_cut_off(now_ms, "it was cut off from NATS"),
            // The first connection is no trouble: a daemon begins deaf anyway.
            Event::Connected => {
                hearing.on_connected(now_ms, "it has just been connected to NATS again");
            }
            _ => {}
        }
    }

    /// Says it once when the daemon becomes deaf, for another reason too, and when it hears again.
    fn tell(&self, told: &mut Option<&'static str>) {
        let deaf = self.beacons.hearing().deaf(self.now_ms());
        if deaf == *told {
            return;
        }
        match deaf {
            Some(reason) => tracing::warn!(
                reason,
                "may have missed heartbeats; no lease is ended for a whole lease"
            ),
            None => tracing::info!("has heard undisturbed for a lease; ends leases that lapse"),
        }
        *told = deaf;
    }

    async fn probe(&self) {
        let number = self.beacons.hearing().probe(self.now_ms());
        let payload = format!("{PROBE}{} {number}", self.secret);
        let [trusted, own] = probe_lanes(&self.subjects.prefix);
        // One goes out where the writes do: the two connections may be with two servers, and what
        // is written on one side of a partition must not go by what is heard on the other.
        let ways = [(self.store.context.bucket.client(), trusted), (self.beacons.client(), own)];
        for (client, subject) in ways {
            let sent = client.publish(subject, payload.clone().into());
            if timeout(Duration::from_millis(PROBE_MS), sent).await.is_err() {
                tracing::debug!("a probe could not be sent");
            }
        }
    }

    fn is_probe(&self, payload: &[u8]) -> Option<u64> {
        let text = payload.strip_prefix(PROBE.as_bytes())?;
        let (secret, number) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        (secret == self.secret).then(|| number.parse().ok()).flatten()
    }

    fn heard_ms(&self, lane: usize) -> u64 {
        self.beacons.hearing().heard_ms(lane, self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        self.store.context.clock.now().mono_ms
    }
}

/// What came of moving what was ready on the lanes to those that wait.
enum Moved {
    All,
    /// More than may wait: something was lost.
    TooMany,
    /// The connection ended.
    Ended,
}

/// Moves what is ready on the lanes to those that wait, once there are any. Loses nothing when
/// dropped.
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
    // The runtime's budget would end it after some hundred messages.
    unconstrained(moving).await
}

/// From the operating system: what makes the ids of connections, which clients are told, would let
/// them guess it.
fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
