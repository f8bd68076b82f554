//! Disconnects that overtook their connects: two requests of one client may be taken by two
//! daemons. Pure: the time comes in as a value.

use std::collections::{HashMap, VecDeque};

use super::connection::Connection;
use super::decide::Command;
use super::record::Record;
use crate::presence::id::Id;
use crate::presence::schedule::RETRY_MS;

/// The most disconnects that one stripe remembers; beyond them the oldest are forgotten.
const MAX_REMEMBERED: usize = 512;

/// The times until which an early disconnect ends its connection, on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The last arrival of a connect that is ended, however late it is executed.
    pub arrives_until_ms: u64,
    /// How long such a connect may still appear in the replica.
    pub appears_until_ms: u64,
}

/// A disconnect of a connection that was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyDisconnect {
    pub connection: Id,
    /// Ends only a connection that hangs on this lease, if one is named.
    pub lease: Option<Id>,
    pub grace_ms: Option<u64>,
}

impl EarlyDisconnect {
    /// The command that ends the connection once it is there.
    pub fn command(&self) -> Command {
        Command::Disconnect {
            connection: self.connection.clone(),
            lease: self.lease.clone(),
            grace_ms: self.grace_ms,
        }
    }

    fn ends(&self, connection: &Connection) -> bool {
        self.connection == connection.id && (self.lease.is_none() || self.lease == connection.lease)
    }
}

/// The end of a connection that appeared after its disconnect.
#[derive(Debug)]
struct DueEnd {
    user: Id,
    early: EarlyDisconnect,
    at_ms: u64,
}

/// The early disconnects of the users of one stripe.
#[derive(Debug, Default)]
pub struct EarlyDisconnects {
    /// By user and connection.
    remembered: HashMap<(Id, Id), (Window, EarlyDisconnect)>,
    /// With the times until which they are remembered, the first to be forgotten first.
    order: VecDeque<(u64, (Id, Id))>,
    due: Vec<DueEnd>,
}

