//! The index over users: the connections on each shared lease, the agenda, and the census.

use hashbrown::{HashMap, HashSet};

use super::agenda::UserAgenda;
use super::availability::Availability;
use super::early::EarlyDisconnects;
use super::record::Record;
use super::upcoming::Periods;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::time::Now;

/// The index over the users of one stripe.
#[derive(Debug)]
pub struct Index {
    /// For each shared lease, the users with connections on it.
    leases: HashMap<Id, HashSet<Id>>,
    /// The items that are due for these users, and their times.
    pub agenda: UserAgenda,
    pub early_disconnects: EarlyDisconnects,
    census: Census,
    /// The users whom others saw come or go since they were last taken, if that is noted.
    online_changes: Option<HashMap<Id, bool>>,
}

/// The numbers of users, as others see them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub known: usize,
    pub active: usize,
    pub away: usize,
    pub busy: usize,
}

/// The effect of a record's change on a shared lease, which holds connections of many stripes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseChange {
    /// A connection joined it, by connecting.
    Joined { lease: Id, invisible: bool },
    /// A connection on it connected once more.
    Rejoined { lease: Id, invisible: bool },
    /// A connection left it.
    Left { lease: Id },
}

impl LeaseChange {
    pub fn apply(&self, leases: &mut Leases, now: Now) {
        match self {
            Self::Joined { lease, invisible } => leases.on_joined(lease, *invisible, now.mono_ms),
            Self::Rejoined { lease, invisible } => {
                leases.on_rejoined(lease, *invisible, now.mono_ms);
            }
            Self::Left { lease } => leases.on_left(lease),
        }
    }
}

impl Index {
    pub fn new(periods: Periods) -> Self {
        Self {
            leases: HashMap::new(),
            agenda: UserAgenda::new(periods),
            early_disconnects: EarlyDisconnects::default(),
            census: Census::default(),
            online_changes: None,
        }
    }

    /// An index that notes whom others see come and go.
    pub fn tracking_online(periods: Periods) -> Self {
        Self { online_changes: Some(HashMap::new()), ..Self::new(periods) }
    }

    /// The users whom others saw come or go since the last call, and whether they are online.
    pub fn take_online_changes(&mut self) -> HashMap<Id, bool> {
        self.online_changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The numbers of users.
    pub fn census(&self) -> Census {
        self.census
    }

    /// The users with a connection on a lease, each once.
    pub fn holders(&self, lease: &Id) -> HashSet<Id> {
        self.leases.get(lease).cloned().unwrap_or_default()
    }

    /// Keeps in step with the record of a user, and returns what that means for shared leases.
    pub(super) fn observe(
        &mut self,
        user: &Id,
        before: Option<&Record>,
        after: Option<&Record>,
        now: Now,
    ) -> Vec<LeaseChange> {
        self.census.observe(before, after);
        if let Some(changes) = &mut self.online_changes {
            let is_online = |record: Option<&Record>| record.is_some_and(Record::is_shown_online);
            if is_online(before) != is_online(after) {
                changes.insert(user.clone(), is_online(after));
            }
        }
        self.agenda.observe(user, after, now);
        self.early_disconnects.observe(user, after, now.mono_ms);
        self.observe_leases(user, before, after)
    }

    fn observe_leases(
        &mut self,
        user: &Id,
        before: Option<&Record>,
        after: Option<&Record>,
    ) -> Vec<LeaseChange> {
        let on_leases = |record: Option<&Record>| {
            let connections = record.map(|record| record.connections.as_slice());
            let connections = connections.unwrap_or_default().iter();
            let generations =
                connections.filter_map(|c| Some((c.lease.clone()?, c.id.clone(), c.generation)));
            generations.collect::<Vec<_>>()
        };
        let (old, new) = (on_leases(before), on_leases(after));
        let mut changes = Vec::new();
        if old == new {
            return changes;
        }
        let invisible = after.is_some_and(|record| record.invisible);
        let is_in = |generations: &[(Id, Id, u64)], lease: &Id, connection: &Id| {
            generations.iter().any(|(l, c, _)| l == lease && c == connection)
        };
        // Those that stay or come first: a lease that holds something at both ends is not forgotten
        // in between.
        for (lease, connection, generation) in &new {
            let lease = lease.clone();
            if !is_in(&old, &lease, connection) {
                self.leases.entry(lease.clone()).or_default().insert(user.clone());
                changes.push(LeaseChange::Joined { lease, invisible });
            } else if !old.iter().any(|(l, c, n)| (l, c, n) == (&lease, connection, generation)) {
                changes.push(LeaseChange::Rejoined { lease, invisible });
            }
        }
        for (lease, connection, _) in &old {
            if is_in(&new, lease, connection) {
                continue;
            }
            if !new.iter().any(|(l, ..)| l == lease)
                && let Some(users) = self.leases.get_mut(lease)
            {
                users.remove(user);
                if users.is_empty() {
                    self.leases.remove(lease);
                }
            }
            changes.push(LeaseChange::Left { lease: lease.clone() });
        }
        changes
    }
}

impl Census {
    /// The number of users online.
    pub fn online(&self) -> usize {
        self.active + self.away + self.busy
    }

    /// The users of both.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            known: self.known + other.known,
            active: self.active + other.active,
            away: self.away + other.away,
            busy: self.busy + other.busy,
        }
    }

    fn observe(&mut self, before: Option<&Record>, after: Option<&Record>) {
        if let Some(record) = after {
            self.known += 1;
            self.shown(record.shown_availability()).into_iter().for_each(|count| *count += 1);
        }
        if let Some(record) = before {
            self.known -= 1;
            self.shown(record.shown_availability()).into_iter().for_each(|count| *count -= 1);
        }
    }

    /// The count of the users who are online with that availability.
    fn shown(&mut self, availability: Availability) -> Option<&mut usize> {
        match availability {
            Availability::Offline => None,
            Availability::Active => Some(&mut self.active),
            Availability::Away => Some(&mut self.away),
            Availability::Busy => Some(&mut self.busy),
        }
    }
}
