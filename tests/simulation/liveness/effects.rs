//! Carries out the effects of the expiry machine.

use std::rc::Rc;

use presenced::liveness::expiry::messages::Proposal;
use presenced::liveness::expiry::{Effect, PendingWrite};
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::user::Command;

use super::Broken;
use super::daemon::Daemon;
use super::events::{Event, Incoming};
use super::truth::{Voice, ended_by};
use super::world::{World, id as parse};

/// The maximum age of a proposal that is decided.
const DECIDED_WITHIN_MS: u64 = 2000;

impl World {
    pub fn carry_out_all(&mut self, id: DaemonId, effects: Vec<Effect>) -> Result<(), Broken> {
        let mut carries_on = false;
        for effect in effects {
            match effect {
                Effect::Propose(proposal) => {
                    self.note(|| format!("{id} proposes {proposal:?}"));
                    self.proposed(id, &proposal);
                    let proposal = Rc::new(proposal);
                    if let Some(daemon) = self.daemons.get_mut(&id) {
                        let number = proposal.number;
                        daemon.proposal.insert(number, (self.agenda.now_ms, Rc::clone(&proposal)));
                    }
                    self.send_to_others(id, || Incoming::Proposal(Rc::clone(&proposal)));
                    self.strike(id);
                }
                Effect::Object { to, objection } => {
                    self.note(|| format!("{id} objects to {to}: {objection:?}"));
                    self.truth.counts.objections += 1;
                    self.send(id, to, Incoming::Objection(objection));
                }
                Effect::Broadcast(ending) => {
                    self.note(|| format!("{id} broadcasts {ending:?}"));
                    carries_on = !ending.done && ending.number == 0;
                    let copy = || Incoming::Ending(ending.clone());
                    self.send_to_others(id, copy);
                }
                Effect::Write(write) => self.write_due(id, write, None)?,
                Effect::EndLease { lease, writes } => {
                    if let Some(daemon) = self.daemons.get_mut(&id) {
                        *daemon.ending.entry(lease.clone()).or_default() += writes.len() + 1;
                    }
                    let now_ms = self.agenda.now_ms;
                    if carries_on {
                        self.truth.ends.take_over(&lease, &writes, now_ms)?;
                        self.truth.counts.taken_over += 1;
                    } else {
                        let contested = self.is_heard(&lease);
                        self.truth.ends.begin(&lease, &writes, contested, now_ms);
                    }
                    for write in writes {
                        self.write_due(id, write, Some((&lease, carries_on)))?;
                    }
                    self.strike(id);
                    self.on_user_written(id, &lease)?;
                }
            }
        }
        Ok(())
    }

    fn proposed(&mut self, id: DaemonId, proposal: &Proposal) {
        let now_ms = self.agenda.now_ms;
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        let own = proposal.connections.iter().map(|(u, c, _)| Voice::Own(parse(u), parse(c)));
        let shared = proposal.leases.iter().map(|lease| Voice::Lease(parse(lease)));
        for voice in own.chain(shared) {
            let proposed_ms = daemon.proposed_ms.entry(voice).or_insert(now_ms);
            if *proposed_ms + DECIDED_WITHIN_MS < now_ms {
                *proposed_ms = now_ms;
            }
        }
    }

    /// Returns whether a daemon has heard a lease recently.
    fn is_heard(&self, lease: &Id) -> bool {
        let (now_ms, voice) = (self.agenda.now_ms, Voice::Lease(lease.clone()));
        let must =
            |daemon: &Daemon| self.truth.must_object(daemon.id, &voice, daemon.now(now_ms).mono_ms);
        self.daemons.values().any(must)
    }

    /// A write of the expiry machine, possibly for the end of a lease that this daemon began or
    /// took
    /// over.
    fn write_due(
        &mut self,
        id: DaemonId,
        it: PendingWrite,
        lease: Option<(&Id, bool)>,
    ) -> Result<(), Broken> {
        let now_ms = self.agenda.now_ms;
        self.note(|| format!("{id} writes {it:?}"));
        let carries_on = lease.is_some_and(|(_, carries_on)| carries_on);
        let lease = lease.map(|(lease, _)| lease);
        let voices = ended_by(&it.user, &it.command, lease);
        if let Some(daemon) = self.daemons.get(&id).filter(|_| !carries_on) {
            for voice in &voices {
                let checked = self.truth.check_end(daemon, voice, now_ms);
                checked.map_err(|what| Broken(format!("{voice:?} is ended, and {what}")))?;
            }
        }
        // The refresh is timed from when each daemon saw the record, which may be long ago.
        let counted_ms = match it.command {
            Command::Refresh { .. } => self.settings.refresh_ms,
            _ => 0,
        };
        if self.is_quiet(now_ms.saturating_sub(counted_ms)) {
            let what = format!("{:?} {:?}", it.user, it.command);
            let alone = self.truth.acts_alone(id, what, now_ms);
            alone.map_err(|how| Broken(format!("{it:?}: {how}")))?;
        }
        let ms = if lease.is_some() { self.rng.u64(0..60) } else { self.rng.u64(0..4) };
        self.agenda.after(ms, Event::To(id, Incoming::CarryOut(it, lease.cloned())));
        if !voices.is_empty() && lease.is_none() {
            self.strike(id);
        }
        Ok(())
    }

    /// One user fewer to be written until a lease has ended.
    pub fn on_user_written(&mut self, id: DaemonId, lease: &Id) -> Result<(), Broken> {
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        let Some(left) = daemon.ending.get_mut(lease) else { return Ok(()) };
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        daemon.ending.remove(lease);
        let effect = daemon.expiry.on_writes_done(&daemon.view, lease);
        self.carry_out_all(id, effect.into_iter().collect())
    }
}