impl EarlyDisconnects {
    /// Remembers a disconnect, which ends its connection within the window.
    pub fn insert(&mut self, user: &Id, early: EarlyDisconnect, window: Window, now_ms: u64) {
        while self.order.len() >= MAX_REMEMBERED
            || self.order.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms)
        {
            let Some((until_ms, key)) = self.order.pop_front() else { break };
            let remembered = self.remembered.get(&key);
            if remembered.is_some_and(|(window, _)| window.appears_until_ms == until_ms) {
                self.remembered.remove(&key);
            }
        }
        let key = (user.clone(), early.connection.clone());
        self.order.push_back((window.appears_until_ms, key.clone()));
        self.remembered.insert(key, (window, early));
    }

    /// The disconnect that came before a connect that arrived at `arrived_ms`. A connect that
    /// arrived later than any that is ended makes it void.
    pub fn before_connect(
        &mut self,
        user: &Id,
        connection: &Id,
        arrived_ms: u64,
    ) -> Option<&EarlyDisconnect> {
        let key = (user.clone(), connection.clone());
        let (window, _) = self.remembered.get(&key)?;
        if window.arrives_until_ms <= arrived_ms {
            self.remembered.remove(&key);
        }
        self.remembered.get(&key).map(|(_, early)| early)
    }

    /// Keeps in step with the record of a user: a remembered connection that is there is to end.
    pub fn observe(&mut self, user: &Id, after: Option<&Record>, now_ms: u64) {
        if self.remembered.is_empty() && self.due.is_empty() {
            return;
        }
        let connections = after.map(|record| &*record.connections).unwrap_or_default();
        self.due.retain(|due| due.user != *user || connections.iter().any(|c| due.early.ends(c)));
        for connection in connections {
            let key = (user.clone(), connection.id.clone());
            let Some((window, early)) = self.remembered.get(&key) else { continue };
            let is_known =
                || self.due.iter().any(|due| due.user == *user && due.early.ends(connection));
            if window.appears_until_ms > now_ms && early.ends(connection) && !is_known() {
                let due = DueEnd { user: user.clone(), early: early.clone(), at_ms: now_ms };
                self.due.push(due);
            }
        }
    }

    /// Takes the ends that are due, `wait_ms(user)` after the connection appeared. An unfinished
    /// end is due again a while later.
    pub fn take_due(
        &mut self,
        now_ms: u64,
        wait_ms: impl Fn(&Id) -> u64,
    ) -> Vec<(Id, EarlyDisconnect)> {
        let mut taken = Vec::new();
        for due in &mut self.due {
            if due.at_ms + wait_ms(&due.user) <= now_ms {
                due.at_ms = now_ms + RETRY_MS;
                taken.push((due.user.clone(), due.early.clone()));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::time::Time;

    fn id(text: &str) -> Id {
        Id::parse(text, "id").unwrap()
    }

    fn early(lease: Option<&str>) -> EarlyDisconnect {
        EarlyDisconnect { connection: id("c"), lease: lease.map(id), grace_ms: None }
    }

    fn connected(lease: Option<&str>) -> Record {
        let mut record = Record::new(Time(0), 0);
        let lease = lease.map(id);
        let (device, unknown) = (None, None);
        let id = id("c");
        let connection = Connection { id, lease, device, idle: false, generation: 1, unknown };
        record.connections = vec![connection];
        record
    }

    fn window(arrives_until_ms: u64) -> Window {
        Window { arrives_until_ms, appears_until_ms: arrives_until_ms + 3000 }
    }

    #[test]
    fn a_connection_that_appears_after_its_disconnect_is_ended_in_turn() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        ends.observe(&id("bob"), Some(&connected(None)), 100);
        ends.observe(&id("ann"), Some(&connected(None)), 100);
        assert_eq!(ends.take_due(1099, |_| 1000), []);
        assert_eq!(ends.take_due(1100, |_| 1000), [(id("ann"), early(None))]);
        assert_eq!(ends.take_due(1101, |_| 0), [], "it is being written");
        assert_eq!(ends.take_due(1100 + RETRY_MS, |_| 0).len(), 1, "it was not written");
        ends.observe(&id("ann"), None, 7000);
        assert_eq!(ends.take_due(u64::MAX - RETRY_MS, |_| 0), []);
    }

    #[test]
    fn an_early_disconnect_counts_for_its_time_and_its_lease() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(Some("gw")), window(2000), 0);
        ends.observe(&id("ann"), Some(&connected(Some("other"))), 100);
        ends.observe(&id("ann"), Some(&connected(Some("gw"))), 5000);
        assert_eq!(ends.take_due(9000, |_| 0), []);
        ends.observe(&id("ann"), Some(&connected(Some("gw"))), 4999);
        assert_eq!(ends.take_due(9000, |_| 0).len(), 1);
    }

    #[test]
    fn a_connect_that_arrived_in_time_is_ended_however_late_it_is_executed() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        ends.insert(&id("bob"), early(None), window(6000), 4900);
        assert!(ends.before_connect(&id("ann"), &id("d"), 0).is_none());
        assert!(ends.before_connect(&id("ann"), &id("c"), 1999).is_some());
        ends.observe(&id("ann"), Some(&connected(None)), 4999);
        assert_eq!(ends.take_due(9000, |_| 0).len(), 1);
    }

    #[test]
    fn a_connect_that_arrived_too_late_makes_the_disconnect_void() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        assert!(ends.before_connect(&id("ann"), &id("c"), 2000).is_none());
        ends.observe(&id("ann"), Some(&connected(None)), 2001);
        assert_eq!(ends.take_due(9000, |_| 0), []);
    }

    #[test]
    fn the_number_of_remembered_disconnects_is_bounded() {
        let mut ends = EarlyDisconnects::default();
        for n in 0..MAX_REMEMBERED + 10 {
            let user = id(&format!("u{n}"));
            ends.insert(&user, early(None), window(2000), 0);
            ends.insert(&user, early(None), window(2001), 1);
        }
        assert!(ends.order.len() <= MAX_REMEMBERED && ends.remembered.len() <= MAX_REMEMBERED);
        assert!(ends.before_connect(&id("u0"), &id("c"), 0).is_none(), "the oldest");
        ends.insert(&id("last"), early(None), window(19_000), 18_000);
        assert_eq!((ends.order.len(), ends.remembered.len()), (1, 1));
    }
}
