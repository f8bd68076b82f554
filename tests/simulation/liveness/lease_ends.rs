//! The ends of shared leases, as they confirmed went: what each is about, and who carried it on.

use std::collections::{BTreeMap, BTreeSet};

use presenced::liveness::expiry::PendingWrite;
use presenced::presence::id::Id;
use presenced::presence::user::{Command, Connection};

use super::bounds::{AFTER_A_FAULT_MS, BOUND_MS};
use super::truth::{Voice, WRITTEN_WITHIN_MS};
use super::world::World;

/// Within so long an end must be done, whatever becomes of who began it.
const DONE_WITHIN_MS: u64 = BOUND_MS + AFTER_A_FAULT_MS;

/// A connection at a moment of its life: user, id, and how often it had connected.
type Line = (Id, Id, u64);

#[derive(Debug)]
struct End {
    begun_ms: u64,
    /// When it was last carried on.
    carried_on_ms: Option<u64>,
    /// Whether somebody had heard the lease, and could not say so in time.
    contested: bool,
    generations: BTreeSet<Line>,
}

#[derive(Debug, Default)]
pub struct LeaseEnds {
    begun: BTreeMap<Id, End>,
    /// When a daemon last began to work on the end of a lease.
    last_ms: BTreeMap<Voice, u64>,
    /// What was left over when no daemon could be relied on.
    pub left_over: BTreeSet<(Id, Id)>,
}

impl LeaseEnds {
    /// A daemon begins to end a lease.
    pub fn begin(&mut self, lease: &Id, writes: &[PendingWrite], contested: bool, now_ms: u64) {
        let generations = writes.iter().flat_map(generations).collect();
        let end = End { begun_ms: now_ms, carried_on_ms: None, contested, generations };
        self.begun.insert(lease.clone(), end);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
    }

    /// A daemon carries on the end of a lease that began not long ago, and ends nothing else.
    pub fn go_on(
        &mut self,
        lease: &Id,
        writes: &[PendingWrite],
        now_ms: u64,
    ) -> Result<(), String> {
        let end = self.begun.get_mut(lease);
        let end = end.ok_or_else(|| format!("the end of {lease:?} goes on for too long"))?;
        if let Some(connection_gen) = writes
            .iter()
            .flat_map(generations)
            .find(|connection_gen| !end.generations.contains(connection_gen))
        {
            return Err(format!("the end of {lease:?} goes on with {connection_gen:?}"));
        }
        end.carried_on_ms = Some(now_ms);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
        Ok(())
    }

    /// When a daemon last began to work on the end of what hangs on a voice.
    pub fn last_ms(&self, voice: &Voice) -> Option<u64> {
        self.last_ms.get(voice).copied()
    }

    /// Whether a connection was just ended by somebody who carried on the end of its lease.
    pub fn is_carried_on(&self, user: &Id, connection: &Connection, now_ms: u64) -> bool {
        let end = connection.lease.as_ref().and_then(|lease| self.begun.get(lease));
        let connection_gen = (user.clone(), connection.id.clone(), connection.generation);
        end.is_some_and(|end| {
            end.carried_on_ms.is_some_and(|at_ms| at_ms + WRITTEN_WITHIN_MS > now_ms)
                && end.generations.contains(&connection_gen)
        })
    }
}

impl World {
    /// A lease whose end has begun is ended whole in time, whatever becomes of who began it, as long
    /// as one daemon can be relied on all the while.
    pub fn check_ends(&mut self) -> Result<(), String> {
        let now_ms = self.agenda.now_ms;
        let over = |end: &End| end.begun_ms + DONE_WITHIN_MS < now_ms;
        let ends = self.truth.ends.begun.extract_if(.., |_, end| over(end));
        for (lease, end) in ends.collect::<Vec<_>>() {
            let left: Vec<_> = end
                .generations
                .iter()
                .filter(|connection_gen| self.is_stored(connection_gen))
                .collect();
            let relied_on = self.reliable_since_ms().is_some_and(|ms| ms <= end.begun_ms);
            if !left.is_empty() && relied_on && !end.contested {
                return Err(format!("the end of {lease:?} has left {left:?}"));
            }
            let left = left.into_iter().map(|(user, id, _)| (user.clone(), id.clone()));
            self.truth.ends.left_over.extend(left);
        }
        Ok(())
    }

    fn is_stored(&self, (user, id, generation): &Line) -> bool {
        let connections = self.stored(user).map_or(&[][..], |record| &record.connections);
        connections.iter().any(|each| (&each.id, &each.generation) == (id, generation))
    }
}

/// The connections that a write ends.
fn generations(write: &PendingWrite) -> Vec<Line> {
    let Command::Lapse { generations } = &write.command else { return Vec::new() };
    let user = &write.user;
    generations
        .iter()
        .map(|connection_gen| {
            (user.clone(), connection_gen.connection.clone(), connection_gen.generation)
        })
        .collect()
}
