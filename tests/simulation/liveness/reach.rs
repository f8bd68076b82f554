//! The inputs of a simulated daemon: a small version of the shell around the machines.

use presenced::liveness::expiry::{Effect, PendingWrite, View};
use presenced::liveness::hearing::PROBE_MS;
use presenced::liveness::peers::{BEACON_MS, PeerStatus};
use presenced::presence::entity::{DaemonId, Stored};
use presenced::presence::id::Id;
use presenced::presence::time::Now;
use presenced::presence::user::Users;
use presenced::store::stripe::{Effect as StoreEffect, Failure, Found, Job, Stripe};

use super::Broken;
use super::daemon::{Daemon, REQUEST_MS, Ticket};
use super::events::{Event, Heartbeat, Incoming, Reply, Then, ToGateway};
use super::truth::{Voice, is_known};
use super::world::World;
use crate::bucket::Write;

const TICK_MS: u64 = 50;
/// The age of a proposal up to which an objection must be heeded.
const IN_TIME_MS: u64 = 295;

impl World {
    /// A message reaches a daemon, if it is alive; if it is stopped, it waits until the daemon
    /// continues.
    pub fn reach(&mut self, id: DaemonId, incoming: Incoming) -> Result<(), Broken> {
        let now_ms = self.agenda.now_ms;
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        if daemon.is_stopped(now_ms) {
            daemon.backlog.push(incoming);
            return Ok(());
        }
        let now = daemon.now(now_ms);
        match incoming {
            Incoming::Heartbeat { lane, beat, sent_ms } => self.hear(id, lane, &beat, sent_ms),
            Incoming::Probe { lane, number } => {
                daemon.view.hearing.get_mut().on_probe(lane, number, now.mono_ms);
            }
            Incoming::Dropped => {
                let hearing = daemon.view.hearing.get_mut();
                hearing.on_trouble(now.mono_ms, "heartbeats came faster than they were taken");
            }
            Incoming::CutOff => {
                daemon.view.hearing.get_mut().on_cut_off(now.mono_ms, "it was cut off");
            }
            Incoming::Connected => {
                daemon.view.hearing.get_mut().on_connected(now.mono_ms, "it is back");
            }
            Incoming::Beacon { from, status } => {
                if daemon.view.peers.get_mut().on_beacon(from, status, now.mono_ms) {
                    self.send_beacon(id);
                }
            }
            Incoming::Proposal(proposal) => {
                let must = self.truth.objections(daemon, &proposal, now_ms);
                let effect = daemon.expiry.on_proposal(&daemon.view, &proposal, now);
                let objected = match &effect {
                    Some(Effect::Object { objection, .. }) => {
                        let places =
                            |items: &[(usize, u64)]| items.iter().map(|(at, _)| *at).collect();
                        (places(&objection.connections), places(&objection.leases))
                    }
                    _ => (Vec::new(), Vec::new()),
                };
                let all = must.0.iter().all(|at| objected.0.contains(at))
                    && must.1.iter().all(|at| objected.1.contains(at));
                let reliable_ms = self.reliable_ms.get(&id).copied().unwrap_or(u64::MAX);
                if !all && reliable_ms <= now_ms {
                    return Err(Broken(format!(
                        "{id} heard {must:?} of {proposal:?}, and objects to {objected:?}"
                    )));
                }
                self.carry_out_all(id, effect.into_iter().collect())?;
            }
            Incoming::Objection(objection) => {
                let deaf = daemon.view.hearing(|hearing| hearing.deaf(now.mono_ms).is_some());
                let (proposed_ms, heard) = daemon.objected(&objection);
                for (voice, age_ms) in heard {
                    if !deaf && now_ms < proposed_ms + IN_TIME_MS {
                        self.truth.objected(id, voice, now.mono_ms.saturating_sub(age_ms));
                    }
                }
                daemon.expiry.on_objection(&daemon.view, &objection, now);
                self.note(|| format!("{id} yields to {objection:?}"));
            }
            Incoming::EarlyDisconnect { user, early, left } => {
                self.on_early_disconnect(id, &user, early, left);
            }
            Incoming::Void { user, void } => daemon.view.with_index(&user, |index| {
                void.iter().for_each(|early| index.early_disconnects.remove(&user, early));
            }),
            Incoming::Ending(ending) => daemon.expiry.on_ending(&daemon.view, &ending, now),
            Incoming::Ask { to, beat, since_ms } => {
                if now_ms < since_ms + REQUEST_MS {
                    self.answer_heartbeat(id, to, &beat, true);
                }
            }
            Incoming::Request { to, user, command, since_ms } => {
                // A daemon that was stalled drops its queue.
                if now_ms < since_ms + REQUEST_MS {
                    self.on_request(id, to, user, *command)?;
                }
            }
            Incoming::Acked { write, rev } => {
                self.drive(id, |m, now| m.on_acked(write, rev, now))?;
                self.forget_unknown(id);
            }
            Incoming::Conflicted { write } => {
                self.drive(id, |m, now| m.on_conflicted(write, now))?
            }
            Incoming::NoLeader { write } => {
                self.drive(id, |m, now| m.on_failed(write, &Failure::Retry(None), now))?;
            }
            Incoming::Found { key, read, found } => {
                let found = match found {
                    Some(Some(message)) => Found::Entry(message.entry()),
                    Some(None) => Found::Nothing,
                    None => Found::Failed,
                };
                self.drive(id, |m, now| m.on_found(&key, read, found, now))?;
            }
            Incoming::Informed { then, last } => {
                daemon.waiting.push((last, then));
                self.seen(id)?;
            }
            Incoming::BucketAnswered { well } => {
                daemon.view.hearing.get_mut().on_bucket_answer(well);
            }
            Incoming::Feed => self.feed(id)?,
            Incoming::CarryOut(PendingWrite { user, command, deadline_ms }, lease) => {
                let job = Job { command, ticket: Ticket::PendingWrite(lease), deadline_ms };
                self.drive(id, |machine, now| machine.on_command(user, job, now))?;
            }
            Incoming::StripeTick => {
                self.agenda.after(TICK_MS, Event::To(id, Incoming::StripeTick));
                self.drive(id, Stripe::on_tick)?;
            }
            Incoming::ExpiryTick => {
                self.agenda.after(TICK_MS, Event::To(id, Incoming::ExpiryTick));
                if daemon.is_ready() {
                    let effects = daemon.expiry.on_tick(&daemon.view, now);
                    self.carry_out_all(id, effects)?;
                }
            }
            Incoming::Beat => {
                self.agenda.after(BEACON_MS, Event::To(id, Incoming::Beat));
                let peers = daemon.view.peers.get_mut();
                if daemon.view.hearing.get_mut().is_cut_off() {
                    peers.on_cut_off(now.mono_ms);
                }
                peers.detect_failures(now.mono_ms);
                self.send_beacon(id);
            }
            Incoming::SendProbe => {
                self.agenda.after(PROBE_MS, Event::To(id, Incoming::SendProbe));
                let hearing = daemon.view.hearing.get_mut();
                let number = hearing.probe(now.mono_ms);
                if hearing.begin_bucket_query(now.mono_ms) {
                    let ms = self.rng.u64(0..=8);
                    self.agenda.after(ms, Event::AskBucket(id));
                }
                if daemon.link.cut_until_ms <= now_ms {
                    let ms = self.rng.u64(0..=3);
                    self.agenda.after(ms, Event::Probe { by: id, number });
                } else {
                    self.truth.dropped(id, now_ms);
                }
            }
        }
        Ok(())
    }

