//! Expiry in two steps: a daemon proposes the end of silent leases, and ends those to which no
//! other daemon objects.

use std::collections::BTreeMap;

use super::messages::{Objection, Proposal, connection_gen, named};
use super::{
    DECIDED_WITHIN_MS, Effect, Expiry, MARGIN_MS, MAX_USERS_PER_TICK, OBJECTION_MS, PendingWrite,
    STEP_MS, View, WRITE_MS,
};
use crate::liveness::peers::{RankFilter, delay_ms};
use crate::presence::entity::DaemonId;
use crate::presence::heard::Heard;
use crate::presence::id::Id;
use crate::presence::time::Now;
use crate::presence::user::{Command, ConnectionGen, Due, Turn};

/// A published proposal that is not decided yet.
#[derive(Debug)]
pub(super) struct OpenProposal {
    number: u64,
    proposed_ms: u64,
    connections: Vec<Proposed<(Id, ConnectionGen)>>,
    leases: Vec<Proposed<Id>>,
}

/// One connection or lease of a proposal.
#[derive(Debug)]
struct Proposed<T> {
    item: T,
    /// A daemon has objected; others may have heard it even later.
    objected: bool,
}

impl<T> Proposed<T> {
    fn new(item: T) -> Self {
        Self { item, objected: false }
    }
}

/// The items without an objection.
fn unopposed<T>(proposed: Vec<Proposed<T>>) -> impl Iterator<Item = T> {
    proposed.into_iter().filter(|each| !each.objected).map(|each| each.item)
}

/// The commands for what is due by the record alone.
fn commands(due: &Due) -> impl Iterator<Item = Command> {
    let left = (!due.left.is_empty()).then(|| Command::EndLeaving { ended: due.left.clone() });
    let expired = due.expired.map(|expires_at| Command::ExpireStatus { expires_at });
    let stale = due.stale.map(|seen| Command::Refresh { seen });
    left.into_iter().chain(expired).chain(stale)
}

impl Expiry {
    /// Objects to the items of another daemon's proposal of which this one has had a heartbeat
    /// within the lease.
    pub fn on_proposal(
        &mut self,
        view: &impl View,
        proposal: &Proposal,
        now: Now,
    ) -> Option<Effect> {
        let to = DaemonId::parse(&proposal.daemon).filter(|daemon| *daemon != self.daemon)?;
        let now_ms = now.mono_ms;
        let age_ms = |heard: Option<Heard>| {
            let (beat_ms, lease_ms) = (heard?.beat_ms?, self.times.lease_ms(heard?));
            (beat_ms + lease_ms > now_ms).then(|| now_ms.saturating_sub(beat_ms))
        };
        let mut objection = Objection { number: proposal.number, ..Objection::default() };
        for (index, name) in proposal.connections.iter().enumerate() {
            let Some((user, connection_gen)) = connection_gen(name) else { continue };
            let heard = view
                .with_index(&user, |index| index.agenda.heard(&user, &connection_gen.connection));
            objection.connections.extend(age_ms(heard).map(|age_ms| (index, age_ms)));
        }
        let mut agreed = Vec::new();
        for (index, lease) in proposal.leases.iter().enumerate() {
            let Ok(lease) = Id::parse(lease, "lease") else { continue };
            let heard = view.leases(|leases| leases.heard(&lease));
            match age_ms(heard) {
                Some(age_ms) => objection.leases.push((index, age_ms)),
                None => agreed.push(lease),
            }
        }
        self.ends.agree(to, proposal.number, agreed, now_ms);
        let objects = !objection.connections.is_empty() || !objection.leases.is_empty();
        objects.then_some(Effect::Object { to, objection })
    }

    /// Records what another daemon has heard and this one has not.
    pub fn on_objection(&mut self, view: &impl View, objection: &Objection, now: Now) {
        let heard_ms = |age_ms: &u64| now.mono_ms.saturating_sub(*age_ms);
        let Some(open) = self.open.iter_mut().find(|open| open.number == objection.number) else {
            return;
        };
        for (index, age_ms) in &objection.connections {
            let Some(proposed) = open.connections.get_mut(*index) else { continue };
            proposed.objected = true;
            let (user, connection_gen) = &proposed.item;
            view.with_index(user, |index| {
                index.agenda.on_objection(
                    user,
                    &connection_gen.connection,
                    heard_ms(age_ms),
                    now.mono_ms,
                );
            });
        }
        for (index, age_ms) in &objection.leases {
            let Some(proposed) = open.leases.get_mut(*index) else { continue };
            proposed.objected = true;
            view.leases(|leases| {
                leases.on_objection(&proposed.item, heard_ms(age_ms), now.mono_ms)
            });
        }
    }

