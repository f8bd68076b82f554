//! Decides what time asks for: a state machine without IO. Ends what has been silent for a lease,
//! in two steps: the candidates are published first, and what no other daemon objects to is ended.
//! Ends graces and refreshes `last_active`, which need no hearing.
//!
//! Every daemon watches everything; the first in rendezvous order acts, the next a second later, if
//! its replica still shows that there is something to do.
//!
//! Inputs carry the time and what the daemon knows ([`Knowledge`]); what is to be done comes out as
//! [`Act`] values, to be done in their order. The shell around it is [`bench`](super::bench).

mod endings;
mod ends;

use std::collections::BTreeMap;

use self::endings::Endings;
use super::hearing::Hearing;
use super::peers::Peers;
use super::verdicts::{Candidates, Ending, Objection, line, named};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::lease::{Heard, Leases};
use crate::presence::time::Now;
use crate::presence::user::{Command, Index, Lifeline};

/// How long others may object, in milliseconds.
pub const OBJECTION_MS: u64 = 300;
/// How old candidates may become, in milliseconds: it takes no longer to prove that this daemon
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
const AT_A_TIME: usize = 64;
/// How many connections or leases one message names: with the longest ids that fits into any
/// server's `max_payload`.
const PER_MESSAGE: usize = 500;

/// What a daemon knows at the moment. Behind it stand the parts of its replica, each under a lock
/// of its own, or whatever a simulation has of them. A lock may be held while `work` runs, and work
/// asks in this order only: index, leases, peers and hearing.
pub trait Knowledge {
    /// Works on the index of each part of the replica, one after another.
    fn each_index(&self, work: impl FnMut(&mut Index));
    /// Works on the index of the part in which a user lies.
    fn index_of<R>(&self, user: &Id, work: impl FnOnce(&mut Index) -> R) -> R;
    /// Works on the shared leases.
    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R;
    /// The connections that the replica shows on a shared lease, by user.
    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<Lifeline>)>;
    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R;
    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R;
}

/// Something that the judge wants done.
#[derive(Debug)]
pub enum Act {
    /// Tells all daemons what is about to be ended.
    Propose(Candidates),
    /// Tells a daemon what of its candidates this one has heard.
    Object { to: DaemonId, objection: Objection },
    /// Tells all daemons who works on the end of a lease, or that it is done.
    Tell(Ending),
    /// Writes one user.
    Sentence(Sentence),
    /// Writes users whom a lease holds; [`Judge::close`] is called when all that is done.
    EndLease { lease: Id, sentences: Vec<Sentence> },
}

/// A write that is to be done.
#[derive(Debug)]
pub struct Sentence {
    pub user: Id,
    pub command: Command,
    /// When, on the monotonic clock, it is dropped rather than written.
    pub deadline_ms: u64,
}

/// The judge of one daemon.
#[derive(Debug)]
pub struct Judge {
    daemon: DaemonId,
    lease_ms: u64,
    grace_ms: u64,
    last_number: u64,
    pending: Vec<Pending>,
    endings: Endings,
    /// When all lapses that were sentenced are written, as long as is granted; in microseconds, as
    /// many small leases may lapse together.
    written_by_us: u64,
}

/// Candidates to which others may still object.
#[derive(Debug)]
struct Pending {
    number: u64,
    proposed_ms: u64,
    connections: Vec<Candidate<(Id, Lifeline)>>,
    leases: Vec<Candidate<Id>>,
}

#[derive(Debug)]
struct Candidate<T> {
    what: T,
    /// Somebody has objected; others may have heard it even later.
    spared: bool,
}

impl<T> Candidate<T> {
    fn new(what: T) -> Self {
        Self { what, spared: false }
    }
}

/// Those to which nobody has objected.
fn condemned<T>(candidates: Vec<Candidate<T>>) -> impl Iterator<Item = T> {
    candidates.into_iter().filter(|each| !each.spared).map(|each| each.what)
}

