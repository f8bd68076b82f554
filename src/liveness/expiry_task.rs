//! Where the judge of a daemon sits: hears what the others say, has its effects carried out, and lends
//! it what the daemon knows. All decisions are [`expiry`](super::expiry)'s.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::expiry::messages::{ENDINGS, Ending, OBJECTIONS, Objection, PROPOSALS, Proposal};
use super::expiry::writer::{LeaseEndGuard, QueuedWrite, carry_out};
use super::expiry::{Effect, Expiry, OBJECTION_MS, View};
use super::hearing::Hearing;
use super::internal::Beacons;
use super::peers::Peers;
use crate::config::Liveness;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::time::Now;
use crate::presence::user::{ConnectionGen, Index};
use crate::store::Store;
use crate::watchdog::WatchdogTap;

/// How often the judge looks at what is due.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The bench of one daemon.
#[derive(Debug)]
pub struct ExpiryTask {
    expiry: Expiry,
    known: DaemonView,
    writes: mpsc::UnboundedSender<QueuedWrite>,
    /// Leases whose writes are done.
    done: (mpsc::UnboundedSender<Id>, mpsc::UnboundedReceiver<Id>),
    heard: Subscriptions,
}

/// What the judge listens to.
#[derive(Debug)]
struct Subscriptions {
    proposal: Subscriber,
    objections: Subscriber,
    ends: Subscriber,
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
        let heard = Subscriptions {
            proposal: client.subscribe(beacons.subject(PROPOSALS)).await?,
            objections: client
                .subscribe(beacons.subject(&format!("{OBJECTIONS}.{daemon}")))
                .await?,
            ends: client.subscribe(beacons.subject(ENDINGS)).await?,
        };
        let (writes, to_do) = mpsc::unbounded_channel();
        store.context.tracker.spawn(carry_out(store.clone(), to_do));
        let millis = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            expiry: Expiry::new(daemon, millis(liveness.lease)),
            known: DaemonView { store, beacons },
            writes,
            done: mpsc::unbounded_channel(),
            heard,
        })
    }

    /// Judges for as long as the connection lasts.
    pub async fn run(mut self, mut tap: WatchdogTap) {
        let mut look = interval(POLL_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let effects = tokio::select! {
                message = self.heard.proposal.next() => match read::<Proposal>(message) {
                    Ok(proposal) => {
                        let now = self.now();
                        let effect = self.expiry.on_proposal(&self.known, &proposal, now);
                        effect.into_iter().collect()
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                message = self.heard.objections.next() => match read::<Objection>(message) {
                    Ok(objection) => {
                        let now = self.now();
                        self.expiry.on_objection(&self.known, &objection, now);
                        continue;
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                message = self.heard.ends.next() => match read::<Ending>(message) {
                    Ok(ending) => {
                        let now = self.now();
                        self.expiry.on_ending(&self.known, &ending, now);
                        continue;
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                Some(lease) = self.done.1.recv() => {
                    self.expiry.on_writes_done(&self.known, &lease).into_iter().collect()
                }
                _ = look.tick() => {
                    let now = self.now();
                    self.expiry.on_tick(&self.known, now)
                }
            };
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }

    async fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Propose(proposal) => self.tell(PROPOSALS, &proposal).await,
            Effect::Object { to, objection } => {
                self.tell(&format!("{OBJECTIONS}.{to}"), &objection).await;
            }
            Effect::Broadcast(ending) => self.tell(ENDINGS, &ending).await,
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
        // The executor ends only with the daemon.
        let _ = self.writes.send(write);
    }

    async fn tell(&self, about: &str, message: &impl Serialize) {
        let payload = serde_json::to_vec(message).unwrap_or_default();
        let beacons = &self.known.beacons;
        let sent = beacons.client().publish(beacons.subject(about), payload.into());
        if timeout(Duration::from_millis(OBJECTION_MS), sent).await.is_err() {
            tracing::debug!("a message to the other daemons could not be sent");
        }
    }

    fn now(&self) -> Now {
        self.known.store.context.clock.now()
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

/// A message of another daemon; otherwise whether the subscription has ended.
fn read<T: DeserializeOwned>(message: Option<Message>) -> Result<T, bool> {
    let message = message.ok_or(true)?;
    serde_json::from_slice(&message.payload).map_err(|_| false)
}
