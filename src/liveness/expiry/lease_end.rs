//! The end of a shared lease as a whole. The first daemon in order begins it, broadcasts the
//! connections that it ends, and broadcasts when that is done. If it is not done in time, the next
//! daemon takes over.

use super::takeover::LeaseConnections;
use super::{DECIDED_WITHIN_MS, Effect, Expiry, PROVEN_WITHIN_MS, STEP_MS, View};
use crate::liveness::expiry::messages::{Ending, named};
use crate::liveness::peers::{RankFilter, delay_ms};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::time::Now;

impl Expiry {
    /// Records that another daemon begins to end a lease, or has done so.
    pub fn on_ending(&mut self, view: &impl View, ending: &Ending, now: Now) {
        let (Some(daemon), Ok(lease)) =
            (DaemonId::parse(&ending.daemon), Id::parse(&ending.lease, "lease"))
        else {
            return;
        };
        if daemon == self.daemon {
            return;
        }
        if ending.done {
            if self.ends.on_done(&lease, daemon) {
                view.leases(|leases| leases.on_ended(&lease, true));
            }
            return;
        }
        let now_ms = now.mono_ms;
        // A daemon that has heard the lease and did not get to object knows better.
        let agrees = self.ends.contains(&lease)
            || self.ends.has_agreed(daemon, ending.number, &lease, now_ms);
        let Some(connections) = self.ends.on_list(daemon, &lease, ending, now_ms) else { return };
        let is_marked = view.leases(|leases| {
            let heard = leases.heard(&lease).filter(|heard| heard.confirmed);
            let silent = heard.is_none_or(|heard| self.times.lapses_ms(heard) <= now_ms);
            (agrees || silent) && leases.on_end_begun(&lease, now_ms)
        });
        if is_marked {
            self.ends.begin(&lease, daemon, connections, now_ms.saturating_add(ending.within_ms));
        }
    }

    /// Records that this daemon's writes for the end of a lease are done or void. Broadcasts the
    /// end if all its connections are ended; otherwise the end is taken over.
    pub fn on_writes_done(&mut self, view: &impl View, lease: &Id) -> Option<Effect> {
        let done = self.ends.contains(lease) && self.remaining(view, lease).is_empty();
        done.then(|| self.finish_end(view, lease))
    }

    /// Begins to end a lease with all the connections that it holds now, and none that connects
    /// from here on.
    pub(super) fn begin_end(
        &mut self,
        view: &impl View,
        lease: Id,
        number: u64,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let has_begun = !self.ends.contains(&lease)
            && view.leases(|leases| {
                let heard = leases.heard(&lease);
                let lapses_ms = heard.map_or(0, |heard| self.times.lapses_ms(heard));
                lapses_ms <= now_ms && leases.on_end_begun(&lease, now_ms)
            });
        if has_begun {
            let connections = view.held_by(&lease);
            self.work_on_end(lease, number, connections, now_ms, effects);
        }
    }

    /// Takes over ends that were begun and not finished in time, when it is this daemon's turn. A
    /// daemon without proof that it hears drops them, and expires the lease again when it has one.
    pub(super) fn take_over_ends(
        &mut self,
        view: &impl View,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.ends.forget_old(now_ms);
        self.ends.void_failed(now_ms, |by| view.peers(|peers| peers.is_alive(by)));
        let wait_ms = |lease: &Id, tried: &[_]| {
            let rank =
                view.peers(|peers| peers.rank(lease.as_str(), RankFilter::Hearing { tried }));
            delay_ms(rank, STEP_MS)
        };
        for (lease, due_ms) in self.ends.due(now_ms, wait_ms) {
            let remaining = self.remaining(view, &lease);
            let (deaf, proven_ms) =
                view.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
            if remaining.is_empty() {
                effects.push(self.finish_end(view, &lease));
            } else if deaf || due_ms + DECIDED_WITHIN_MS <= now_ms {
                self.ends.forget(&lease);
                view.leases(|leases| leases.on_ended(&lease, false));
            } else if proven_ms + PROVEN_WITHIN_MS > now_ms {
                self.work_on_end(lease, 0, remaining, now_ms, effects);
            }
        }
    }

    fn work_on_end(
        &mut self,
        lease: Id,
        number: u64,
        connections: LeaseConnections,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let list: Vec<_> = connections
            .iter()
            .flat_map(|(user, generations)| generations.iter().map(move |each| named(user, each)))
            .collect();
        let writes = self.lapses(connections.clone(), now_ms);
        let void_ms = writes.iter().map(|each| each.deadline_ms).max().unwrap_or(now_ms);
        self.ends.begin(&lease, self.daemon, connections, void_ms);
        let within_ms = void_ms - now_ms;
        for (index, chunk) in list.chunks(self.named_per_message).enumerate() {
            effects.push(Effect::Broadcast(Ending {
                number,
                within_ms,
                connections: chunk.to_vec(),
                from: index * self.named_per_message,
                of: list.len(),
                ..self.ending(&lease)
            }));
        }
        effects.push(Effect::EndLease { lease, writes });
    }

    /// The connections of an end that the lease still holds.
    fn remaining(&self, view: &impl View, lease: &Id) -> LeaseConnections {
        self.ends.remaining(lease, view.held_by(lease))
    }

    fn finish_end(&mut self, view: &impl View, lease: &Id) -> Effect {
        self.ends.forget(lease);
        view.leases(|leases| leases.on_ended(lease, true));
        Effect::Broadcast(Ending { done: true, ..self.ending(lease) })
    }

    fn ending(&self, lease: &Id) -> Ending {
        let (daemon, lease) = (self.daemon.to_string(), lease.as_str().to_owned());
        let connections = Vec::new();
        Ending { daemon, lease, done: false, number: 0, within_ms: 0, connections, from: 0, of: 0 }
    }
}
