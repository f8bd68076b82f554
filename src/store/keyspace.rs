//! All records of one kind: the stripes, and the way of their effects to NATS.

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::barrier::Barrier;
use super::bucket::{Bucket, BucketError};
use super::outbox::{Message, Outbox};
use super::stripe::{Answer, Effect, Failure, Found, Job, Stripe, Timing};
use super::wire;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::time::Now;

/// How many parts the records are cut into. A scan holds one stripe at a time, so that writes to the
/// others go on.
const STRIPES: usize = 256;

/// The answer to a command.
pub type CommandResult<E> = Result<Answer<<E as Entity>::Outcome>, Refusal>;

/// The sending half of a command's answer.
pub type Ticket<E> = oneshot::Sender<CommandResult<E>>;

/// A stripe of the records.
pub type TicketStripe<E> = Stripe<E, Ticket<E>>;

/// What the keyspaces of a daemon share.
#[derive(Debug)]
pub struct StoreContext {
    pub clock: Clock,
    pub daemon: DaemonId,
    pub bucket: Bucket,
    pub barrier: Barrier,
    /// Where writes go out.
    pub writes: Outbox,
    /// Where events go out, on the connection that answers too.
    pub events: Outbox,
    /// What event subjects begin with.
    pub event_prefix: String,
    /// Where acknowledgements are awaited.
    pub ack_inbox: String,
    pub metrics: Arc<Metrics>,
    /// The tasks that must end before the daemon does.
    pub tracker: TaskTracker,
}

/// A visible change that another daemon made, and that it is to announce.
#[derive(Debug)]
struct RemoteChange<K> {
    seen_ms: u64,
    key: K,
    by: DaemonId,
}

/// All records of one kind.
pub struct Keyspace<E: Entity> {
    context: Arc<StoreContext>,
    stripes: Vec<Mutex<TicketStripe<E>>>,
    hasher: RandomState,
    remote_changes: Mutex<VecDeque<RemoteChange<E::Key>>>,
}

/// How far before its last one the changes of a daemon are announced again by one that finds
/// nobody alive, in milliseconds of that daemon's clock.
const NEWEST_MS: u64 = 5000;

/// How long a change made elsewhere is remembered, in case its daemon is found dead.
const REMOTE_CHANGE_MS: u64 = 20_000;

impl<E: Entity> fmt::Debug for Keyspace<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({})", E::KIND)
    }
}

impl<E: Entity> Keyspace<E> {
    pub fn new(context: Arc<StoreContext>, rules: &Arc<E::Rules>, timing: Timing) -> Self {
        let stripe = |_| Mutex::new(Stripe::new(context.daemon, Arc::clone(rules), timing));
        let stripes = (0..STRIPES).map(stripe).collect();
        Self { context, stripes, hasher: RandomState::new(), remote_changes: Mutex::default() }
    }

    /// Submits a command before it returns. The receiver gets the answer.
    pub fn command(
        self: &Arc<Self>,
        key: E::Key,
        command: E::Command,
        deadline_ms: u64,
    ) -> oneshot::Receiver<CommandResult<E>> {
        let (ticket, answer) = oneshot::channel();
        let job = Job { command, ticket, deadline_ms };
        self.drive(self.stripe_of(&key), |stripe, now| stripe.command(key, job, now));
        answer
    }

    /// Looks at what is stored under a key.
    pub fn with_record<R>(&self, key: &E::Key, look: impl FnOnce(Option<&E::Record>) -> R) -> R {
        look(self.lock(self.stripe_of(key)).record(key))
    }

    /// Looks at what is stored under a key, and at its revision.
    pub fn with_stored<R>(
        &self,
        key: &E::Key,
        look: impl FnOnce(Option<(&Stored<E::Record>, u64)>) -> R,
    ) -> R {
        look(self.lock(self.stripe_of(key)).known(key))
    }

