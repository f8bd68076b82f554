//! The ends of shared leases that have begun and are not done.
//!
//! A lease lapses whole (`docs/protocol.md`, *Liveness*). An end that one daemon leaves unfinished,
//! because it failed or could not write in time, is taken over by the next. So each daemon keeps the
//! list of connections of every end.

use std::collections::BTreeMap;

use crate::liveness::expiry::messages::{Ending, Named, connection_gen};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::user::ConnectionGen;

/// The time for which an agreement to a proposal is remembered, in milliseconds. An end that begins
/// later, by a daemon that was stopped, is outdated: the lease may have been heard since.
const AGREEMENT_TTL_MS: u64 = 3000;
/// The time for which the missing chunks of a list are waited for, in milliseconds.
const CHUNKS_TTL_MS: u64 = 3000;

/// Connections on a lease, by user.
pub type LeaseConnections = Vec<(Id, Vec<ConnectionGen>)>;

/// The ends that have begun.
#[derive(Debug, Default)]
pub struct LeaseEnds {
    agreements: Vec<Agreement>,
    /// Incomplete lists.
    chunks: BTreeMap<(DaemonId, Id), Chunks>,
    ends: BTreeMap<Id, LeaseEnd>,
}

/// The leases of another daemon's proposal to which this one has not objected.
#[derive(Debug)]
struct Agreement {
    daemon: DaemonId,
    number: u64,
    leases: Vec<Id>,
    at_ms: u64,
}

/// The first chunks of a list.
#[derive(Debug)]
struct Chunks {
    named: Vec<Named>,
    at_ms: u64,
}

#[derive(Debug, Default)]
struct LeaseEnd {
    /// The daemons that have worked on it.
    tried: Vec<DaemonId>,
    /// The time at which the writes of the last of them are done or void.
    void_ms: u64,
    /// The connections to be ended.
    connections: BTreeMap<Id, Vec<ConnectionGen>>,
}

impl LeaseEnds {
    /// Records that this daemon does not object to the end of `leases`.
    pub fn agree(&mut self, daemon: DaemonId, number: u64, leases: Vec<Id>, at_ms: u64) {
        if !leases.is_empty() {
            self.agreements.push(Agreement { daemon, number, leases, at_ms });
        }
    }

    /// Returns whether this daemon recently agreed to the end of a lease in that proposal.
    pub fn has_agreed(&self, daemon: DaemonId, number: u64, lease: &Id, now_ms: u64) -> bool {
        self.agreements.iter().any(|agreement| {
            (agreement.daemon, agreement.number) == (daemon, number)
                && agreement.at_ms + AGREEMENT_TTL_MS > now_ms
                && agreement.leases.contains(lease)
        })
    }

    /// Adds a chunk to the list of connections that a daemon ends with a lease. Returns the list
    /// when it is complete: an end is taken over only by daemons that know all of it.
    pub fn on_list(
        &mut self,
        daemon: DaemonId,
        lease: &Id,
        ending: &Ending,
        at_ms: u64,
    ) -> Option<LeaseConnections> {
        let key = (daemon, lease.clone());
        let before = self.chunks.remove(&key).filter(|_| ending.from > 0);
        let mut named = before.map(|chunks| chunks.named).unwrap_or_default();
        // A daemon of an older version sends no total, or no connections at all.
        if named.len() != ending.from || ending.of == 0 {
            return None;
        }
        named.extend_from_slice(&ending.connections);
        if named.len() < ending.of {
            self.chunks.insert(key, Chunks { named, at_ms });
            return None;
        }
        let connections = named.iter().filter_map(connection_gen);
        Some(connections.map(|(user, connection_gen)| (user, vec![connection_gen])).collect())
    }

    /// Forgets agreements and incomplete lists that are too old to matter.
    pub fn forget_old(&mut self, now_ms: u64) {
        self.agreements.retain(|agreement| agreement.at_ms + AGREEMENT_TTL_MS > now_ms);
        self.chunks.retain(|_, chunks| chunks.at_ms + CHUNKS_TTL_MS > now_ms);
    }

