//! A simulated daemon: the real expiry, hearing, peers, index and stripe, with clocks of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use presenced::liveness::expiry::messages::{Objection, Proposal};
use presenced::liveness::expiry::{Expiry, View};
use presenced::liveness::hearing::Hearing;
use presenced::liveness::peers::Peers;
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::lease::Leases;
use presenced::presence::time::{Now, Time};
use presenced::presence::user::{ConnectionGen, EarlyDisconnect, Index, Periods, Rules, Users};
use presenced::store::stripe::{Stripe, Timing};

use super::events::{Incoming, Reply, Then};
use super::truth::Voice;
use super::world::{Settings, id};

/// The time-out of a request.
pub const REQUEST_MS: u64 = 2000;

/// The recipient of a command's answer.
#[derive(Debug)]
pub enum Ticket {
    Request(Reply),
    /// A disconnect that arrived then.
    Disconnect {
        to: Reply,
        user: Id,
        early: EarlyDisconnect,
        arrived_ms: u64,
    },
    /// A write, and the lease that this and other writes end.
    PendingWrite(Option<Id>),
}

/// The view of the expiry machine, in place of a real daemon's store and beacons.
#[derive(Debug)]
pub struct DaemonView {
    pub machine: RefCell<Stripe<Users, Ticket>>,
    pub leases: RefCell<Leases>,
    pub peers: RefCell<Peers>,
    pub hearing: RefCell<Hearing>,
}

/// The connection on which a daemon receives heartbeats and the messages of other daemons.
#[derive(Debug, Default)]
pub struct Link {
    /// Until this time nothing gets through.
    pub cut_until_ms: u64,
    /// Until this time messages are late by that much.
    pub slow_until_ms: u64,
    pub slow_by_ms: u64,
    /// Until this time heartbeats on these lanes are dropped.
    pub drops_until_ms: u64,
    pub drops: [bool; 2],
    /// A message sent later arrives later.
    pub last_ms: u64,
}

#[derive(Debug)]
pub struct Daemon {
    pub id: DaemonId,
    /// The server to which it is connected.
    pub node: usize,
    pub expiry: Expiry,
    pub view: DaemonView,
    born_ms: u64,
    /// The lead of its monotonic clock, in millionths.
    drift: i64,
    /// The error of its wall clock, and its drift in thousandths.
    pub skew_ms: i64,
    pub wall_drift: i64,
    pub link: Link,
    pub stopped_until_ms: u64,
    /// Messages that arrived while it was stopped.
    pub backlog: Vec<Incoming>,
    pub feed_slow_until_ms: u64,
    pub feed_due: bool,
    pub fetched: u64,
    pub position: u64,
    ready_from: Option<u64>,
    /// Work that waits until the replica has seen that sequence.
    pub waiting: Vec<(u64, Then)>,
    /// The leases that it ends, with the number of users left to be written.
    pub ending: BTreeMap<Id, usize>,
    /// The time of its oldest proposal for a voice that may still be decided.
    pub proposed_ms: BTreeMap<Voice, u64>,
    /// Its proposals, and their times.
    pub proposal: BTreeMap<u64, (u64, Rc<Proposal>)>,
}

impl Daemon {
    pub fn start(
        daemon: DaemonId,
        settings: &Settings,
        last_seq: u64,
        now_ms: u64,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let timing = Timing {
            ack_timeout_ms: REQUEST_MS / 4,
            read_timeout_ms: REQUEST_MS / 2,
            attempts: 40,
            max_value: 10_000,
        };
        let rules = Rules::new(50, settings.grace_ms == 0);
        let Settings { lease_ms, grace_ms, refresh_ms, .. } = *settings;
        let index = Index::tracking_online(Periods { lease_ms, grace_ms, refresh_ms });
        let machine = Stripe::<Users, Ticket>::new(daemon, Arc::new(rules), timing, index);
        let leases = RefCell::new(Leases::new(lease_ms));
        let (skew, wall_drift) = if settings.wall_clocks_lie { (300_000, 20) } else { (0, 0) };
        let mut daemon = Self {
            id: daemon,
            node: rng.usize(0..super::world::NODES),
            expiry: Expiry::new(daemon, lease_ms),
            view: DaemonView {
                machine: RefCell::new(machine),
                leases,
                peers: RefCell::new(Peers::new(daemon)),
                hearing: RefCell::new(Hearing::new(lease_ms, 0)),
            },
            born_ms: now_ms,
            drift: rng.i64(-1000..=1000),
            skew_ms: rng.i64(-skew..=skew),
            wall_drift: rng.i64(-wall_drift..=wall_drift),
            link: Link::default(),
            stopped_until_ms: 0,
            backlog: Vec::new(),
            feed_slow_until_ms: 0,
            feed_due: false,
            fetched: 0,
            position: 0,
            ready_from: Some(last_seq),
            waiting: Vec::new(),
            ending: BTreeMap::new(),
            proposed_ms: BTreeMap::new(),
            proposal: BTreeMap::new(),
        };
        daemon.catch_up(0, now_ms);
        daemon
    }

