//! How a shared lease ends as a whole: the first in order begins, tells the others what is to be
//! ended, and tells them when that is done. If it is not done in time the next carries on.

use super::takeover::Lines;
use super::{DECIDED_WITHIN_MS, Effect, Expiry, PER_MESSAGE, PROVEN_WITHIN_MS, View, steps};
use crate::liveness::expiry::messages::{Ending, named};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::time::Now;

impl Expiry {
    /// Another daemon begins to end a lease, or has done so.
    pub fn on_ending(&mut self, known: &impl View, ending: &Ending, now: Now) {
        let (Some(daemon), Ok(lease)) =
            (DaemonId::parse(&ending.daemon), Id::parse(&ending.lease, "lease"))
        else {
            return;
        };
        if daemon == self.daemon {
            return;
        }
        if ending.done {
            if self.ends.is_done_by(&lease, daemon) {
                known.leases(|leases| leases.ended(&lease, true));
            }
            return;
        }
        let now_ms = now.mono_ms;
        // Whoever has heard the lease, and did not come to say so, knows better.
        let agrees =
            self.ends.has(&lease) || self.ends.has_agreed(daemon, ending.number, &lease, now_ms);
        let Some(generations) = self.ends.gather(daemon, &lease, ending, now_ms) else { return };
        let marked = known.leases(|leases| {
            let heard = leases.heard(&lease).filter(|heard| heard.confirmed);
            let silent = heard.is_none_or(|heard| heard.at_ms + self.lease_ms <= now_ms);
            (agrees || silent) && leases.begin_end(&lease, now_ms)
        });
        if marked {
            self.ends.begin(&lease, daemon, generations, now_ms.saturating_add(ending.within_ms));
        }
    }

    /// The writes for a lease that this daemon was ending are done, or void. Says so if all that it
    /// held is ended; otherwise somebody carries on.
    pub fn on_writes_done(&mut self, known: &impl View, lease: &Id) -> Option<Effect> {
        let done = self.ends.has(lease) && self.rest(known, lease).is_empty();
        done.then(|| self.finish(known, lease))
    }

    /// Begins to end a lease as a whole: all that it holds now, and nothing that connects from here
    /// on.
    pub(super) fn end(
        &mut self,
        known: &impl View,
        lease: Id,
        number: u64,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let begun = !self.ends.has(&lease)
            && known.leases(|leases| {
                let heard_ms = leases.heard(&lease).map_or(0, |heard| heard.at_ms);
                heard_ms + self.lease_ms <= now_ms && leases.begin_end(&lease, now_ms)
            });
        if begun {
            let generations = known.held_by(&lease);
            self.work_on(lease, number, generations, now_ms, effects);
        }
    }

    /// Carries on what others began and did not finish in time, each daemon in its turn. One that
    /// cannot be sure that it hears leaves it, and judges the lease anew when it can.
    pub(super) fn carry_on(&mut self, known: &impl View, now_ms: u64, effects: &mut Vec<Effect>) {
        self.ends.tidy(now_ms);
        self.ends.void(now_ms, |by| known.peers(|peers| peers.is_alive(by)));
        let wait_ms =
            |lease: &Id, by: &[_]| steps(known.peers(|peers| peers.turn(lease.as_str(), by)));
        for (lease, due_ms) in self.ends.due(now_ms, wait_ms) {
            let rest = self.rest(known, &lease);
            let (deaf, proven_ms) =
                known.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
            if rest.is_empty() {
                effects.push(self.finish(known, &lease));
            } else if deaf || due_ms + DECIDED_WITHIN_MS <= now_ms {
                self.ends.forget(&lease);
                known.leases(|leases| leases.ended(&lease, false));
            } else if proven_ms + PROVEN_WITHIN_MS > now_ms {
                self.work_on(lease, 0, rest, now_ms, effects);
            }
        }
    }

    fn work_on(
        &mut self,
        lease: Id,
        number: u64,
        generations: Lines,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let connections: Vec<_> = generations
            .iter()
            .flat_map(|(user, generations)| {
                generations.iter().map(move |connection_gen| named(user, connection_gen))
            })
            .collect();
        let writes = self.lapses(generations.clone(), now_ms);
        let void_ms = writes.iter().map(|each| each.deadline_ms).max().unwrap_or(now_ms);
        self.ends.begin(&lease, self.daemon, generations, void_ms);
        let within_ms = void_ms - now_ms;
        for (place, chunk) in connections.chunks(PER_MESSAGE).enumerate() {
            effects.push(Effect::Broadcast(Ending {
                number,
                within_ms,
                connections: chunk.to_vec(),
                from: place * PER_MESSAGE,
                of: connections.len(),
                ..self.ending(&lease)
            }));
        }
        effects.push(Effect::EndLease { lease, writes });
    }

    fn rest(&self, known: &impl View, lease: &Id) -> Lines {
        self.ends.rest(lease, known.held_by(lease))
    }

    fn finish(&mut self, known: &impl View, lease: &Id) -> Effect {
        self.ends.forget(lease);
        known.leases(|leases| leases.ended(lease, true));
        Effect::Broadcast(Ending { done: true, ..self.ending(lease) })
    }

    fn ending(&self, lease: &Id) -> Ending {
        let (daemon, lease) = (self.daemon.to_string(), lease.as_str().to_owned());
        let connections = Vec::new();
        Ending { daemon, lease, done: false, number: 0, within_ms: 0, connections, from: 0, of: 0 }
    }
}