    /// Takes what is due: proposes the end of what has been silent for too long, and writes what
    /// the records alone ask for.
    pub(super) fn take_due(&mut self, view: &impl View, now: Now, effects: &mut Vec<Effect>) {
        let now_ms = now.mono_ms;
        let listens_from_ms = view.hearing(|hearing| hearing.listens_from_ms(now_ms));
        let rank_ms = |key: &Id, filter| {
            delay_ms(view.peers(|peers| peers.rank(key.as_str(), filter)), STEP_MS)
        };
        let hearing = RankFilter::Hearing { tried: &[] };
        let wait_ms = |key: &Id| MARGIN_MS + rank_ms(key, hearing);
        let turn =
            |key: &Id| Turn { hearing_ms: wait_ms(key), any_ms: rank_ms(key, RankFilter::Alive) };
        let mut silent = Vec::new();
        let grace_ms = view.peers(|peers| peers.longest().grace_ms);
        view.each_index(|index| {
            index.agenda.on_grace(grace_ms);
            index.agenda.on_lease_times(self.times);
            let wait_ms = |user: &Id| rank_ms(user, RankFilter::Alive);
            let overtaken = index.early_disconnects.take_due(now_ms, wait_ms);
            effects.extend(overtaken.into_iter().map(|(user, early)| {
                let deadline_ms = now_ms + WRITE_MS;
                Effect::Write(PendingWrite { user, command: early.command(), deadline_ms })
            }));
            for _ in 0..MAX_USERS_PER_TICK {
                let Some(due) = index.agenda.take_due(now, listens_from_ms, turn) else { break };
                let user = &due.user;
                silent.extend(due.silent.iter().map(|each| (user.clone(), each.clone())));
                let deadline_ms = now_ms + WRITE_MS;
                let write = |command| {
                    Effect::Write(PendingWrite { user: user.clone(), command, deadline_ms })
                };
                effects.extend(commands(&due).map(write));
            }
        });
        let leases = view.leases(|leases| {
            leases.on_lease_times(self.times);
            leases.take_due(now_ms, listens_from_ms, wait_ms)
        });
        for chunk in silent.chunks(self.named_per_message) {
            effects.push(self.propose(chunk.to_vec(), Vec::new(), now_ms));
        }
        for chunk in leases.chunks(self.named_per_message) {
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
            connections: connections.iter().map(|(user, each)| named(user, each)).collect(),
            leases: leases.iter().map(|lease| lease.as_str().to_owned()).collect(),
        };
        self.open.push(OpenProposal {
            number,
            proposed_ms,
            connections: connections.into_iter().map(Proposed::new).collect(),
            leases: leases.into_iter().map(Proposed::new).collect(),
        });
        Effect::Propose(proposal)
    }

    /// Ends the unopposed items of proposals whose time for objections is over. That waits for the
    /// proof that this daemon heard all that was sent before it proposed: trouble is detected later
    /// than it begins.
    pub(super) fn decide_proposals(
        &mut self,
        view: &impl View,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let (deaf, proven_ms) =
            view.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
        if deaf {
            self.open.clear();
            return;
        }
        self.open.retain(|open| open.proposed_ms + DECIDED_WITHIN_MS > now_ms);
        let is_decided = |open: &mut OpenProposal| {
            open.proposed_ms + OBJECTION_MS <= now_ms && open.proposed_ms < proven_ms
        };
        let decided: Vec<_> = self.open.extract_if(.., is_decided).collect();
        let (mut lapsed, mut leases) = (BTreeMap::<Id, Vec<ConnectionGen>>::new(), Vec::new());
        for OpenProposal { number, connections, leases: proposed, .. } in decided {
            for (user, connection_gen) in unopposed(connections) {
                let silent = view.with_index(&user, |index| {
                    index.agenda.is_silent(&user, &connection_gen, now_ms)
                });
                if silent {
                    lapsed.entry(user).or_default().push(connection_gen);
                }
            }
            leases.extend(unopposed(proposed).map(|lease| (lease, number)));
        }
        let writes = self.lapses(lapsed.into_iter().collect(), now_ms);
        effects.extend(writes.into_iter().map(Effect::Write));
        for (lease, number) in leases {
            self.begin_end(view, lease, number, now_ms, effects);
        }
    }
}
