//! Joins core, store and liveness: commands in, answers out.
//!
//! Requests and their subjects belong to the edge and are unknown here. The announcement of counts
//! ([`occupancy`]) is no answer to a request, and has its subjects itself.

pub mod channels;
mod erase;
pub mod forget;
mod lease;
pub mod occupancy;
pub mod query;
mod scans;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::clock::millis;
use crate::config::{self, Limits, Liveness, Settings};
use crate::liveness::early_disconnects;
use crate::liveness::internal::Beacons;
use crate::presence::entity::{Entity, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;
use crate::presence::user::{
    BeforeConnect, Command, EarlyDisconnect, NewConnection, Record, Rules, Users,
};
use crate::store::Store;
use crate::store::barrier::NotSeen;
use crate::store::keyspace::CommandResult;
use channels::ChannelTypes;
use scans::Scans;

/// Everything that operations work on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    pub store: Store,
    pub beacons: Beacons,
    pub liveness: Liveness,
    pub user_settings: Arc<config::Users>,
    /// Read at each request, as a reload may change them at any time.
    limits: Arc<ArcSwap<Limits>>,
    channel_types: ChannelTypes,
    /// The prefix of the subjects on which counts of channels are announced.
    channel_events: Arc<str>,
    pending: Arc<AtomicUsize>,
    scans: Arc<Scans>,
    /// Whether connections have a grace, as far as the rules in force say.
    has_grace: Arc<AtomicBool>,
}

/// The share of one request in the bound on pending commands; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    pending: Arc<AtomicUsize>,
    weight: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pending.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// The rules for decisions about users, from the settings and the longest grace of all daemons.
pub fn rules(limits: &Limits, grace_ms: u64, users: &config::Users) -> Rules {
    Rules {
        connections_per_user: limits.connections_per_user,
        no_grace: grace_ms == 0,
        announced_fields: users.announced_fields.clone(),
    }
}

impl Service {
    pub fn new(store: Store, beacons: Beacons, settings: &Settings) -> Self {
        let Settings { liveness, users, limits, channel_types, subjects, .. } = settings.clone();
        let has_grace = !liveness.offline_grace.is_zero();
        Self {
            store,
            beacons,
            liveness,
            user_settings: Arc::new(users),
            scans: Arc::new(Scans::new(limits.concurrent_scans)),
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            channel_types: Arc::new(channel_types),
            channel_events: subjects.channel_events.into(),
            pending: Arc::default(),
            has_grace: Arc::new(AtomicBool::new(has_grace)),
        }
    }

    /// The current limits.
    pub fn limits(&self) -> Guard<Arc<Limits>> {
        self.limits.load()
    }

    /// Applies new limits from the next request on. Requests under way keep their deadlines.
    pub fn adopt(&self, limits: Limits) {
        self.adjust_rules(&limits);
        self.scans.resize(
            self.limits().concurrent_scans,
            limits.concurrent_scans,
            &self.store.context.tracker,
        );
        self.limits.store(Arc::new(limits));
    }

    /// Applies the rules that follow from these limits and from the settings of the other daemons.
    fn adjust_rules(&self, limits: &Limits) {
        let grace_ms = self.beacons.longest().grace_ms;
        self.has_grace.store(grace_ms > 0, Ordering::Relaxed);
        let rules = Arc::new(rules(limits, grace_ms, &self.user_settings));
        self.store.adjust(&rules, limits.request_timeout);
    }

    /// Applies what other daemons' settings change in the rules: with a grace anywhere, there is
    /// one everywhere.
    pub fn follow_peers(&self) {
        let has_grace = self.beacons.longest().grace_ms > 0;
        if has_grace != self.has_grace.load(Ordering::Relaxed) {
            self.adjust_rules(&self.limits());
        }
    }

