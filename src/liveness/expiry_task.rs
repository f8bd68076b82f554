//! The task around the expiry machine: receives the messages of other daemons, carries out effects,
//! and implements the machine's view of the daemon. All decisions are [`expiry`](super::expiry)'s.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::early_disconnects::{self, EARLY_DISCONNECTS};
use super::expiry::messages::{ENDINGS, Ending, OBJECTIONS, Objection, PROPOSALS, Proposal};
use super::expiry::writer::{LeaseEndGuard, QueuedWrite, carry_out};
use super::expiry::{Effect, Expiry, OBJECTION_MS, View};
use super::hearing::Hearing;
use super::internal::Beacons;
use super::peers::Peers;
use crate::clock::millis;
use crate::config::Liveness;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::time::Now;
use crate::presence::user::{ConnectionGen, Index};
use crate::store::Store;
use crate::watchdog::WatchdogTap;

/// The period of the machine's ticks.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// The expiry machine of one daemon with its IO.
#[derive(Debug)]
pub struct ExpiryTask {
    expiry: Expiry,
    view: DaemonView,
    writes: mpsc::UnboundedSender<QueuedWrite>,
    /// Leases whose writes are done.
    done: (mpsc::UnboundedSender<Id>, mpsc::UnboundedReceiver<Id>),
    inbox: Inbox,
}

/// The subscriptions to the messages of other daemons.
#[derive(Debug)]
struct Inbox {
    proposals: Subscriber,
    objections: Subscriber,
    endings: Subscriber,
    early_disconnects: Subscriber,
}

/// What this daemon knows, in its store and from its beacons.
#[derive(Debug)]
struct DaemonView {
    store: Store,
    beacons: Beacons,
}

impl ExpiryTask {
    pub async fn new(
        store: Store,
        beacons: Beacons,
        liveness: &Liveness,
    ) -> Result<Self, SubscribeError> {
        let (client, daemon) = (beacons.client(), store.context.daemon);
        let objections = beacons.subject(&format!("{OBJECTIONS}.{daemon}"));
        let inbox = Inbox {
            proposals: client.subscribe(beacons.subject(PROPOSALS)).await?,
            objections: client.subscribe(objections).await?,
            endings: client.subscribe(beacons.subject(ENDINGS)).await?,
            early_disconnects: client.subscribe(beacons.subject(EARLY_DISCONNECTS)).await?,
        };
        let (writes, queue) = mpsc::unbounded_channel();
        store.context.tracker.spawn(carry_out(store.clone(), queue));
        Ok(Self {
            expiry: Expiry::new(daemon, millis(liveness.lease)),
            view: DaemonView { store, beacons },
            writes,
            done: mpsc::unbounded_channel(),
            inbox,
        })
    }

    /// Runs until the connection ends.
    pub async fn run(mut self, mut tap: WatchdogTap) {
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let effects = tokio::select! {
                message = self.inbox.proposals.next() => {
                    let Some(message) = message else { return };
                    self.on_proposal(&message).into_iter().collect()
                }
                message = self.inbox.objections.next() => {
                    let Some(message) = message else { return };
                    self.on_objection(&message);
                    Vec::new()
                }
                message = self.inbox.endings.next() => {
                    let Some(message) = message else { return };
                    self.on_ending(&message);
                    Vec::new()
                }
                message = self.inbox.early_disconnects.next() => {
                    let Some(message) = message else { return };
                    self.on_early_disconnect(&message);
                    Vec::new()
                }
                ping = tap.next() => {
                    ping.answer();
                    Vec::new()
                }
                Some(lease) = self.done.1.recv() => {
                    self.expiry.on_writes_done(&self.view, &lease).into_iter().collect()
                }
                _ = ticks.tick() => {
                    if !self.view.store.is_whole() {
                        // What the replica shows may not be stored any more.
                        continue;
                    }
                    let now = self.now();
                    let times = self.view.store.context.told_lease.times(now);
                    self.expiry.on_lease_times(times);
                    let max_bytes = self.view.store.context.payload_limit.body();
                    self.expiry.on_payload_limit(max_bytes);
                    self.view.beacons.hearing().on_lease(times.told_ms);
                    self.expiry.on_tick(&self.view, now)
                }
            };
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }

    fn on_proposal(&mut self, message: &Message) -> Option<Effect> {
        let (now, proposal) = (self.now(), parse::<Proposal>(message)?);
        self.expiry.on_proposal(&self.view, &proposal, now)
    }

    fn on_objection(&mut self, message: &Message) {
        if let Some(objection) = parse::<Objection>(message) {
            let now = self.now();
            self.expiry.on_objection(&self.view, &objection, now);
        }
    }

    fn on_ending(&mut self, message: &Message) {
        if let Some(ending) = parse::<Ending>(message) {
            let now = self.now();
            self.expiry.on_ending(&self.view, &ending, now);
        }
    }

    fn on_early_disconnect(&self, message: &Message) {
        if let Some(message) = parse(message) {
            early_disconnects::on_message(&self.view.store, &message);
        }
    }

    async fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Propose(proposal) => self.publish(PROPOSALS, &proposal).await,
            Effect::Object { to, objection } => {
                self.publish(&format!("{OBJECTIONS}.{to}"), &objection).await;
            }
            Effect::Broadcast(ending) => self.publish(ENDINGS, &ending).await,
            Effect::Write(write) => self.queue(QueuedWrite { write, ending: None }),
            Effect::EndLease { lease, writes } => {
                tracing::info!(users = writes.len(), "a lease has lapsed");
                let ending = Arc::new(LeaseEndGuard { lease, done: self.done.0.clone() });
                for write in writes {
                    self.queue(QueuedWrite { write, ending: Some(Arc::clone(&ending)) });
                }
            }
        }
    }

    fn queue(&self, write: QueuedWrite) {
        // The writer ends only with the daemon.
        let _ = self.writes.send(write);
    }

    async fn publish(&self, topic: &str, message: &impl Serialize) {
        let payload = serde_json::to_vec(message).unwrap_or_default();
        let beacons = &self.view.beacons;
        let sent = beacons.client().publish(beacons.subject(topic), payload.into());
        if timeout(Duration::from_millis(OBJECTION_MS), sent).await.is_err() {
            tracing::debug!(topic, "a message to the other daemons could not be sent");
        }
    }

    fn now(&self) -> Now {
        self.view.store.context.now()
    }
}

impl View for DaemonView {
    fn each_index(&self, mut work: impl FnMut(&mut Index)) {
        self.store.users.for_each_stripe(|stripe| work(stripe.index_mut()));
    }

    fn with_index<R>(&self, user: &Id, work: impl FnOnce(&mut Index) -> R) -> R {
        self.store.users.with_index(user, work)
    }

    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R {
        work(&mut self.store.leases())
    }

    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<ConnectionGen>)> {
        let mut held = Vec::new();
        self.store.users.for_each_stripe(|stripe| {
            for user in stripe.index().holders(lease) {
                let generations = stripe.record(&user).map(|record| record.generations_on(lease));
                held.push((user, generations.unwrap_or_default()));
            }
        });
        held
    }

    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R {
        ask(&self.beacons.peers())
    }

    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R {
        ask(&self.beacons.hearing())
    }
}

/// Reads a message of another daemon; one that cannot be read is ignored.
fn parse<T: DeserializeOwned>(message: &Message) -> Option<T> {
    serde_json::from_slice(&message.payload)
        .inspect_err(|error| {
            let subject = message.subject.as_str();
            tracing::debug!(subject, %error, "a message of another daemon cannot be read");
        })
        .ok()
}