    pub fn contains(&self, lease: &Id) -> bool {
        self.ends.contains_key(lease)
    }

    /// Records that a daemon works on the end of these connections, until `void_ms` at the latest.
    pub fn begin(
        &mut self,
        lease: &Id,
        daemon: DaemonId,
        connections: LeaseConnections,
        void_ms: u64,
    ) {
        let end = self.ends.entry(lease.clone()).or_default();
        if !end.tried.contains(&daemon) {
            end.tried.push(daemon);
        }
        end.void_ms = void_ms;
        for (user, generations) in connections {
            let known = end.connections.entry(user).or_default();
            for connection_gen in generations {
                if !known.contains(&connection_gen) {
                    known.push(connection_gen);
                }
            }
        }
    }

    /// Forgets an end that a daemon reports as done. Returns whether that daemon has worked on it.
    pub fn on_done(&mut self, lease: &Id, daemon: DaemonId) -> bool {
        let has_tried = self.ends.get(lease).is_some_and(|end| end.tried.contains(&daemon));
        if has_tried {
            self.forget(lease);
        }
        has_tried
    }

    pub fn forget(&mut self, lease: &Id) {
        self.ends.remove(lease);
    }

    /// Makes the pending writes of an end void if none of the daemons that worked on it is alive.
    pub fn void_failed(&mut self, now_ms: u64, is_alive: impl Fn(DaemonId) -> bool) {
        for end in self.ends.values_mut().filter(|end| end.void_ms > now_ms) {
            if !end.tried.iter().any(|daemon| is_alive(*daemon)) {
                end.void_ms = now_ms;
            }
        }
    }

    /// The ends that no daemon works on any more, each with the time at which it was due. That is
    /// `wait_ms` after its writes were void, which depends on the lease and on the daemons that
    /// have tried.
    pub fn due(&self, now_ms: u64, wait_ms: impl Fn(&Id, &[DaemonId]) -> u64) -> Vec<(Id, u64)> {
        let void = self.ends.iter().filter(|(_, end)| end.void_ms <= now_ms);
        let due = void.map(|(lease, end)| (lease, end.void_ms + wait_ms(lease, &end.tried)));
        due.filter(|(_, due_ms)| *due_ms <= now_ms).map(|(id, at_ms)| (id.clone(), at_ms)).collect()
    }

