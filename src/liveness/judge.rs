//! Does what time asks for. Ends what has been silent for a lease, in two steps: the candidates are
//! published first, and what no other daemon objects to is ended. Ends graces and refreshes
//! `last_active`, which need no hearing.
//!
//! Every daemon watches everything; the first in rendezvous order acts, the next a second later, if
//! its replica still shows that there is something to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::internal::Beacons;
use super::sentences::{EndOfLease, Sentence, WRITE_MS, carry_out};
use super::verdicts::{CANDIDATES, Candidates, ENDINGS, Ending, OBJECTIONS, Objection, line};
use crate::config::Liveness;
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::lease::Heard;
use crate::presence::user::{Command, Lifeline};
use crate::store::Store;

/// How often the judge looks at what is due.
const LOOK: Duration = Duration::from_millis(50);
/// How long others may object, in milliseconds.
const OBJECTION_MS: u64 = 300;
/// How much later than the one before it each daemon acts, in milliseconds.
const STEP_MS: u64 = 1000;
/// How much later than its time even the first acts, in milliseconds: one heartbeat does not reach
/// all daemons at the same moment, and the others should not have to object for that.
const MARGIN_MS: u64 = 100;
/// How many users are taken per part of the store and look.
const AT_A_TIME: usize = 64;
/// How many connections one message of candidates names.
const PER_MESSAGE: usize = 500;

/// The judge of one daemon.
#[derive(Debug)]
pub struct Judge {
    store: Store,
    beacons: Beacons,
    lease_ms: u64,
    grace_ms: u64,
    last_number: u64,
    pending: Vec<Pending>,
    sentences: mpsc::UnboundedSender<Sentence>,
    /// Leases whose end is done.
    done: (mpsc::UnboundedSender<Id>, mpsc::UnboundedReceiver<Id>),
}

/// Candidates to which others may still object.
#[derive(Debug)]
struct Pending {
    number: u64,
    proposed_ms: u64,
    connections: Vec<Option<(Id, Lifeline)>>,
    leases: Vec<Option<Id>>,
}

/// What the judge listens to.
#[derive(Debug)]
pub struct Bench {
    candidates: Subscriber,
    objections: Subscriber,
    endings: Subscriber,
}

impl Bench {
    pub async fn subscribe(beacons: &Beacons, daemon: DaemonId) -> Result<Self, SubscribeError> {
        let client = beacons.client();
        Ok(Self {
            candidates: client.subscribe(CANDIDATES).await?,
            objections: client.subscribe(format!("{OBJECTIONS}.{daemon}")).await?,
            endings: client.subscribe(ENDINGS).await?,
        })
    }
}

impl Judge {
    pub fn new(store: Store, beacons: Beacons, liveness: &Liveness) -> Self {
        let (sentences, to_do) = mpsc::unbounded_channel();
        store.link.tracker.spawn(carry_out(store.clone(), to_do));
        let millis = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Self {
            store,
            beacons,
            lease_ms: millis(liveness.lease),
            grace_ms: millis(liveness.offline_grace),
            last_number: 0,
            pending: Vec::new(),
            sentences,
            done: mpsc::unbounded_channel(),
        }
    }

