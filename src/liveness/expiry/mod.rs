//! Decides what time asks for: a state machine without IO. Ends what has been silent for a lease,
//! in two steps: proposals are published first, and what no other daemon objects to is ended.
//! Ends graces and refreshes `last_active`, which need no hearing.
//!
//! Every daemon watches everything; the first in rendezvous order acts, the next a second later, if
//! its replica still shows that there is something to do.
//!
//! Inputs carry the time and what the daemon knows ([`View`]); what is to be done comes out as
//! [`Effect`] values, to be done in their order. The shell around it is [`expiry_task`](super::expiry_task).

mod lease_end;
pub mod messages;
mod takeover;
pub mod writer;

use std::collections::BTreeMap;

use self::takeover::LeaseEnds;
use super::hearing::Hearing;
use super::peers::Peers;
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::lease::{Heard, Leases};
use crate::presence::time::Now;
use crate::presence::user::{Command, ConnectionGen, Due, Index, Turn};
use messages::{Ending, Objection, Proposal, connection_gen, named};

/// How long others may object, in milliseconds.
pub const OBJECTION_MS: u64 = 300;
/// How old a proposal may become, in milliseconds: it takes no longer to prove that this daemon
/// hears. If it was stopped meanwhile, whoever was silent may be back without being heard yet.
const DECIDED_WITHIN_MS: u64 = 2000;
/// How fresh the proof that this daemon hears must be when it carries on what another began, in
/// milliseconds: two probes' time.
const PROVEN_WITHIN_MS: u64 = 1000;
/// How much later than the one before it each daemon acts, in milliseconds.
const STEP_MS: u64 = 1000;
/// How much later than its time even the first acts, in milliseconds: one heartbeat does not reach
/// all daemons at the same moment, and the others should not have to object for that.
const MARGIN_MS: u64 = 100;
/// How long the write of a lapse may take, in milliseconds, once those before it are done; after
/// that it is void, and judged again. Not long: a daemon that was stopped, or that waited for
/// JetStream to have a leader again, would go by what was heard before.
const LAPSE_MS: u64 = 1000;
/// How long another write may take, in milliseconds; after that it is due again.
const WRITE_MS: u64 = 5000;
/// How long each lapse may take, in microseconds: `PROTOCOL`, section 4, grants 1 s for 10 000.
const GRANTED_US: u64 = 100;
/// How many users are taken per part of the store and look.
const MAX_USERS_PER_TICK: usize = 64;
/// How many connections or leases one message names: with the longest ids that fits into any
/// server's `max_payload`.
const PER_MESSAGE: usize = 500;

/// What a daemon knows at the moment. Behind it stand the parts of its replica, each under a lock
/// of its own, or whatever a simulation has of them. A lock may be held while `work` runs, and work
/// asks in this order only: index, leases, peers and hearing.
pub trait View {
    /// Works on the index of each part of the replica, one after another.
    fn each_index(&self, work: impl FnMut(&mut Index));
    /// Works on the index of the part in which a user lies.
    fn with_index<R>(&self, user: &Id, work: impl FnOnce(&mut Index) -> R) -> R;
    /// Works on the shared leases.
    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R;
    /// The connections that the replica shows on a shared lease, by user.
    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<ConnectionGen>)>;
    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R;
    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R;
}

/// Something that the judge wants done.
#[derive(Debug)]
pub enum Effect {
    /// Tells all daemons what is about to be ended.
    Propose(Proposal),
    /// Tells a daemon what of its proposals this one has heard.
    Object { to: DaemonId, objection: Objection },
    /// Tells all daemons who works on the end of a lease, or that it is done.
    Broadcast(Ending),
    /// Writes one user.
    Write(PendingWrite),
    /// Writes users whom a lease holds; [`Expiry::on_writes_done`] is called when all that is done.
    EndLease { lease: Id, writes: Vec<PendingWrite> },
}

/// A write that is to be done.
#[derive(Debug)]
pub struct PendingWrite {
    pub user: Id,
    pub command: Command,
    /// When, on the monotonic clock, it is dropped rather than written.
    pub deadline_ms: u64,
}

/// The judge of one daemon.
#[derive(Debug)]
pub struct Expiry {
    daemon: DaemonId,
    lease_ms: u64,
    last_number: u64,
    pending: Vec<OpenProposal>,
    ends: LeaseEnds,
    /// When all lapses that were begun are written, as long as is granted; in microseconds, as
    /// many small leases may lapse together.
    written_by_us: u64,
}