    /// The connections of an end among those that the lease holds now.
    pub fn remaining(&self, lease: &Id, held: LeaseConnections) -> LeaseConnections {
        let Some(end) = self.ends.get(lease) else { return Vec::new() };
        let remaining = held.into_iter().filter_map(|(user, mut generations)| {
            let ended = end.connections.get(&user)?;
            generations.retain(|connection_gen| ended.contains(connection_gen));
            (!generations.is_empty()).then_some((user, generations))
        });
        remaining.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DaemonId = DaemonId(1);
    const B: DaemonId = DaemonId(2);

    fn id(text: &str) -> Id {
        Id::parse(text, "id").unwrap()
    }

    fn held(user: &str, generation: u64) -> (Id, Vec<ConnectionGen>) {
        (id(user), vec![ConnectionGen { connection: id("c"), generation }])
    }

    #[test]
    fn the_remaining_connections_have_not_connected_again() {
        let mut ends = LeaseEnds::default();
        ends.begin(&id("gw"), A, vec![held("john", 1), held("jack", 1)], 1000);
        let now = vec![held("john", 1), held("jack", 2), held("jill", 1)];
        assert_eq!(ends.remaining(&id("gw"), now), [held("john", 1)]);
    }

    #[test]
    fn an_end_is_due_when_no_daemon_works_on_it_any_more() {
        let mut ends = LeaseEnds::default();
        ends.begin(&id("gw"), A, vec![held("john", 1)], 1000);
        let wait_ms = |_: &Id, tried: &[DaemonId]| if tried == [A] { 500 } else { 0 };
        assert_eq!(ends.due(1499, wait_ms), []);
        assert_eq!(ends.due(1500, wait_ms), [(id("gw"), 1500)]);
        ends.begin(&id("gw"), B, Vec::new(), 2000);
        assert_eq!(ends.due(1999, wait_ms), []);
        assert_eq!(ends.due(2000, wait_ms), [(id("gw"), 2000)]);
    }

    #[test]
    fn only_a_daemon_that_worked_on_an_end_reports_it_as_done() {
        let mut ends = LeaseEnds::default();
        ends.begin(&id("gw"), A, Vec::new(), 1000);
        assert!(!ends.on_done(&id("gw"), B));
        assert!(ends.contains(&id("gw")));
        ends.begin(&id("gw"), B, Vec::new(), 2000);
        assert!(ends.on_done(&id("gw"), A), "the first of them may finish after all");
        assert!(!ends.contains(&id("gw")));
    }

    #[test]
    fn a_list_is_complete_when_all_its_chunks_have_come_in_order() {
        let mut ends = LeaseEnds::default();
        let mut receive = |users: &[&str], from, of, at_ms| {
            let named = |user: &&str| ((*user).to_owned(), "c".to_owned(), 1);
            let connections = users.iter().map(named).collect();
            let (daemon, lease) = (A.to_string(), "gw".to_owned());
            let (done, number, within_ms) = (false, 1, 0);
            let ending = Ending { daemon, lease, done, number, within_ms, connections, from, of };
            ends.forget_old(at_ms);
            ends.on_list(A, &id("gw"), &ending, at_ms)
        };
        assert_eq!(receive(&[], 0, 0, 0), None);
        let mut chunk = |users: &[&str], from, at_ms| receive(users, from, 3, at_ms);
        assert_eq!(chunk(&["john", "jack"], 0, 0), None);
        let all = ["john", "jack", "jill"].map(|user| held(user, 1)).to_vec();
        assert_eq!(chunk(&["jill"], 2, 1), Some(all.clone()));
        assert_eq!(chunk(&["jill"], 2, 1), None, "the chunk before was lost");
        assert_eq!(chunk(&["john"], 0, 1), None);
        assert_eq!(chunk(&["jill"], 2, 1), None, "the second was lost");
        assert_eq!(chunk(&["john"], 0, 1), None);
        assert_eq!(chunk(&["john", "jack"], 0, 2), None, "the list begins again");
        assert_eq!(chunk(&["jill"], 2, 2), Some(all));
        assert_eq!(chunk(&["john", "jack"], 0, 2), None);
        assert_eq!(chunk(&["jill"], 2, 2 + CHUNKS_TTL_MS), None, "the first chunk is too old");
        assert!(ends.chunks.is_empty());
    }

    #[test]
    fn an_end_of_failed_daemons_is_due_at_once() {
        let mut ends = LeaseEnds::default();
        ends.begin(&id("gw"), A, vec![held("john", 1)], 9000);
        ends.begin(&id("gw"), B, Vec::new(), 9000);
        ends.void_failed(1000, |daemon| daemon == B);
        assert_eq!(ends.due(1000, |_, _| 0), []);
        ends.void_failed(2000, |_| false);
        ends.void_failed(3000, |_| false);
        assert_eq!(ends.due(3000, |_, _| 0), [(id("gw"), 2000)]);
    }

    #[test]
    fn an_agreement_holds_for_one_proposal_and_a_short_time() {
        let mut ends = LeaseEnds::default();
        ends.agree(A, 7, vec![id("gw")], 1000);
        assert!(ends.has_agreed(A, 7, &id("gw"), 999 + AGREEMENT_TTL_MS));
        assert!(!ends.has_agreed(A, 7, &id("gw"), 1000 + AGREEMENT_TTL_MS));
        assert!(!ends.has_agreed(A, 8, &id("gw"), 1000));
        assert!(!ends.has_agreed(B, 7, &id("gw"), 1000));
        assert!(!ends.has_agreed(A, 7, &id("other"), 1000));
    }
}