    /// Judges for as long as the connection lasts.
    pub async fn run(mut self, mut bench: Bench) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                candidates = bench.candidates.next() => match read(candidates) {
                    Ok(candidates) => self.examine(&candidates).await,
                    Err(ended) if ended => return,
                    Err(_) => {}
                },
                objection = bench.objections.next() => match read(objection) {
                    Ok(objection) => self.yield_to(&objection),
                    Err(ended) if ended => return,
                    Err(_) => {}
                },
                ending = bench.endings.next() => match read(ending) {
                    Ok(ending) => self.note(&ending),
                    Err(ended) if ended => return,
                    Err(_) => {}
                },
                Some(lease) = self.done.1.recv() => self.close(&lease).await,
                _ = look.tick() => {
                    self.end_graces();
                    self.look().await;
                    self.decide().await;
                }
            }
        }
    }

    /// Ends the graces that are over.
    fn end_graces(&self) {
        let now = self.store.link.clock.now();
        let mut over = Vec::new();
        self.store.users.for_each_part(|part| {
            let index = part.index_mut();
            for _ in 0..AT_A_TIME {
                let Some((user, grace)) = index.take_due_grace(self.grace_ms, now) else { break };
                let wait_ms = self.beacons.peers().rank(user.as_str()) as u64 * STEP_MS;
                let turn_ms = grace.seen_ms + self.grace_ms + wait_ms;
                if turn_ms > now.mono_ms {
                    index.postpone(user, grace, self.grace_ms, turn_ms - now.mono_ms, now);
                } else {
                    // Seen again only if the write does not happen.
                    index.postpone(user.clone(), grace, self.grace_ms, WRITE_MS, now);
                    over.push((user, grace.since));
                }
            }
        });
        for (user, since) in over {
            self.sentence(user, Command::EndGrace { since }, None);
        }
    }

    /// Takes what is due, and publishes the candidates.
    async fn look(&mut self) {
        let now = self.store.link.clock.now();
        let now_ms = now.mono_ms;
        let hears_from_ms = self.beacons.hearing().from_ms(now_ms);
        let mut silent = Vec::new();
        let mut stale = Vec::new();
        self.store.users.for_each_part(|part| {
            let vitals = &mut part.index_mut().vitals;
            for _ in 0..AT_A_TIME {
                let wait_ms =
                    |user: &Id| steps(self.beacons.peers().rank_of_hearing(user.as_str()));
                let Some(due) = vitals.take_due(now, hears_from_ms, wait_ms) else { break };
                silent.extend(due.silent.into_iter().map(|line| (due.user.clone(), line)));
                stale.extend(due.stale.map(|seen| (due.user.clone(), seen)));
            }
        });
        for (user, seen) in stale {
            self.sentence(user, Command::Refresh { seen }, None);
        }
        let leases = self.store.leases().take_due(
            now_ms,
            hears_from_ms,
            |lease| steps(self.beacons.peers().rank_of_hearing(lease.as_str())),
            |daemon| self.beacons.peers().is_alive(daemon),
        );
        for chunk in silent.chunks(PER_MESSAGE) {
            self.propose(chunk.to_vec(), Vec::new(), now_ms).await;
        }
        if !leases.is_empty() {
            self.propose(Vec::new(), leases, now_ms).await;
        }
    }

    async fn propose(&mut self, connections: Vec<(Id, Lifeline)>, leases: Vec<Id>, now_ms: u64) {
        self.last_number += 1;
        let text = |id: &Id| id.as_str().to_owned();
        let named = connections
            .iter()
            .map(|(user, line)| (text(user), text(&line.connection), line.connects));
        let candidates = Candidates {
            daemon: self.store.link.daemon.to_string(),
            number: self.last_number,
            connections: named.collect(),
            leases: leases.iter().map(text).collect(),
        };
        self.tell(CANDIDATES.to_owned(), &candidates).await;
        self.pending.push(Pending {
            number: self.last_number,
            proposed_ms: now_ms,
            connections: connections.into_iter().map(Some).collect(),
            leases: leases.into_iter().map(Some).collect(),
        });
    }

    /// Objects to what this daemon has heard within the lease.
    async fn examine(&self, candidates: &Candidates) {
        if candidates.daemon == self.store.link.daemon.to_string() {
            return;
        }
        let now_ms = self.now_ms();
        let age = |heard: Option<Heard>| {
            let heard = heard.filter(|heard| heard.really)?;
            (heard.at_ms + self.lease_ms > now_ms).then(|| now_ms.saturating_sub(heard.at_ms))
        };
        let mut objection = Objection { number: candidates.number, ..Objection::default() };
        for (index, candidate) in candidates.connections.iter().enumerate() {
            let Some((user, line)) = line(candidate) else { continue };
            let heard = self
                .store
                .users
                .index_of(&user, |index| index.vitals.heard(&user, &line.connection));
            objection.connections.extend(age(heard).map(|age| (index, age)));
        }
        for (index, lease) in candidates.leases.iter().enumerate() {
            let Ok(lease) = Id::parse(lease, "lease") else { continue };
            objection.leases.extend(age(self.store.leases().heard(&lease)).map(|age| (index, age)));
        }
        if !objection.connections.is_empty() || !objection.leases.is_empty() {
            self.tell(format!("{OBJECTIONS}.{}", candidates.daemon), &objection).await;
        }
    }

    /// Another daemon has heard what this one has not.
    fn yield_to(&mut self, objection: &Objection) {
        let now_ms = self.now_ms();
        let Some(pending) = self.pending.iter_mut().find(|p| p.number == objection.number) else {
            return;
        };
        for (index, age_ms) in &objection.connections {
            let candidate = pending.connections.get_mut(*index).and_then(Option::take);
            if let Some((user, line)) = candidate {
                self.store.users.index_of(&user, |index| {
                    let at_ms = now_ms.saturating_sub(*age_ms);
                    index.vitals.objected(&user, &line.connection, at_ms);
                });
            }
        }
        for (index, age_ms) in &objection.leases {
            if let Some(lease) = pending.leases.get_mut(*index).and_then(Option::take) {
                self.store.leases().objected(&lease, now_ms.saturating_sub(*age_ms));
            }
        }
    }

    /// Ends the candidates to which nobody has objected in time, once it is proven that this daemon
    /// has heard all that came before they were proposed: trouble is found out later than it begins.
    async fn decide(&mut self) {
        let now_ms = self.now_ms();
        let (deaf, proven_ms) = {
            let hearing = self.beacons.hearing();
            (hearing.deaf(now_ms).is_some(), hearing.proven_ms())
        };
        if deaf {
            self.pending.clear();
            return;
        }
        let is_decided = |pending: &mut Pending| {
            pending.proposed_ms + OBJECTION_MS <= now_ms && pending.proposed_ms < proven_ms
        };
        let decided: Vec<_> = self.pending.extract_if(.., is_decided).collect();
        let (mut lapsed, mut leases) = (BTreeMap::<Id, Vec<Lifeline>>::new(), Vec::new());
        for pending in decided {
            for (user, line) in pending.connections.into_iter().flatten() {
                let silent = self
                    .store
                    .users
                    .index_of(&user, |index| index.vitals.is_silent(&user, &line, now_ms));
                if silent {
                    lapsed.entry(user).or_default().push(line);
                }
            }
            leases.extend(pending.leases.into_iter().flatten());
        }
        for (user, lines) in lapsed {
            self.sentence(user, Command::Lapse { lines }, None);
        }
        for lease in leases {
            self.end(lease, now_ms).await;
        }
    }

    /// Begins to end a lease as a whole: all that it holds now, and nothing that connects from here
    /// on.
    async fn end(&self, lease: Id, now_ms: u64) {
        let daemon = self.store.link.daemon;
        {
            let mut leases = self.store.leases();
            let heard_ms = leases.heard(&lease).map_or(0, |heard| heard.at_ms);
            if heard_ms + self.lease_ms > now_ms {
                return;
            }
            leases.begin_end(&lease, daemon, now_ms);
        }
        self.tell_ending(&lease, false).await;
        let mut held = Vec::new();
        self.store.users.for_each_part(|part| {
            for user in part.index().holders(&lease) {
                let connections = part.record(&user).map(|record| record.connections.as_slice());
                let connections = connections.unwrap_or_default().iter();
                let lines = connections
                    .filter(|each| each.lease.as_ref() == Some(&lease))
                    .map(|each| Lifeline { connection: each.id.clone(), connects: each.connects });
                held.push((user, lines.collect::<Vec<_>>()));
            }
        });
        tracing::info!(connections = held.len(), "a lease has lapsed");
        let ending = Arc::new(EndOfLease { lease, done: self.done.0.clone() });
        for (user, lines) in held {
            self.sentence(user, Command::Lapse { lines }, Some(Arc::clone(&ending)));
        }
    }

    /// The end of a lease that this daemon began is done.
    async fn close(&self, lease: &Id) {
        self.store.leases().ended(lease);
        self.tell_ending(lease, true).await;
    }

    /// Another daemon begins to end a lease, or has done so.
    fn note(&self, ending: &Ending) {
        let (Some(daemon), Ok(lease)) =
            (DaemonId::parse(&ending.daemon), Id::parse(&ending.lease, "lease"))
        else {
            return;
        };
        if daemon == self.store.link.daemon {
            return;
        }
        let now_ms = self.now_ms();
        if ending.done {
            self.store.leases().ended(&lease);
        } else {
            self.store.leases().begin_end(&lease, daemon, now_ms);
        }
    }

    fn sentence(&self, user: Id, command: Command, ending: Option<Arc<EndOfLease>>) {
        // The executor ends only with the daemon.
        let _ = self.sentences.send(Sentence { user, command, ending });
    }

    async fn tell_ending(&self, lease: &Id, done: bool) {
        let daemon = self.store.link.daemon.to_string();
        let ending = Ending { daemon, lease: lease.as_str().to_owned(), done };
        self.tell(ENDINGS.to_owned(), &ending).await;
    }

    async fn tell(&self, subject: String, message: &impl Serialize) {
        let payload = serde_json::to_vec(message).unwrap_or_default();
        let sent = self.beacons.client().publish(subject, payload.into());
        if timeout(Duration::from_millis(OBJECTION_MS), sent).await.is_err() {
            tracing::debug!("a message to the other daemons could not be sent");
        }
    }

    fn now_ms(&self) -> u64 {
        self.store.link.clock.now().mono_ms
    }
}

/// How much later than its time a daemon with that rank acts, in milliseconds.
fn steps(rank: usize) -> u64 {
    u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(STEP_MS).saturating_add(MARGIN_MS)
}

/// A message of another daemon; otherwise whether the subscription has ended.
fn read<T: DeserializeOwned>(message: Option<Message>) -> Result<T, bool> {
    let message = message.ok_or(true)?;
    serde_json::from_slice(&message.payload).map_err(|_| false)
}