/// Proposal to which others may still object.
#[derive(Debug)]
struct OpenProposal {
    number: u64,
    proposed_ms: u64,
    connections: Vec<Proposed<(Id, ConnectionGen)>>,
    leases: Vec<Proposed<Id>>,
}

#[derive(Debug)]
struct Proposed<T> {
    what: T,
    /// Somebody has objected; others may have heard it even later.
    objected: bool,
}

impl<T> Proposed<T> {
    fn new(what: T) -> Self {
        Self { what, objected: false }
    }
}

/// Those to which nobody has objected.
fn unopposed<T>(proposal: Vec<Proposed<T>>) -> impl Iterator<Item = T> {
    proposal.into_iter().filter(|each| !each.objected).map(|each| each.what)
}

impl Expiry {
    pub fn new(daemon: DaemonId, lease_ms: u64) -> Self {
        Self {
            daemon,
            lease_ms,
            last_number: 0,
            pending: Vec::new(),
            ends: LeaseEnds::default(),
            written_by_us: 0,
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self, known: &impl View, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.carry_on(known, now.mono_ms, &mut effects);
        self.look(known, now, &mut effects);
        self.decide(known, now.mono_ms, &mut effects);
        effects
    }

    /// Another daemon has a proposal: objects to those of which this one has had a heartbeat within
    /// the lease.
    pub fn on_proposal(
        &mut self,
        known: &impl View,
        proposal: &Proposal,
        now: Now,
    ) -> Option<Effect> {
        let to = DaemonId::parse(&proposal.daemon).filter(|daemon| *daemon != self.daemon)?;
        let now_ms = now.mono_ms;
        let age = |heard: Option<Heard>| {
            let beat_ms = heard?.beat_ms.filter(|at_ms| at_ms + self.lease_ms > now_ms)?;
            Some(now_ms.saturating_sub(beat_ms))
        };
        let mut objection = Objection { number: proposal.number, ..Objection::default() };
        for (place, candidate) in proposal.connections.iter().enumerate() {
            let Some((user, connection_gen)) = connection_gen(candidate) else { continue };
            let heard = known
                .with_index(&user, |index| index.agenda.heard(&user, &connection_gen.connection));
            objection.connections.extend(age(heard).map(|age| (place, age)));
        }
        let mut agreed = Vec::new();
        for (place, lease) in proposal.leases.iter().enumerate() {
            let Ok(lease) = Id::parse(lease, "lease") else { continue };
            let heard = known.leases(|leases| leases.heard(&lease));
            match age(heard) {
                Some(age) => objection.leases.push((place, age)),
                None => agreed.push(lease),
            }
        }
        self.ends.agree(to, proposal.number, agreed, now_ms);
        let objects = !objection.connections.is_empty() || !objection.leases.is_empty();
        objects.then_some(Effect::Object { to, objection })
    }

    /// Another daemon has heard what this one has not.
    pub fn on_objection(&mut self, known: &impl View, objection: &Objection, now: Now) {
        let heard_ms = |age_ms: &u64| now.mono_ms.saturating_sub(*age_ms);
        let Some(pending) = self.pending.iter_mut().find(|p| p.number == objection.number) else {
            return;
        };
        for (place, age_ms) in &objection.connections {
            let Some(candidate) = pending.connections.get_mut(*place) else { continue };
            candidate.objected = true;
            let (user, connection_gen) = &candidate.what;
            known.with_index(user, |index| {
                index.agenda.objected(user, &connection_gen.connection, heard_ms(age_ms));
            });
        }
        for (place, age_ms) in &objection.leases {
            let Some(candidate) = pending.leases.get_mut(*place) else { continue };
            candidate.objected = true;
            known.leases(|leases| leases.objected(&candidate.what, heard_ms(age_ms)));
        }
    }

    /// Takes what is due: writes what the records alone ask for, and publishes proposals to end
    /// what has been silent.
    fn look(&mut self, known: &impl View, now: Now, effects: &mut Vec<Effect>) {
        let now_ms = now.mono_ms;
        let hears_from_ms = known.hearing(|hearing| hearing.from_ms(now_ms));
        let wait_ms =
            |key: &Id| MARGIN_MS + steps(known.peers(|peers| peers.rank_of_hearing(key.as_str())));
        let turn = |key: &Id| Turn {
            hearing_ms: wait_ms(key),
            any_ms: steps(known.peers(|peers| peers.rank(key.as_str()))),
        };
        let mut silent = Vec::new();
        known.each_index(|index| {
            for _ in 0..MAX_USERS_PER_TICK {
                let Some(due) = index.agenda.take_due(now, hears_from_ms, turn) else { break };
                silent.extend(due.silent.iter().map(|each| (due.user.clone(), each.clone())));
                let deadline_ms = now_ms + WRITE_MS;
                let write = |command| {
                    Effect::Write(PendingWrite { user: due.user.clone(), command, deadline_ms })
                };
                effects.extend(commands(&due).map(write));
            }
        });
        let leases = known.leases(|leases| leases.take_due(now_ms, hears_from_ms, wait_ms));
        for chunk in silent.chunks(PER_MESSAGE) {
            effects.push(self.propose(chunk.to_vec(), Vec::new(), now_ms));
        }
        for chunk in leases.chunks(PER_MESSAGE) {
            effects.push(self.propose(Vec::new(), chunk.to_vec(), now_ms));
        }
    }

    fn propose(
        &mut self,
        connections: Vec<(Id, ConnectionGen)>,
        leases: Vec<Id>,
        proposed_ms: u64,
    ) -> Effect {
        self.last_number += 1;
        let number = self.last_number;
        let proposal = Proposal {
            daemon: self.daemon.to_string(),
            number,
            connections: connections
                .iter()
                .map(|(user, connection_gen)| named(user, connection_gen))
                .collect(),
            leases: leases.iter().map(|lease| lease.as_str().to_owned()).collect(),
        };
        self.pending.push(OpenProposal {
            number,
            proposed_ms,
            connections: connections.into_iter().map(Proposed::new).collect(),
            leases: leases.into_iter().map(Proposed::new).collect(),
        });
        Effect::Propose(proposal)
    }

    /// Ends what is proposed to which nobody has objected in time, once it is proven that this daemon
    /// has heard all that came before they were proposed: trouble is found out later than it begins.
    fn decide(&mut self, known: &impl View, now_ms: u64, effects: &mut Vec<Effect>) {
        let (deaf, proven_ms) =
            known.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
        if deaf {
            self.pending.clear();
            return;
        }
        self.pending.retain(|pending| pending.proposed_ms + DECIDED_WITHIN_MS > now_ms);
        let is_decided = |pending: &mut OpenProposal| {
            pending.proposed_ms + OBJECTION_MS <= now_ms && pending.proposed_ms < proven_ms
        };
        let decided: Vec<_> = self.pending.extract_if(.., is_decided).collect();
        let (mut lapsed, mut leases) = (BTreeMap::<Id, Vec<ConnectionGen>>::new(), Vec::new());
        for pending in decided {
            for (user, connection_gen) in unopposed(pending.connections) {
                let silent = known.with_index(&user, |index| {
                    index.agenda.is_silent(&user, &connection_gen, now_ms)
                });
                if silent {
                    lapsed.entry(user).or_default().push(connection_gen);
                }
            }
            let number = pending.number;
            leases.extend(unopposed(pending.leases).map(|lease| (lease, number)));
        }
        let writes = self.lapses(lapsed.into_iter().collect(), now_ms);
        effects.extend(writes.into_iter().map(Effect::Write));
        for (lease, number) in leases {
            self.end(known, lease, number, now_ms, effects);
        }
    }

    /// The writes that end connections.
    fn lapses(&mut self, ended: Vec<(Id, Vec<ConnectionGen>)>, now_ms: u64) -> Vec<PendingWrite> {
        let granted_us = u64::try_from(ended.len()).unwrap_or(u64::MAX).saturating_mul(GRANTED_US);
        let now_us = now_ms.saturating_mul(1000);
        self.written_by_us = self.written_by_us.max(now_us).saturating_add(granted_us);
        let deadline_ms = (self.written_by_us / 1000).saturating_add(LAPSE_MS);
        let lapse = |(user, generations)| PendingWrite {
            user,
            command: Command::Lapse { generations },
            deadline_ms,
        };
        ended.into_iter().map(lapse).collect()
    }
}

/// The commands for what is due by the record alone.
fn commands(due: &Due) -> impl Iterator<Item = Command> {
    let left = (!due.left.is_empty()).then(|| Command::EndLeaving { ended: due.left.clone() });
    let expired = due.expired.map(|expires_at| Command::ExpireStatus { expires_at });
    let stale = due.stale.map(|seen| Command::Refresh { seen });
    left.into_iter().chain(expired).chain(stale)
}

/// How much later than its time a daemon with that rank effects, in milliseconds.
fn steps(rank: usize) -> u64 {
    u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(STEP_MS)
}

#[cfg(test)]
mod tests;
