//! The ends of shared leases that have begun and are not done, whoever began them. A lease lapses
//! whole (`PROTOCOL`, section 4): what one daemon leaves undone, because it died or could not write
//! in time, the next carries on, so each daemon keeps what every end is about.

use std::collections::BTreeMap;

use crate::liveness::expiry::messages::{Ending, Named, connection_gen};
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::user::ConnectionGen;

/// How long it is remembered what this daemon did not object to, in milliseconds. What a daemon
/// that was stopped begins to end after that is no news: the lease may have been heard since.
const AGREED_MS: u64 = 3000;
/// How long the rest of what a daemon begins to name is waited for, in milliseconds.
const NAMED_WITHIN_MS: u64 = 3000;

/// Connections of users.
pub type Lines = Vec<(Id, Vec<ConnectionGen>)>;

/// The ends that have begun.
#[derive(Debug, Default)]
pub struct LeaseEnds {
    agreed: Vec<Agreed>,
    /// What daemons have begun to name.
    parts: BTreeMap<(DaemonId, Id), Part>,
    begun: BTreeMap<Id, Begun>,
}

/// Proposal of another daemon to which this one has not objected.
#[derive(Debug)]
struct Agreed {
    daemon: DaemonId,
    number: u64,
    leases: Vec<Id>,
    at_ms: u64,
}

/// The first of the connections that a daemon ends with a lease.
#[derive(Debug)]
struct Part {
    named: Vec<Named>,
    at_ms: u64,
}

#[derive(Debug, Default)]
struct Begun {
    /// Who has worked on it so far.
    by: Vec<DaemonId>,
    /// When the writes of the last of them are done or void.
    void_ms: u64,
    /// What is to be ended.
    generations: BTreeMap<Id, Vec<ConnectionGen>>,
}

impl LeaseEnds {
    /// This daemon has nothing against the end of these leases.
    pub fn agree(&mut self, daemon: DaemonId, number: u64, leases: Vec<Id>, at_ms: u64) {
        if !leases.is_empty() {
            self.agreed.push(Agreed { daemon, number, leases, at_ms });
        }
    }

    /// Whether this daemon had nothing against the end of a lease when it was proposed lately.
    pub fn has_agreed(&self, daemon: DaemonId, number: u64, lease: &Id, now_ms: u64) -> bool {
        self.agreed.iter().any(|agreed| {
            (agreed.daemon, agreed.number) == (daemon, number)
                && agreed.at_ms + AGREED_MS > now_ms
                && agreed.leases.contains(lease)
        })
    }

    /// A daemon names connections that it ends with a lease. Returns all of them when it has named
    /// the last: an end is only finished by others if they know all that it is about.
    pub fn gather(
        &mut self,
        daemon: DaemonId,
        lease: &Id,
        ending: &Ending,
        at_ms: u64,
    ) -> Option<Lines> {
        let key = (daemon, lease.clone());
        let before = self.parts.remove(&key).filter(|_| ending.from > 0);
        let mut named = before.map(|part| part.named).unwrap_or_default();
        // A daemon of an older version does not say how many there are, or even which.
        if named.len() != ending.from || ending.of == 0 {
            return None;
        }
        named.extend_from_slice(&ending.connections);
        if named.len() < ending.of {
            self.parts.insert(key, Part { named, at_ms });
            return None;
        }
        let generations = named.iter().filter_map(connection_gen);
        Some(generations.map(|(user, connection_gen)| (user, vec![connection_gen])).collect())
    }

    /// Forgets what is too old to matter.
    pub fn tidy(&mut self, now_ms: u64) {
        self.agreed.retain(|agreed| agreed.at_ms + AGREED_MS > now_ms);
        self.parts.retain(|_, part| part.at_ms + NAMED_WITHIN_MS > now_ms);
    }

    pub fn has(&self, lease: &Id) -> bool {
        self.begun.contains_key(lease)
    }

    /// A daemon works on the end of these connections, until `void_ms` at the latest.
    pub fn begin(&mut self, lease: &Id, by: DaemonId, generations: Lines, void_ms: u64) {
        let begun = self.begun.entry(lease.clone()).or_default();
        if !begun.by.contains(&by) {
            begun.by.push(by);
        }
        begun.void_ms = void_ms;
        for (user, generations) in generations {
            let known = begun.generations.entry(user).or_default();
            for connection_gen in generations {
                if !known.contains(&connection_gen) {
                    known.push(connection_gen);
                }
            }
        }
    }

    /// A daemon says that the end of a lease is done. Whether it is one that has worked on it.
    pub fn is_done_by(&mut self, lease: &Id, daemon: DaemonId) -> bool {
        let its = self.begun.get(lease).is_some_and(|begun| begun.by.contains(&daemon));
        if its {
            self.forget(lease);
        }
        its
    }

    pub fn forget(&mut self, lease: &Id) {
        self.begun.remove(lease);
    }

    /// What is left of the writes of those that are no longer alive is void at once.
    pub fn void(&mut self, now_ms: u64, is_alive: impl Fn(DaemonId) -> bool) {
        for begun in self.begun.values_mut().filter(|begun| begun.void_ms > now_ms) {
            if !begun.by.iter().any(|by| is_alive(*by)) {
                begun.void_ms = now_ms;
            }
        }
    }

