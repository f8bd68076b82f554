//! Disconnects that may have overtaken connects of the same connection: two requests of one client
//! may be taken by two daemons. Pure: the time comes in as a value.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::connection::Connection;
use super::decide::{Command, NewConnection};
use super::record::Record;
use crate::presence::agenda::RETRY_MS;
use crate::presence::id::Id;

/// The most disconnects that one stripe remembers; beyond them the oldest are forgotten.
const MAX_REMEMBERED: usize = 2048;

/// The most disconnects of one user that are remembered, so that no user crowds out others.
const MAX_OF_USER: usize = 128;

/// The times until which a disconnect ends its connection, on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The last arrival of a connect that is ended, however late it is executed.
    pub arrives_until_ms: u64,
    /// How long such a connect may still appear in the replica.
    pub appears_until_ms: u64,
}

/// A disconnect that a connect of the same connection may still follow.
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

    fn ends(&self, connection: &Id, lease: Option<&Id>) -> bool {
        self.connection == *connection && (self.lease.is_none() || self.lease.as_ref() == lease)
    }

    fn is_of(&self, connection: &Connection) -> bool {
        self.ends(&connection.id, connection.lease.as_ref())
    }
}

/// What was remembered for a connect.
#[derive(Debug, PartialEq, Eq)]
pub enum BeforeConnect {
    /// Nothing ends the connection.
    Nothing,
    /// This disconnect ends it at once.
    Ended(EarlyDisconnect),
    /// The connect arrived later than any that these disconnects end; they are forgotten.
    TooLate(Vec<EarlyDisconnect>),
}

#[derive(Debug)]
struct Remembered {
    window: Window,
    early: EarlyDisconnect,
}

/// The end of a connection that appeared after its disconnect.
#[derive(Debug)]
struct DueEnd {
    user: Id,
    early: EarlyDisconnect,
    at_ms: u64,
}

/// The remembered disconnects of the users of one stripe.
#[derive(Debug, Default)]
pub struct EarlyDisconnects {
    /// By user, those remembered first in front.
    remembered: HashMap<Id, Vec<Remembered>>,
    /// How many are remembered.
    count: usize,
    /// The users, each once, with a time until which something is remembered of them.
    order: VecDeque<(u64, Id)>,
    due: Vec<DueEnd>,
}