impl Judge {
    pub fn new(daemon: DaemonId, lease_ms: u64, grace_ms: u64) -> Self {
        Self {
            daemon,
            lease_ms,
            grace_ms,
            last_number: 0,
            pending: Vec::new(),
            endings: Endings::default(),
            written_by_us: 0,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, known: &impl Knowledge, now: Now) -> Vec<Act> {
        let mut acts = Vec::new();
        self.end_graces(known, now, &mut acts);
        self.carry_on(known, now.mono_ms, &mut acts);
        self.look(known, now, &mut acts);
        self.decide(known, now.mono_ms, &mut acts);
        acts
    }

    /// Another daemon has candidates: objects to those of which this one has had a heartbeat within
    /// the lease.
    pub fn examine(
        &mut self,
        known: &impl Knowledge,
        candidates: &Candidates,
        now: Now,
    ) -> Option<Act> {
        let to = DaemonId::parse(&candidates.daemon).filter(|daemon| *daemon != self.daemon)?;
        let now_ms = now.mono_ms;
        let age = |heard: Option<Heard>| {
            let beat_ms = heard?.beat_ms.filter(|at_ms| at_ms + self.lease_ms > now_ms)?;
            Some(now_ms.saturating_sub(beat_ms))
        };
        let mut objection = Objection { number: candidates.number, ..Objection::default() };
        for (place, candidate) in candidates.connections.iter().enumerate() {
            let Some((user, line)) = line(candidate) else { continue };
            let heard = known.index_of(&user, |index| index.vitals.heard(&user, &line.connection));
            objection.connections.extend(age(heard).map(|age| (place, age)));
        }
        let mut agreed = Vec::new();
        for (place, lease) in candidates.leases.iter().enumerate() {
            let Ok(lease) = Id::parse(lease, "lease") else { continue };
            let heard = known.leases(|leases| leases.heard(&lease));
            match age(heard) {
                Some(age) => objection.leases.push((place, age)),
                None => agreed.push(lease),
            }
        }
        self.endings.agree(to, candidates.number, agreed, now_ms);
        let objects = !objection.connections.is_empty() || !objection.leases.is_empty();
        objects.then_some(Act::Object { to, objection })
    }

    /// Another daemon has heard what this one has not.
    pub fn yield_to(&mut self, known: &impl Knowledge, objection: &Objection, now: Now) {
        let heard_ms = |age_ms: &u64| now.mono_ms.saturating_sub(*age_ms);
        let Some(pending) = self.pending.iter_mut().find(|p| p.number == objection.number) else {
            return;
        };
        for (place, age_ms) in &objection.connections {
            let Some(candidate) = pending.connections.get_mut(*place) else { continue };
            candidate.spared = true;
            let (user, line) = &candidate.what;
            known.index_of(user, |index| {
                index.vitals.objected(user, &line.connection, heard_ms(age_ms));
            });
        }
        for (place, age_ms) in &objection.leases {
            let Some(candidate) = pending.leases.get_mut(*place) else { continue };
            candidate.spared = true;
            known.leases(|leases| leases.objected(&candidate.what, heard_ms(age_ms)));
        }
    }

    /// Ends the graces that are over.
    fn end_graces(&self, known: &impl Knowledge, now: Now, acts: &mut Vec<Act>) {
        known.each_index(|index| {
            for _ in 0..AT_A_TIME {
                let Some((user, grace)) = index.take_due_grace(self.grace_ms, now) else { break };
                let rank = known.peers(|peers| peers.rank(user.as_str()));
                let turn_ms = grace.seen_ms + self.grace_ms + steps(rank);
                if turn_ms > now.mono_ms {
                    index.postpone(user, grace, self.grace_ms, turn_ms - now.mono_ms, now);
                } else {
                    // Seen again only if the write does not happen.
                    index.postpone(user.clone(), grace, self.grace_ms, WRITE_MS, now);
                    let command = Command::EndGrace { since: grace.since };
                    let deadline_ms = now.mono_ms + WRITE_MS;
                    acts.push(Act::Sentence(Sentence { user, command, deadline_ms }));
                }
            }
        });
    }

    /// Takes what is due, and publishes the candidates.
    fn look(&mut self, known: &impl Knowledge, now: Now, acts: &mut Vec<Act>) {
        let now_ms = now.mono_ms;
        let hears_from_ms = known.hearing(|hearing| hearing.from_ms(now_ms));
        let wait_ms =
            |key: &Id| MARGIN_MS + steps(known.peers(|peers| peers.rank_of_hearing(key.as_str())));
        let mut silent = Vec::new();
        known.each_index(|index| {
            for _ in 0..AT_A_TIME {
                let Some(due) = index.vitals.take_due(now, hears_from_ms, wait_ms) else { break };
                silent.extend(due.silent.into_iter().map(|line| (due.user.clone(), line)));
                if let Some(seen) = due.stale {
                    let (command, deadline_ms) = (Command::Refresh { seen }, now_ms + WRITE_MS);
                    acts.push(Act::Sentence(Sentence { user: due.user, command, deadline_ms }));
                }
            }
        });
        let leases = known.leases(|leases| leases.take_due(now_ms, hears_from_ms, wait_ms));
        for chunk in silent.chunks(PER_MESSAGE) {
            acts.push(self.propose(chunk.to_vec(), Vec::new(), now_ms));
        }
        for chunk in leases.chunks(PER_MESSAGE) {
            acts.push(self.propose(Vec::new(), chunk.to_vec(), now_ms));
        }
    }

    fn propose(
        &mut self,
        connections: Vec<(Id, Lifeline)>,
        leases: Vec<Id>,
        proposed_ms: u64,
    ) -> Act {
        self.last_number += 1;
        let number = self.last_number;
        let candidates = Candidates {
            daemon: self.daemon.to_string(),
            number,
            connections: connections.iter().map(|(user, line)| named(user, line)).collect(),
            leases: leases.iter().map(|lease| lease.as_str().to_owned()).collect(),
        };
        self.pending.push(Pending {
            number,
            proposed_ms,
            connections: connections.into_iter().map(Candidate::new).collect(),
            leases: leases.into_iter().map(Candidate::new).collect(),
        });
        Act::Propose(candidates)
    }

    /// Ends the candidates to which nobody has objected in time, once it is proven that this daemon
    /// has heard all that came before they were proposed: trouble is found out later than it begins.
    fn decide(&mut self, known: &impl Knowledge, now_ms: u64, acts: &mut Vec<Act>) {
        let (deaf, proven_ms) =
            known.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
        if deaf {
            self.pending.clear();
            return;
        }
        self.pending.retain(|pending| pending.proposed_ms + DECIDED_WITHIN_MS > now_ms);
        let is_decided = |pending: &mut Pending| {
            pending.proposed_ms + OBJECTION_MS <= now_ms && pending.proposed_ms < proven_ms
        };
        let decided: Vec<_> = self.pending.extract_if(.., is_decided).collect();
        let (mut lapsed, mut leases) = (BTreeMap::<Id, Vec<Lifeline>>::new(), Vec::new());
        for pending in decided {
            for (user, line) in condemned(pending.connections) {
                let silent =
                    known.index_of(&user, |index| index.vitals.is_silent(&user, &line, now_ms));
                if silent {
                    lapsed.entry(user).or_default().push(line);
                }
            }
            let number = pending.number;
            leases.extend(condemned(pending.leases).map(|lease| (lease, number)));
        }
        let sentences = self.lapses(lapsed.into_iter().collect(), now_ms);
        acts.extend(sentences.into_iter().map(Act::Sentence));
        for (lease, number) in leases {
            self.end(known, lease, number, now_ms, acts);
        }
    }

    /// The sentences that end connections.
    fn lapses(&mut self, ended: Vec<(Id, Vec<Lifeline>)>, now_ms: u64) -> Vec<Sentence> {
        let granted_us = u64::try_from(ended.len()).unwrap_or(u64::MAX).saturating_mul(GRANTED_US);
        let now_us = now_ms.saturating_mul(1000);
        self.written_by_us = self.written_by_us.max(now_us).saturating_add(granted_us);
        let deadline_ms = (self.written_by_us / 1000).saturating_add(LAPSE_MS);
        let lapse =
            |(user, lines)| Sentence { user, command: Command::Lapse { lines }, deadline_ms };
        ended.into_iter().map(lapse).collect()
    }
}

/// How much later than its time a daemon with that rank acts, in milliseconds.
fn steps(rank: usize) -> u64 {
    u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(STEP_MS)
}

#[cfg(test)]
mod tests;