    /// As the listener of a real daemon.
    fn hear(&mut self, id: DaemonId, lane: usize, beat: &Heartbeat, sent_ms: u64) {
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        let now_ms = daemon.now(self.agenda.now_ms).mono_ms;
        let at_ms = daemon.view.hearing(|hearing| hearing.heard_ms(lane, now_ms));
        let sent_ms = daemon.now(sent_ms).mono_ms;
        for voice in Voice::all(beat) {
            if !is_known(daemon, &voice) {
                continue;
            }
            match &voice {
                Voice::Lease(lease) => {
                    daemon.view.leases(|leases| leases.on_heartbeat(lease, at_ms));
                }
                Voice::Own(user, connection) => daemon
                    .view
                    .with_index(user, |index| index.agenda.on_heartbeat(user, connection, at_ms)),
            }
            self.truth.taken(id, voice, sent_ms);
        }
    }

    fn forget_unknown(&mut self, id: DaemonId) {
        if let Some(daemon) = self.daemons.get(&id) {
            self.truth.forget_unknown(daemon);
        }
    }

    fn send_beacon(&mut self, id: DaemonId) {
        let Some(daemon) = self.daemons.get(&id) else { return };
        let mono_ms = daemon.now(self.agenda.now_ms).mono_ms;
        let deaf = daemon.view.hearing(|hearing| hearing.deaf(mono_ms).is_some());
        let status = PeerStatus { deaf, ..PeerStatus::default() };
        self.send_to_others(id, || Incoming::Beacon { from: id, status });
    }

    /// As the operation `heartbeat`: unknown connections are checked again on a fresh replica.
    fn answer_heartbeat(&mut self, id: DaemonId, to: Reply, beat: &Heartbeat, may_wait: bool) {
        let Some(daemon) = self.daemons.get(&id) else { return };
        let (answer, doubtful) = match beat {
            Heartbeat::Lease(lease) => {
                let held = daemon.view.leases(|leases| leases.held(lease));
                (ToGateway::Held { held }, held.is_none())
            }
            Heartbeat::Connections(all) => {
                let machine = daemon.view.machine.borrow();
                let is_unknown = |(user, connection): &&(Id, Id)| {
                    let record = machine.record(user);
                    !record.is_some_and(|r| r.connections.iter().any(|c| c.id == *connection))
                };
                let connections: Vec<_> = all.iter().filter(is_unknown).cloned().collect();
                let doubtful = !connections.is_empty();
                (ToGateway::Unknown { connections }, doubtful)
            }
        };
        if doubtful && may_wait {
            let then = Then::Answer { to, beat: beat.clone() };
            let ms = self.rng.u64(0..=8);
            self.agenda.after(ms, Event::Info { by: id, then });
        } else {
            self.answer_gateway(id, to, answer);
        }
    }