impl EarlyDisconnects {
    /// Remembers a disconnect, which ends its connection within the window.
    pub fn insert(&mut self, user: &Id, early: EarlyDisconnect, window: Window, now_ms: u64) {
        self.forget_expired(now_ms);
        let of_user = match self.remembered.entry(user.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.order.push_back((window.appears_until_ms, user.clone()));
                entry.insert(Vec::new())
            }
        };
        let before = of_user.len();
        let is_same = |known: &EarlyDisconnect| {
            known.connection == early.connection && known.lease == early.lease
        };
        of_user.retain(|each| !is_same(&each.early));
        let surplus = (of_user.len() + 1).saturating_sub(MAX_OF_USER);
        of_user.drain(..surplus);
        of_user.push(Remembered { window, early });
        self.count = self.count + of_user.len() - before;
        while self.count > MAX_REMEMBERED {
            self.forget_first(u64::MAX);
        }
    }

    /// Forgets disconnects of a user: a connect came later than any that they end.
    pub fn remove(&mut self, user: &Id, early: &EarlyDisconnect) {
        if let Some(of_user) = self.remembered.get_mut(user) {
            self.count -= of_user.extract_if(.., |each| each.early == *early).count();
        }
        self.due.retain(|due| due.user != *user || due.early != *early);
    }

    /// What was remembered for a connect that arrived at `arrived_ms`.
    pub fn before_connect(
        &mut self,
        user: &Id,
        connection: &NewConnection,
        arrived_ms: u64,
    ) -> BeforeConnect {
        let Some(of_user) = self.remembered.get_mut(user) else { return BeforeConnect::Nothing };
        let ends = |each: &Remembered| each.early.ends(&connection.id, connection.lease.as_ref());
        let is_in_time = |each: &Remembered| each.window.arrives_until_ms > arrived_ms;
        if let Some(each) = of_user.iter().find(|each| ends(each) && is_in_time(each)) {
            return BeforeConnect::Ended(each.early.clone());
        }
        let too_late: Vec<_> = of_user.extract_if(.., |each| ends(each)).collect();
        if too_late.is_empty() {
            return BeforeConnect::Nothing;
        }
        self.count -= too_late.len();
        BeforeConnect::TooLate(too_late.into_iter().map(|each| each.early).collect())
    }

    /// Keeps in step with the record of a user: a remembered connection that is there is to end.
    pub fn observe(&mut self, user: &Id, after: Option<&Record>, now_ms: u64) {
        if self.remembered.is_empty() && self.due.is_empty() {
            return;
        }
        let connections = after.map(|record| &*record.connections).unwrap_or_default();
        self.due.retain(|due| due.user != *user || connections.iter().any(|c| due.early.is_of(c)));
        let Some(of_user) = self.remembered.get(user) else { return };
        for connection in connections {
            let ends = |each: &&Remembered| {
                each.window.appears_until_ms > now_ms && each.early.is_of(connection)
            };
            let is_known =
                || self.due.iter().any(|due| due.user == *user && due.early.is_of(connection));
            if let Some(Remembered { early, .. }) = of_user.iter().find(ends)
                && !is_known()
            {
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
        self.forget_expired(now_ms);
        let mut taken = Vec::new();
        for due in &mut self.due {
            if due.at_ms + wait_ms(&due.user) <= now_ms {
                due.at_ms = now_ms + RETRY_MS;
                taken.push((due.user.clone(), due.early.clone()));
            }
        }
        taken
    }

    fn forget_expired(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            self.forget_first(now_ms);
        }
    }

    /// Forgets what is remembered of the first user until `until_ms` or less.
    fn forget_first(&mut self, until_ms: u64) {
        let Some((_, user)) = self.order.pop_front() else { return };
        let Some(of_user) = self.remembered.get_mut(&user) else { return };
        let is_over = |each: &mut Remembered| each.window.appears_until_ms <= until_ms;
        self.count -= of_user.extract_if(.., is_over).count();
        match of_user.iter().map(|each| each.window.appears_until_ms).max() {
            Some(until_ms) => self.order.push_back((until_ms, user)),
            None => drop(self.remembered.remove(&user)),
        }
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

    fn new(connection: &str, lease: Option<&str>) -> NewConnection {
        NewConnection { lease: lease.map(id), ..NewConnection::plain(id(connection)) }
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
        assert_eq!(ends.take_due(4998, |_| 0), []);
        ends.observe(&id("ann"), Some(&connected(Some("gw"))), 4999);
        assert_eq!(ends.take_due(9000, |_| 0).len(), 1);
        ends.insert(&id("bob"), early(None), window(10_000), 9000);
        ends.observe(&id("bob"), Some(&connected(None)), 13_000);
        assert_eq!(ends.take_due(13_000, |_| 0), []);
    }

    #[test]
    fn a_connect_that_arrived_in_time_is_ended_however_late_it_is_executed() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        ends.insert(&id("bob"), early(None), window(6000), 4900);
        let nothing = BeforeConnect::Nothing;
        assert_eq!(ends.before_connect(&id("ann"), &new("d", None), 0), nothing);
        let ended = BeforeConnect::Ended(early(None));
        assert_eq!(ends.before_connect(&id("ann"), &new("c", None), 1999), ended);
        ends.observe(&id("ann"), Some(&connected(None)), 4999);
        assert_eq!(ends.take_due(9000, |_| 0).len(), 1);
    }

    #[test]
    fn a_connect_that_arrived_too_late_makes_the_disconnect_void() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        let void = BeforeConnect::TooLate(vec![early(None)]);
        assert_eq!(ends.before_connect(&id("ann"), &new("c", None), 2000), void);
        ends.observe(&id("ann"), Some(&connected(None)), 2001);
        assert_eq!(ends.take_due(2001, |_| 0), []);
    }

    #[test]
    fn a_disconnect_that_another_daemon_voids_ends_nothing() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        ends.observe(&id("ann"), Some(&connected(None)), 2001);
        ends.remove(&id("ann"), &early(None));
        ends.observe(&id("ann"), Some(&connected(None)), 2002);
        assert_eq!(ends.take_due(2003, |_| 0), []);
    }

    #[test]
    fn a_disconnect_on_a_condition_leaves_the_one_without_it() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("ann"), early(None), window(2000), 0);
        ends.insert(&id("ann"), early(Some("old")), window(2000), 0);
        let ended = BeforeConnect::Ended(early(None));
        assert_eq!(ends.before_connect(&id("ann"), &new("c", Some("new")), 1), ended);
    }

    #[test]
    fn the_number_of_remembered_disconnects_is_bounded() {
        let mut ends = EarlyDisconnects::default();
        for n in 0..MAX_REMEMBERED + 10 {
            let user = id(&format!("u{n}"));
            ends.insert(&user, early(None), window(2000), 0);
            ends.insert(&user, early(None), window(2001), 1);
        }
        assert_eq!((ends.count, ends.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        let oldest = ends.before_connect(&id("u0"), &new("c", None), 0);
        assert_eq!(oldest, BeforeConnect::Nothing);
        ends.insert(&id("last"), early(None), window(19_000), 18_000);
        assert_eq!((ends.count, ends.order.len(), ends.remembered.len()), (1, 1, 1));
        assert_eq!(ends.take_due(30_000, |_| 0), []);
        assert_eq!((ends.count, ends.order.len(), ends.remembered.len()), (0, 0, 0));
    }

    #[test]
    fn no_user_crowds_out_the_disconnects_of_others() {
        let mut ends = EarlyDisconnects::default();
        ends.insert(&id("bob"), early(None), window(2000), 0);
        for n in 0..2 * MAX_REMEMBERED {
            let connection = id(&format!("c{n}"));
            let early = EarlyDisconnect { connection, ..early(None) };
            ends.insert(&id("ann"), early, window(2000), 0);
        }
        assert_eq!((ends.count, ends.order.len()), (1 + MAX_OF_USER, 2));
        let ended = BeforeConnect::Ended(early(None));
        assert_eq!(ends.before_connect(&id("bob"), &new("c", None), 0), ended);
    }
}
