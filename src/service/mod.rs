//! Joins core, store and liveness: a request's commands in, their answers out. Knows nothing of
//! subjects or JSON requests; those are the edge's.

pub mod channels;
pub mod lease;
pub mod query;
mod scans;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::config::{self, Limits, Liveness, Settings};
use crate::liveness::internal::Beacons;
use crate::presence::entity::{Entity, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;
use crate::presence::user::{Command, Record, Rules, Users};
use crate::store::Store;
use crate::store::keyspace::Reply;
use channels::ChannelTypes;
use scans::Scans;

/// Everything that operations work on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    pub store: Store,
    pub beacons: Beacons,
    pub liveness: Liveness,
    pub user_settings: Arc<config::Users>,
    /// Read at each request: they may be changed at any time.
    limits: Arc<ArcSwap<Limits>>,
    channel_types: ChannelTypes,
    pending: Arc<AtomicUsize>,
    scans: Arc<Scans>,
}

/// A place among the requests that are being worked on; given back when dropped.
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

/// What decisions about users depend on, by these settings.
pub fn rules(limits: &Limits, liveness: &Liveness, users: &config::Users) -> Rules {
    Rules {
        connections_per_user: limits.connections_per_user,
        no_grace: liveness.offline_grace.is_zero(),
        announced_fields: users.announced_fields.clone(),
    }
}

impl Service {
    pub fn new(store: Store, beacons: Beacons, settings: &Settings) -> Self {
        let Settings { liveness, users, limits, channel_types, .. } = settings.clone();
        Self {
            store,
            beacons,
            liveness,
            user_settings: Arc::new(users),
            scans: Arc::new(Scans::new(limits.concurrent_scans)),
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            channel_types: Arc::new(channel_types),
            pending: Arc::default(),
        }
    }

    /// The limits as they are now.
    pub fn limits(&self) -> Guard<Arc<Limits>> {
        self.limits.load()
    }

    /// Goes by other limits from the next request on. What is under way keeps its deadline.
    pub fn adopt(&self, limits: Limits) {
        let rules = Arc::new(rules(&limits, &self.liveness, &self.user_settings));
        self.store.adjust(&rules, limits.request_timeout);
        self.scans.resize(
            self.limits().concurrent_scans,
            limits.concurrent_scans,
            &self.store.context.tracker,
        );
        self.limits.store(Arc::new(limits));
    }

    pub fn now(&self) -> Now {
        self.store.context.clock.now()
    }

    /// Takes a request of that many commands in, if there is room.
    pub fn admit(&self, weight: usize) -> Result<Permit, Refusal> {
        let before = self.pending.fetch_add(weight, Ordering::Relaxed);
        let permit = Permit { pending: Arc::clone(&self.pending), weight };
        if before < self.limits().pending_requests { Ok(permit) } else { Err(overloaded()) }
    }

    /// How many commands are being worked on.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many queries look at every record, or wait for their turn to.
    pub fn scans(&self) -> usize {
        self.scans.pending()
    }

    /// Whether a user is invisible, as far as this daemon has seen.
    pub fn is_invisible(&self, user: &Id) -> bool {
        self.store.users.with_stored(
            user,
            |stored| matches!(stored, Some((Stored::Present(record), _)) if record.invisible),
        )
    }

    /// Sends a command on its way.
    pub fn command(&self, user: Id, command: Command, deadline_ms: u64, reply: Reply<Users>) {
        self.store.users.command(user, command, deadline_ms, reply);
    }

    /// Whether one of several commands would be refused on what is known now, each on top of those
    /// before it. Otherwise how many bytes their outcomes show of users.
    pub fn check(&self, commands: &[(Id, Command)]) -> Result<usize, Refusal> {
        let (daemon, now) = (self.store.context.daemon, self.now());
        let rules = rules(&self.limits(), &self.liveness, &self.user_settings);
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

    /// Waits until the replica has seen all that is stored now, and revision `min_rev`.
    pub fn when_fresh(
        &self,
        all_stored: bool,
        min_rev: Option<u64>,
        deadline_ms: u64,
        then: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) {
        let barrier = Arc::clone(&self.store.context);
        let then = move |seen: bool| then(if seen { Ok(()) } else { Err(unavailable_fresh()) });
        let wait_for_rev: Box<dyn FnOnce(bool) + Send> = match min_rev {
            None => Box::new(then),
            Some(rev) => Box::new(move |seen| {
                if seen {
                    barrier.barrier.seen(rev, deadline_ms, Box::new(then));
                } else {
                    then(false);
                }
            }),
        };
        if all_stored {
            self.store.context.barrier.all_stored(deadline_ms, wait_for_rev);
        } else {
            wait_for_rev(true);
        }
    }
}

/// The refusal of a request for which there is no room.
pub fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "too many requests are being worked on; wait and repeat")
        .detail("retry_after_ms", fastrand::u64(100..500))
}

/// The refusal of a request that the store did not serve in time.
pub fn unavailable(message: &str) -> Refusal {
    Refusal::new(Code::Unavailable, message).detail("retry_after_ms", fastrand::u64(200..1000))
}

/// The refusal of a request for a record that cannot be read.
pub fn unreadable() -> Refusal {
    unavailable("the stored record cannot be read; it is left as it is")
}

fn unavailable_fresh() -> Refusal {
    unavailable(
        "the revision that was asked for, or all that is stored, was not seen within `limits.request_timeout`",
    )
}