    pub fn now(&self, now_ms: u64) -> Now {
        let age_ms = i64::try_from(now_ms.saturating_sub(self.born_ms)).unwrap_or(i64::MAX);
        let mono_ms = age_ms + age_ms * self.drift / 1_000_000;
        let stream_ms = 1_700_000_000_000 + i64::try_from(now_ms).unwrap_or(i64::MAX);
        let wall_ms = stream_ms + self.skew_ms + age_ms * self.wall_drift / 1000;
        Now {
            mono_ms: u64::try_from(mono_ms).unwrap_or(0),
            wall: Time(wall_ms),
            stream: Time(stream_ms),
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready_from.is_none()
    }

    pub fn is_stopped(&self, now_ms: u64) -> bool {
        self.stopped_until_ms > now_ms
    }

    /// The replica has seen all up to `position`. Returns whether it is complete for the first
    /// time.
    pub fn catch_up(&mut self, position: u64, now_ms: u64) -> bool {
        self.position = self.position.max(position);
        let ready = self.ready_from.is_some_and(|from| from <= self.position);
        if ready {
            self.ready_from = None;
            let mono_ms = self.now(now_ms).mono_ms;
            self.view.leases(Leases::on_replayed);
            self.view.machine.get_mut().index_mut().agenda.on_replayed();
            self.view.hearing.get_mut().on_trouble(mono_ms, "it has just started to listen");
        }
        ready
    }

    /// The voices of an objection with the ages of their heartbeats, and the time of the proposal.
    pub fn objected(&self, objection: &Objection) -> (u64, Vec<(Voice, u64)>) {
        let Some((at_ms, proposal)) = self.proposal.get(&objection.number) else {
            return (0, Vec::new());
        };
        let own = objection.connections.iter().map(|(place, age_ms)| {
            let (user, connection, _) = &proposal.connections[*place];
            (Voice::Own(id(user), id(connection)), *age_ms)
        });
        let shared = objection.leases.iter();
        let shared = shared.map(|(at, age_ms)| (Voice::Lease(id(&proposal.leases[*at])), *age_ms));
        (*at_ms, own.chain(shared).collect())
    }

    /// Takes the work that no longer waits for the replica.
    pub fn seen(&mut self) -> Vec<Then> {
        let position = self.position;
        let seen = self.waiting.extract_if(.., |(last, _)| *last <= position);
        seen.map(|(_, then)| then).collect()
    }
}

impl View for DaemonView {
    fn each_index(&self, mut work: impl FnMut(&mut Index)) {
        work(self.machine.borrow_mut().index_mut());
    }

    fn with_index<R>(&self, _: &Id, work: impl FnOnce(&mut Index) -> R) -> R {
        work(self.machine.borrow_mut().index_mut())
    }

    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R {
        work(&mut self.leases.borrow_mut())
    }

    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<ConnectionGen>)> {
        let machine = self.machine.borrow();
        let mut users: Vec<_> = machine.index().holders(lease).into_iter().collect();
        users.sort_unstable();
        let generations = |user: Id| {
            let generations = machine.record(&user).map(|record| record.generations_on(lease));
            (user, generations.unwrap_or_default())
        };
        users.into_iter().map(generations).collect()
    }

    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R {
        ask(&self.peers.borrow())
    }

    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R {
        ask(&self.hearing.borrow())
    }
}