    fn answer_gateway(
        &mut self,
        from: DaemonId,
        Reply { number, run, .. }: Reply,
        what: ToGateway,
    ) {
        let node = self.daemons.get(&from).map(|daemon| daemon.node);
        if node.is_some_and(|node| self.routes.is_open(node, self.gateways[number].node)) {
            let ms = self.rng.u64(0..=8);
            self.agenda.after(ms, Event::Gateway { number, run, what });
        }
    }

    /// Some entries of the feed reach a daemon.
    fn feed(&mut self, id: DaemonId) -> Result<(), Broken> {
        let reached = self.reaches_leader(id);
        let some = self.rng.usize(1..=8);
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        daemon.feed_due = false;
        let left: Vec<_> = self.bucket.after(daemon.fetched).take(some + 1).cloned().collect();
        if !reached {
            if !left.is_empty() || daemon.position < self.bucket.last_seq {
                daemon.feed_due = true;
                self.agenda.after(100, Event::To(id, Incoming::Feed));
            }
            return Ok(());
        }
        let all = left.len() <= some;
        for message in left.iter().take(some) {
            let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
            daemon.fetched = message.seq;
            self.drive(id, |machine, now| {
                machine.on_fed(&message.key, message.entry(), now);
            })?;
            self.forget_unknown(id);
        }
        if all {
            let (now_ms, last) = (self.agenda.now_ms, self.bucket.last_seq);
            if self.daemons.get_mut(&id).is_some_and(|daemon| daemon.catch_up(last, now_ms)) {
                self.is_ready(id);
            }
            self.seen(id)
        } else {
            self.schedule_feed(id);
            Ok(())
        }
    }

    fn seen(&mut self, id: DaemonId) -> Result<(), Broken> {
        self.schedule_feed_if_behind(id);
        for then in self.daemons.get_mut(&id).map(Daemon::seen).unwrap_or_default() {
            match then {
                Then::Verified { key, verify } => {
                    self.drive(id, |machine, now| machine.on_verified(&key, verify, now))?;
                }
                Then::Answer { to, beat } => self.answer_heartbeat(id, to, &beat, false),
            }
        }
        Ok(())
    }

    fn schedule_feed_if_behind(&mut self, id: DaemonId) {
        let behind = |daemon: &Daemon| daemon.position < self.bucket.last_seq;
        if self.daemons.get(&id).is_some_and(behind) {
            self.schedule_feed(id);
        }
    }

    /// Hands an input to the machine of a daemon and carries out its effects.
    pub fn drive(
        &mut self,
        id: DaemonId,
        input: impl FnOnce(&mut Stripe<Users, Ticket>, Now),
    ) -> Result<(), Broken> {
        let now_ms = self.agenda.now_ms;
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        let now = daemon.now(now_ms);
        let machine = daemon.view.machine.get_mut();
        input(machine, now);
        for effect in machine.take_effects().collect::<Vec<_>>() {
            let ms = self.rng.u64(0..=8);
            match effect {
                StoreEffect::Write { key, write: number, expected, content, .. } => {
                    let write = Write { from: id, epoch: 0, number, key, expected, content };
                    self.agenda.after(ms, Event::Write(write));
                }
                StoreEffect::Read { key, read } => {
                    self.agenda.after(ms, Event::Read { by: id, key, read });
                }
                StoreEffect::Verify { key, verify } => {
                    let then = Then::Verified { key, verify };
                    self.agenda.after(ms, Event::Info { by: id, then });
                }
                StoreEffect::Answer { ticket: Ticket::PendingWrite(lease), .. } => {
                    if let Some(lease) = lease {
                        self.on_user_written(id, &lease)?;
                    }
                }
                StoreEffect::Answer { ticket: Ticket::Request(to), result } => {
                    if result.is_ok() {
                        let request = to.request;
                        self.answer_gateway(id, to, ToGateway::Done { request });
                    }
                }
                StoreEffect::Answer {
                    ticket: Ticket::Disconnect { to, user, early, arrived_ms },
                    result,
                } => {
                    if let Ok(answer) = result {
                        self.on_disconnected(id, (user, early, arrived_ms), &answer.outcome);
                        let request = to.request;
                        self.answer_gateway(id, to, ToGateway::Done { request });
                    }
                }
                StoreEffect::ChangeShared(change) => {
                    let Some(daemon) = self.daemons.get(&id) else { continue };
                    let now = daemon.now(self.agenda.now_ms);
                    change.apply(&mut daemon.view.leases.borrow_mut(), now);
                }
                StoreEffect::Announce(_)
                | StoreEffect::RemoteChange { .. }
                | StoreEffect::Lost { .. }
                | StoreEffect::Suspect => {}
            }
        }
        Ok(())
    }

    /// The stored record of a user, if it can be read.
    pub fn stored(&self, user: &Id) -> Option<&presenced::presence::user::Record> {
        self.bucket.last(user).map(|message| &message.stored).and_then(Stored::record)
    }
}
