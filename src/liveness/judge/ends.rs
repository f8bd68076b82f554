//! How a shared lease ends as a whole: the first in order begins, tells the others what is to be
//! ended, and tells them when that is done. If it is not done in time the next carries on.

use super::endings::Lines;
use super::{Act, DECIDED_WITHIN_MS, Judge, Knowledge, PER_MESSAGE, PROVEN_WITHIN_MS, steps};
use crate::liveness::verdicts::{Ending, named};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::time::Now;

impl Judge {
    /// Another daemon begins to end a lease, or has done so.
    pub fn note(&mut self, known: &impl Knowledge, ending: &Ending, now: Now) {
        let (Some(daemon), Ok(lease)) =
            (DaemonId::parse(&ending.daemon), Id::parse(&ending.lease, "lease"))
        else {
            return;
        };
        if daemon == self.daemon {
            return;
        }
        if ending.done {
            if self.endings.is_done_by(&lease, daemon) {
                known.leases(|leases| leases.ended(&lease, true));
            }
            return;
        }
        let now_ms = now.mono_ms;
        // Whoever has heard the lease, and did not come to say so, knows better.
        let agrees = self.endings.has(&lease)
            || self.endings.has_agreed(daemon, ending.number, &lease, now_ms);
        let Some(lines) = self.endings.gather(daemon, &lease, ending, now_ms) else { return };
        let marked = known.leases(|leases| {
            let heard = leases.heard(&lease).filter(|heard| heard.really);
            let silent = heard.is_none_or(|heard| heard.at_ms + self.lease_ms <= now_ms);
            (agrees || silent) && leases.begin_end(&lease, now_ms)
        });
        if marked {
            self.endings.begin(&lease, daemon, lines, now_ms.saturating_add(ending.within_ms));
        }
    }

    /// The writes for a lease that this daemon was ending are done, or void. Says so if all that it
    /// held is ended; otherwise somebody carries on.
    pub fn close(&mut self, known: &impl Knowledge, lease: &Id) -> Option<Act> {
        let done = self.endings.has(lease) && self.rest(known, lease).is_empty();
        done.then(|| self.finish(known, lease))
    }

    /// Begins to end a lease as a whole: all that it holds now, and nothing that connects from here
    /// on.
    pub(super) fn end(
        &mut self,
        known: &impl Knowledge,
        lease: Id,
        number: u64,
        now_ms: u64,
        acts: &mut Vec<Act>,
    ) {
        let begun = !self.endings.has(&lease)
            && known.leases(|leases| {
                let heard_ms = leases.heard(&lease).map_or(0, |heard| heard.at_ms);
                heard_ms + self.lease_ms <= now_ms && leases.begin_end(&lease, now_ms)
            });
        if begun {
            let lines = known.held_by(&lease);
            self.work_on(lease, number, lines, now_ms, acts);
        }
    }

    /// Carries on what others began and did not finish in time, each daemon in its turn. One that
    /// cannot be sure that it hears leaves it, and judges the lease anew when it can.
    pub(super) fn carry_on(&mut self, known: &impl Knowledge, now_ms: u64, acts: &mut Vec<Act>) {
        self.endings.tidy(now_ms);
        self.endings.void(now_ms, |by| known.peers(|peers| peers.is_alive(by)));
        let wait_ms =
            |lease: &Id, by: &[_]| steps(known.peers(|peers| peers.turn(lease.as_str(), by)));
        for (lease, due_ms) in self.endings.due(now_ms, wait_ms) {
            let rest = self.rest(known, &lease);
            let (deaf, proven_ms) =
                known.hearing(|hearing| (hearing.deaf(now_ms).is_some(), hearing.proven_ms()));
            if rest.is_empty() {
                acts.push(self.finish(known, &lease));
            } else if deaf || due_ms + DECIDED_WITHIN_MS <= now_ms {
                self.endings.forget(&lease);
                known.leases(|leases| leases.ended(&lease, false));
            } else if proven_ms + PROVEN_WITHIN_MS > now_ms {
                self.work_on(lease, 0, rest, now_ms, acts);
            }
        }
    }

    fn work_on(&mut self, lease: Id, number: u64, lines: Lines, now_ms: u64, acts: &mut Vec<Act>) {
        let connections: Vec<_> = lines
            .iter()
            .flat_map(|(user, lines)| lines.iter().map(move |line| named(user, line)))
            .collect();
        let sentences = self.lapses(lines.clone(), now_ms);
        let void_ms = sentences.iter().map(|each| each.deadline_ms).max().unwrap_or(now_ms);
        self.endings.begin(&lease, self.daemon, lines, void_ms);
        let within_ms = void_ms - now_ms;
        for (place, chunk) in connections.chunks(PER_MESSAGE).enumerate() {
            acts.push(Act::Tell(Ending {
                number,
                within_ms,
                connections: chunk.to_vec(),
                from: place * PER_MESSAGE,
                of: connections.len(),
                ..self.ending(&lease)
            }));
        }
        acts.push(Act::EndLease { lease, sentences });
    }

    fn rest(&self, known: &impl Knowledge, lease: &Id) -> Lines {
        self.endings.rest(lease, known.held_by(lease))
    }

    fn finish(&mut self, known: &impl Knowledge, lease: &Id) -> Act {
        self.endings.forget(lease);
        known.leases(|leases| leases.ended(lease, true));
        Act::Tell(Ending { done: true, ..self.ending(lease) })
    }

    fn ending(&self, lease: &Id) -> Ending {
        let (daemon, lease) = (self.daemon.to_string(), lease.as_str().to_owned());
        let connections = Vec::new();
        Ending { daemon, lease, done: false, number: 0, within_ms: 0, connections, from: 0, of: 0 }
    }
}