    /// The lease that clients are told, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.store.context.told_lease.lease_ms()
    }

    pub fn now(&self) -> Now {
        self.store.context.now()
    }

    /// Admits a request of `weight` commands, or refuses it while too many are pending or the
    /// replica is not what is stored.
    pub fn admit(&self, weight: usize) -> Result<Permit, Refusal> {
        if !self.store.is_whole() {
            return Err(unavailable(
                "the store is not what it was, and is read again; repeat the request",
            ));
        }
        let before = self.pending.fetch_add(weight, Ordering::Relaxed);
        let permit = Permit { pending: Arc::clone(&self.pending), weight };
        if before < self.limits().pending_requests { Ok(permit) } else { Err(overloaded()) }
    }

    /// The number of commands under way.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// The number of scans that run or wait for a permit.
    pub fn scans(&self) -> usize {
        self.scans.pending()
    }

    /// Returns whether a user is invisible in the replica.
    pub fn is_invisible(&self, user: &Id) -> bool {
        self.store.users.with_stored(
            user,
            |stored| matches!(stored, Some((Stored::Present(record), _)) if record.invisible),
        )
    }

    /// Submits a command before it returns; the future is its answer.
    pub fn command(
        &self,
        user: Id,
        command: Command,
        deadline_ms: u64,
    ) -> impl Future<Output = CommandResult<Users>> + Send + use<> {
        let answer = self.store.users.command(user, command, deadline_ms);
        async move { answer.await.unwrap_or_else(|_| Err(stopped())) }
    }

    /// The early disconnects remembered before a connect that arrived at `arrived_ms`.
    pub fn before_connect(
        &self,
        user: &Id,
        connection: &NewConnection,
        arrived_ms: u64,
    ) -> BeforeConnect {
        self.store.users.with_index(user, |index| {
            index.early_disconnects.before_connect(user, connection, arrived_ms)
        })
    }

    /// Tells all daemons that a connect came too late for these disconnects to end it.
    pub async fn void_disconnects(&self, user: &Id, void: Vec<EarlyDisconnect>) {
        early_disconnects::publish_void(&self.store, &self.beacons, user, void).await;
    }

    /// A disconnect that arrived at `arrived_ms` found no connection: should the connect arrive
    /// within `limits.request_timeout`, at whichever daemon, the connection is ended at once.
    pub async fn publish_early(&self, user: &Id, early: EarlyDisconnect, arrived_ms: u64) {
        let window = early_disconnects::window(arrived_ms, millis(self.limits().request_timeout));
        early_disconnects::publish(&self.store, &self.beacons, user, early, window).await;
    }

    /// Decides several commands on the replica, each on top of those before it, and writes nothing.
    ///
    /// Returns the size of the users in their outcomes, in bytes, or the first refusal.
    pub fn check(&self, commands: &[(Id, Command)]) -> Result<usize, Refusal> {
        let (daemon, now) = (self.store.context.daemon, self.now());
        let rules = rules(&self.limits(), self.beacons.longest().grace_ms, &self.user_settings);
        let mut decided: HashMap<&Id, Stored<Record>> = HashMap::new();
        let mut bytes = 0;
        for (user, command) in commands {
            let decision = match decided.get(user) {
                Some(stored) => Users::decide(user, stored, command, &rules, daemon, now),
                None => self.store.users.with_stored(user, |stored| {
                    let nothing = Stored::default();
                    let stored = stored.map_or(&nothing, |(stored, _)| stored);
                    Users::decide(user, stored, command, &rules, daemon, now)
                }),
            }?;
            bytes += decision.outcome.shown_bytes() + 2 * user.as_str().len();
            if let Some(next) = decision.next {
                decided.insert(user, next);
            }
        }
        Ok(bytes)
    }

    /// Waits until the replica has seen all that is stored at the time of the call.
    pub async fn all_stored(&self, deadline_ms: u64) -> Result<(), Refusal> {
        let seen = self.store.context.barrier.all_stored(deadline_ms).await;
        seen.map_err(|NotSeen| not_fresh())
    }

    /// Waits until the replica has seen revision `rev`.
    pub async fn seen(&self, rev: u64, deadline_ms: u64) -> Result<(), Refusal> {
        let seen = self.store.context.barrier.seen(rev, deadline_ms).await;
        seen.map_err(|NotSeen| not_fresh())
    }
}

/// The refusal of a request beyond the bound on pending commands or scans.
pub fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "too many requests are being worked on; wait and repeat")
}

/// The refusal of a request that could not be served in time.
pub fn unavailable(message: &str) -> Refusal {
    Refusal::new(Code::Unavailable, message)
}

/// The refusal of a request for a record that cannot be read.
pub fn unreadable() -> Refusal {
    unavailable("the stored record cannot be read; it is left as it is")
}

/// The refusal of a command whose answer was lost with the keyspace.
fn stopped() -> Refusal {
    unavailable("the daemon stopped before the answer came")
}

fn not_fresh() -> Refusal {
    unavailable(
        "the revision that was asked for, or all that is stored, was not seen within \
         `limits.request_timeout`",
    )
}