    /// Works on the index of the stripe in which a key lies, which may be given borrowed.
    pub fn with_index<Q, R>(&self, key: &Q, work: impl FnOnce(&mut E::Index) -> R) -> R
    where
        E::Key: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        work(self.lock(self.stripe_of(key)).index_mut())
    }

    /// Visits the parts one by one, each under its lock.
    pub fn for_each_stripe(&self, mut visit: impl FnMut(&mut TicketStripe<E>)) {
        for stripe in 0..self.stripes.len() {
            visit(&mut self.lock(stripe));
        }
    }

    /// Something on the way in from NATS for the stripe with that number.
    pub(super) fn drive(
        self: &Arc<Self>,
        stripe: usize,
        input: impl FnOnce(&mut TicketStripe<E>, Now),
    ) {
        let mut locked = self.lock(stripe);
        input(&mut locked, self.context.clock.now());
        // Under the lock: the effects of one key must leave in their order.
        for effect in locked.take_effects() {
            self.carry_out(stripe, effect);
        }
    }

    /// An entry of the feed, under a key with those tokens; `None` if they are no key of this kind.
    pub(super) fn feed(
        self: &Arc<Self>,
        tokens: &str,
        message: &async_nats::Message,
        rev: u64,
    ) -> Option<E::Key> {
        let key = E::from_tokens(tokens)?;
        let entry = wire::entry::<E>(rev, &key, message.headers.as_ref(), &message.payload);
        self.drive(self.stripe_of(&key), |stripe, now| stripe.fed(&key, entry, now));
        Some(key)
    }

    /// Time has passed.
    pub fn tick(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::tick);
        }
        let now_ms = self.context.clock.now().mono_ms;
        let mut remote_changes = self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
        while remote_changes.front().is_some_and(|each| each.seen_ms + REMOTE_CHANGE_MS < now_ms) {
            remote_changes.pop_front();
        }
    }

    /// The bucket was deleted and made again.
    pub(super) fn reset(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::reset);
        }
    }

    /// Announces once more what `dead` changed since `since_ms`, in case it could not.
    pub fn announce_for(&self, dead: DaemonId, since_ms: u64) -> usize {
        let keys: std::collections::BTreeSet<_> = {
            let remote_changes = self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
            let of_dead = remote_changes.iter().filter(|e| e.by == dead && e.seen_ms >= since_ms);
            of_dead.map(|each| each.key.clone()).collect()
        };
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces once more what was changed last, by each daemon that ever wrote and is not `alive`:
    /// it may have died before it announced those changes. Goes by the versions alone, which are public:
    /// what nobody could see leaves no trace in who is announced again.
    pub fn announce_newest(&self, alive: impl Fn(DaemonId) -> bool) -> usize {
        let mut newest: HashMap<DaemonId, u64> = HashMap::new();
        self.for_each_stripe(|stripe| {
            for (_, stored) in stripe.all() {
                let (version, by) = (E::version(stored), E::changed_by(stored));
                if let Some(by) = by.filter(|by| !alive(*by)) {
                    let newest = newest.entry(by).or_default();
                    *newest = version.max(*newest);
                }
            }
        });
        let is_new = |stored: &Stored<E::Record>| {
            let last = E::changed_by(stored).and_then(|by| newest.get(&by)).copied();
            last.is_some_and(|last| E::version(stored) + NEWEST_MS >= last)
        };
        let mut keys = Vec::new();
        self.for_each_stripe(|stripe| {
            let new = stripe.all().filter(|(_, stored)| is_new(stored));
            keys.extend(new.map(|(key, _)| key.clone()));
        });
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces the present view of a key.
    pub fn announce(&self, key: &E::Key) {
        let stripe = self.lock(self.stripe_of(key));
        if let Some(event) = stripe.announcement(key, self.context.clock.now()) {
            self.publish(event);
        }
    }

    /// How many keys have unfinished business.
    pub fn busy(&self) -> usize {
        (0..self.stripes.len()).map(|stripe| self.lock(stripe).busy()).sum()
    }

    fn stripe_of<Q>(&self, key: &Q) -> usize
    where
        E::Key: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or(0)
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, TicketStripe<E>> {
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(self: &Arc<Self>, stripe: usize, effect: Effect<E, Ticket<E>>) {
        match effect {
            Effect::Write { key, write, expected, content, visible, not_after_ms } => {
                let daemon = self.context.daemon.to_string();
                let (headers, payload) = wire::write(&daemon, expected, content, visible);
                self.context.writes.send(Message {
                    subject: self.subject(&key),
                    reply: Some(format!("{}.{}.{stripe}.{write}", self.context.ack_inbox, E::KIND)),
                    headers: Some(headers),
                    payload,
                    not_after_ms: Some(not_after_ms),
                });
            }
            Effect::Read { key, read } => {
                let this = Arc::clone(self);
                self.context.tracker.spawn(async move { this.read(stripe, key, read).await });
            }
            Effect::Verify { key, verify } => {
                let this = Arc::clone(self);
                // The commands that wait for it carry their own deadlines.
                let deadline_ms = self.context.clock.now().mono_ms + VERIFY_MS;
                let all_stored = self.context.barrier.all_stored(deadline_ms);
                self.context.tracker.spawn(async move {
                    if all_stored.await {
                        this.drive(stripe, |stripe, now| stripe.verified(&key, verify, now));
                    }
                });
            }
            Effect::Announce(event) => self.publish(event),
            // The receiver is gone only when its request is.
            Effect::Answer { ticket, result } => drop(ticket.send(result)),
            Effect::RemoteChange { key, by } => {
                let seen_ms = self.context.clock.now().mono_ms;
                let mut remote_changes =
                    self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
                remote_changes.push_back(RemoteChange { seen_ms, key, by });
            }
        }
    }

    async fn read(self: Arc<Self>, stripe: usize, key: E::Key, read: u64) {
        let found = match self.context.bucket.last(&self.subject(&key)).await {
            Ok(raw) => {
                Found::Entry(wire::entry::<E>(raw.seq, &key, Some(&raw.headers), &raw.payload))
            }
            Err(BucketError::NoKey) => Found::Nothing,
            Err(error) => {
                tracing::debug!(%error, "a record could not be read");
                Found::Failed
            }
        };
        self.drive(stripe, |stripe, now| stripe.found(&key, read, found, now));
    }

    fn publish(&self, event: Event) {
        self.context.metrics.events.inc();
        let mut subject = format!("{}.", self.context.event_prefix);
        crate::presence::id::push_token(&mut subject, Id::as_str(&event.user));
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(wire::VERSION, event.version.to_string());
        self.context.events.send(Message {
            subject,
            reply: None,
            headers: Some(headers),
            payload: event.body.into(),
            not_after_ms: None,
        });
    }

    fn subject(&self, key: &E::Key) -> String {
        format!("{}{}.{}", self.context.bucket.prefix(), E::KIND, E::tokens(key))
    }
}

/// How long a verification is worth waiting for: longer than any command lives.
const VERIFY_MS: u64 = 60_000;

/// What a JetStream acknowledgement means for a write.
pub(super) fn settle<E: Entity>(
    keyspace: &Arc<Keyspace<E>>,
    stripe: usize,
    write: u64,
    settled: Settled,
) {
    if stripe >= STRIPES {
        return;
    }
    let metrics = &keyspace.context.metrics;
    match &settled {
        Settled::Stored(_) => metrics.committed(E::KIND),
        Settled::Conflict => metrics.conflicted(E::KIND),
        Settled::Failed(Failure::Retry) => metrics.retried(E::KIND),
        Settled::Failed(Failure::Refused(_)) => {}
    }
    keyspace.drive(stripe, |stripe, now| match settled {
        Settled::Stored(rev) => stripe.acked(write, rev, now),
        Settled::Conflict => stripe.conflicted(write, now),
        Settled::Failed(failure) => stripe.failed(write, &failure, now),
    });
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Settled {
    Stored(u64),
    Conflict,
    Failed(Failure),
}