    /// The ends that nobody works on any more, since when, and `wait_ms` after that, which depends on
    /// the lease and on who has worked on it.
    pub fn due(&self, now_ms: u64, wait_ms: impl Fn(&Id, &[DaemonId]) -> u64) -> Vec<(Id, u64)> {
        let void = self.begun.iter().filter(|(_, begun)| begun.void_ms <= now_ms);
        let due = void.map(|(lease, begun)| (lease, begun.void_ms + wait_ms(lease, &begun.by)));
        due.filter(|(_, due_ms)| *due_ms <= now_ms).map(|(id, at_ms)| (id.clone(), at_ms)).collect()
    }

    /// What of the end of a lease is still to be done, of what the lease holds now.
    pub fn rest(&self, lease: &Id, held: Lines) -> Lines {
        let Some(begun) = self.begun.get(lease) else { return Vec::new() };
        let rest = held.into_iter().filter_map(|(user, mut generations)| {
            let ended = begun.generations.get(&user)?;
            generations.retain(|connection_gen| ended.contains(connection_gen));
            (!generations.is_empty()).then_some((user, generations))
        });
        rest.collect()
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
    fn the_rest_is_what_has_not_connected_again() {
        let mut endings = LeaseEnds::default();
        endings.begin(&id("gw"), A, vec![held("john", 1), held("jack", 1)], 1000);
        let now = vec![held("john", 1), held("jack", 2), held("jill", 1)];
        assert_eq!(endings.rest(&id("gw"), now), [held("john", 1)]);
    }

    #[test]
    fn an_end_is_due_when_nobody_works_on_it_any_more() {
        let mut endings = LeaseEnds::default();
        endings.begin(&id("gw"), A, vec![held("john", 1)], 1000);
        let wait_ms = |_: &Id, by: &[DaemonId]| if by == [A] { 500 } else { 0 };
        assert_eq!(endings.due(1499, wait_ms), []);
        assert_eq!(endings.due(1500, wait_ms), [(id("gw"), 1500)]);
        endings.begin(&id("gw"), B, Vec::new(), 2000);
        assert_eq!(endings.due(1999, wait_ms), []);
        assert_eq!(endings.due(2000, wait_ms), [(id("gw"), 2000)]);
    }

    #[test]
    fn only_who_worked_on_an_end_can_say_that_it_is_done() {
        let mut endings = LeaseEnds::default();
        endings.begin(&id("gw"), A, Vec::new(), 1000);
        assert!(!endings.is_done_by(&id("gw"), B));
        assert!(endings.has(&id("gw")));
        endings.begin(&id("gw"), B, Vec::new(), 2000);
        assert!(endings.is_done_by(&id("gw"), A), "the first of them may come to it after all");
        assert!(!endings.has(&id("gw")));
    }

    #[test]
    fn an_end_is_known_when_all_that_it_is_about_has_been_named_in_order() {
        let mut endings = LeaseEnds::default();
        let mut tell = |users: &[&str], from, of, at_ms| {
            let named = |user: &&str| ((*user).to_owned(), "c".to_owned(), 1);
            let connections = users.iter().map(named).collect();
            let (daemon, lease) = (A.to_string(), "gw".to_owned());
            let (done, number, within_ms) = (false, 1, 0);
            let ending = Ending { daemon, lease, done, number, within_ms, connections, from, of };
            endings.tidy(at_ms);
            endings.gather(A, &id("gw"), &ending, at_ms)
        };
        assert_eq!(tell(&[], 0, 0, 0), None);
        let mut name = |users: &[&str], from, at_ms| tell(users, from, 3, at_ms);
        assert_eq!(name(&["john", "jack"], 0, 0), None);
        let all = ["john", "jack", "jill"].map(|user| held(user, 1)).to_vec();
        assert_eq!(name(&["jill"], 2, 1), Some(all.clone()));
        assert_eq!(name(&["jill"], 2, 1), None, "what came before was lost");
        assert_eq!(name(&["john"], 0, 1), None);
        assert_eq!(name(&["jill"], 2, 1), None, "the second was lost");
        assert_eq!(name(&["john"], 0, 1), None);
        assert_eq!(name(&["john", "jack"], 0, 2), None, "it begins anew");
        assert_eq!(name(&["jill"], 2, 2), Some(all));
        assert_eq!(name(&["john", "jack"], 0, 2), None);
        assert_eq!(name(&["jill"], 2, 2 + NAMED_WITHIN_MS), None, "that was long ago");
        assert!(endings.parts.is_empty());
    }

    #[test]
    fn what_the_dead_worked_on_is_due_at_once() {
        let mut endings = LeaseEnds::default();
        endings.begin(&id("gw"), A, vec![held("john", 1)], 9000);
        endings.begin(&id("gw"), B, Vec::new(), 9000);
        endings.void(1000, |by| by == B);
        assert_eq!(endings.due(1000, |_, _| 0), []);
        endings.void(2000, |_| false);
        endings.void(3000, |_| false);
        assert_eq!(endings.due(3000, |_, _| 0), [(id("gw"), 2000)]);
    }

    #[test]
    fn an_agreement_is_for_one_proposal_and_not_for_long() {
        let mut endings = LeaseEnds::default();
        endings.agree(A, 7, vec![id("gw")], 1000);
        assert!(endings.has_agreed(A, 7, &id("gw"), 999 + AGREED_MS));
        assert!(!endings.has_agreed(A, 7, &id("gw"), 1000 + AGREED_MS));
        assert!(!endings.has_agreed(A, 8, &id("gw"), 1000));
        assert!(!endings.has_agreed(B, 7, &id("gw"), 1000));
        assert!(!endings.has_agreed(A, 7, &id("other"), 1000));
    }
}
