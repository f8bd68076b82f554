//! The true ends of shared leases: the connections of each, and whether it was taken over.

use std::collections::{BTreeMap, BTreeSet};

use presenced::liveness::expiry::PendingWrite;
use presenced::presence::id::Id;
use presenced::presence::user::{Command, Connection};

use super::Broken;
use super::bounds::{AFTER_A_FAULT_MS, BOUND_MS};
use super::truth::{Voice, WRITTEN_WITHIN_MS};
use super::world::World;

/// The time within which an end must be done, whatever happens to the daemon that began it.
const DONE_WITHIN_MS: u64 = BOUND_MS + AFTER_A_FAULT_MS;

/// A connection: user, id, generation.
type Named = (Id, Id, u64);

#[derive(Debug)]
struct End {
    begun_ms: u64,
    /// The time at which it was last taken over.
    taken_over_ms: Option<u64>,
    /// Whether a daemon had heard the lease, and could not object in time.
    contested: bool,
    connections: BTreeSet<Named>,
}

#[derive(Debug, Default)]
pub struct LeaseEnds {
    begun: BTreeMap<Id, End>,
    /// The time at which a daemon last began to work on the end of a lease.
    last_ms: BTreeMap<Voice, u64>,
    /// Connections left over while no daemon was reliable.
    pub left_over: BTreeSet<(Id, Id)>,
}

impl LeaseEnds {
    /// A daemon begins to end a lease.
    pub fn begin(&mut self, lease: &Id, writes: &[PendingWrite], contested: bool, now_ms: u64) {
        let connections = writes.iter().flat_map(connections).collect();
        let end = End { begun_ms: now_ms, taken_over_ms: None, contested, connections };
        self.begun.insert(lease.clone(), end);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
    }

    /// A daemon takes over the end of a lease that began recently, and ends nothing else.
    pub fn take_over(
        &mut self,
        lease: &Id,
        writes: &[PendingWrite],
        now_ms: u64,
    ) -> Result<(), Broken> {
        let end = self.begun.get_mut(lease);
        let end = end.ok_or_else(|| Broken(format!("the end of {lease:?} takes too long")))?;
        if let Some(connection_gen) = writes
            .iter()
            .flat_map(connections)
            .find(|connection_gen| !end.connections.contains(connection_gen))
        {
            return Err(Broken(format!(
                "the end of {lease:?} was taken over with {connection_gen:?}"
            )));
        }
        end.taken_over_ms = Some(now_ms);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
        Ok(())
    }

    /// The time at which a daemon last began to work on the end of a voice.
    pub fn last_ms(&self, voice: &Voice) -> Option<u64> {
        self.last_ms.get(voice).copied()
    }

    /// Returns whether a connection was just ended by a daemon that took over the end of its lease.
    pub fn is_taken_over(&self, user: &Id, connection: &Connection, now_ms: u64) -> bool {
        let end = connection.lease.as_ref().and_then(|lease| self.begun.get(lease));
        let connection_gen = (user.clone(), connection.id.clone(), connection.generation);
        end.is_some_and(|end| {
            end.taken_over_ms.is_some_and(|at_ms| at_ms + WRITTEN_WITHIN_MS > now_ms)
                && end.connections.contains(&connection_gen)
        })
    }
}

impl World {
    /// Checks that a lease whose end has begun is ended whole in time, whatever happens to the
    /// daemon that began it. One daemon must be reliable all the while.
    pub fn check_ends(&mut self) -> Result<(), Broken> {
        let now_ms = self.agenda.now_ms;
        let is_over = |end: &End| end.begun_ms + DONE_WITHIN_MS < now_ms;
        let ends = self.truth.ends.begun.extract_if(.., |_, end| is_over(end));
        for (lease, end) in ends.collect::<Vec<_>>() {
            let left: Vec<_> = end
                .connections
                .iter()
                .filter(|connection_gen| self.is_stored(connection_gen))
                .collect();
            let is_reliable = self.reliable_since_ms().is_some_and(|ms| ms <= end.begun_ms);
            if !left.is_empty() && is_reliable && !end.contested {
                return Err(Broken(format!("the end of {lease:?} has left {left:?}")));
            }
            let left = left.into_iter().map(|(user, id, _)| (user.clone(), id.clone()));
            self.truth.ends.left_over.extend(left);
        }
        Ok(())
    }

    fn is_stored(&self, (user, id, generation): &Named) -> bool {
        let connections = self.stored(user).map_or(&[][..], |record| &record.connections);
        connections.iter().any(|each| (&each.id, &each.generation) == (id, generation))
    }
}

/// The connections that a write ends.
fn connections(write: &PendingWrite) -> Vec<Named> {
    let Command::Lapse { generations } = &write.command else { return Vec::new() };
    let user = &write.user;
    generations
        .iter()
        .map(|connection_gen| {
            (user.clone(), connection_gen.connection.clone(), connection_gen.generation)
        })
        .collect()
}
