//! Where the judge of a daemon sits: hears what the others say, has its acts carried out, and lends
//! it what the daemon knows. All decisions are [`judge`](super::judge)'s.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::hearing::Hearing;
use super::internal::Beacons;
use super::judge::{Act, Judge, Knowledge, OBJECTION_MS};
use super::peers::Peers;
use super::sentences::{EndOfLease, Order, carry_out};
use super::verdicts::{CANDIDATES, Candidates, ENDINGS, Ending, OBJECTIONS, Objection};
use crate::config::Liveness;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::time::Now;
use crate::presence::user::{Index, Lifeline};
use crate::roll_call::Calls;
use crate::store::Store;

/// How often the judge looks at what is due.
const LOOK: Duration = Duration::from_millis(50);

/// The bench of one daemon.
#[derive(Debug)]
pub struct Bench {
    judge: Judge,
    known: Known,
    orders: mpsc::UnboundedSender<Order>,
    /// Leases whose writes are done.
    done: (mpsc::UnboundedSender<Id>, mpsc::UnboundedReceiver<Id>),
    heard: Subscriptions,
}

/// What the judge listens to.
#[derive(Debug)]
struct Subscriptions {
    candidates: Subscriber,
    objections: Subscriber,
    endings: Subscriber,
}

/// What this daemon knows, in its store and from its beacons.
#[derive(Debug)]
struct Known {
    store: Store,
    beacons: Beacons,
}

impl Bench {
    pub async fn new(
        store: Store,
        beacons: Beacons,
        liveness: &Liveness,
    ) -> Result<Self, SubscribeError> {
        let (client, daemon) = (beacons.client(), store.link.daemon);
        let heard = Subscriptions {
            candidates: client.subscribe(beacons.subject(CANDIDATES)).await?,
            objections: client
                .subscribe(beacons.subject(&format!("{OBJECTIONS}.{daemon}")))
                .await?,
            endings: client.subscribe(beacons.subject(ENDINGS)).await?,
        };
        let (orders, to_do) = mpsc::unbounded_channel();
        store.link.tracker.spawn(carry_out(store.clone(), to_do));
        let millis = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            judge: Judge::new(daemon, millis(liveness.lease), millis(liveness.offline_grace)),
            known: Known { store, beacons },
            orders,
            done: mpsc::unbounded_channel(),
            heard,
        })
    }

    /// Judges for as long as the connection lasts.
    pub async fn run(mut self, mut calls: Calls) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let acts = tokio::select! {
                message = self.heard.candidates.next() => match read::<Candidates>(message) {
                    Ok(candidates) => {
                        let now = self.now();
                        let act = self.judge.examine(&self.known, &candidates, now);
                        act.into_iter().collect()
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                message = self.heard.objections.next() => match read::<Objection>(message) {
                    Ok(objection) => {
                        let now = self.now();
                        self.judge.yield_to(&self.known, &objection, now);
                        continue;
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                message = self.heard.endings.next() => match read::<Ending>(message) {
                    Ok(ending) => {
                        let now = self.now();
                        self.judge.note(&self.known, &ending, now);
                        continue;
                    }
                    Err(ended) if ended => return,
                    Err(_) => continue,
                },
                call = calls.next() => {
                    call.answer();
                    continue;
                }
                Some(lease) = self.done.1.recv() => {
                    self.judge.close(&self.known, &lease).into_iter().collect()
                }
                _ = look.tick() => {
                    let now = self.now();
                    self.judge.tick(&self.known, now)
                }
            };
            for act in acts {
                self.carry_out(act).await;
            }
        }
    }

    async fn carry_out(&self, act: Act) {
        match act {
            Act::Propose(candidates) => self.tell(CANDIDATES, &candidates).await,
            Act::Object { to, objection } => {
                self.tell(&format!("{OBJECTIONS}.{to}"), &objection).await;
            }
            Act::Tell(ending) => self.tell(ENDINGS, &ending).await,
            Act::Sentence(sentence) => self.order(Order { sentence, ending: None }),
            Act::EndLease { lease, sentences } => {
                tracing::info!(users = sentences.len(), "a lease has lapsed");
                let ending = Arc::new(EndOfLease { lease, done: self.done.0.clone() });
                for sentence in sentences {
                    self.order(Order { sentence, ending: Some(Arc::clone(&ending)) });
                }
            }
        }
    }

    fn order(&self, order: Order) {
        // The executor ends only with the daemon.
        let _ = self.orders.send(order);
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
        self.known.store.link.clock.now()
    }
}

impl Knowledge for Known {
    fn each_index(&self, mut work: impl FnMut(&mut Index)) {
        self.store.users.for_each_part(|part| work(part.index_mut()));
    }

    fn index_of<R>(&self, user: &Id, work: impl FnOnce(&mut Index) -> R) -> R {
        self.store.users.index_of(user, work)
    }

    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R {
        work(&mut self.store.leases())
    }

    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<Lifeline>)> {
        let mut held = Vec::new();
        self.store.users.for_each_part(|part| {
            for user in part.index().holders(lease) {
                let lines = part.record(&user).map(|record| record.lines_on(lease));
                held.push((user, lines.unwrap_or_default()));
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
