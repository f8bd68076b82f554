//! All records of one kind: the stripes, and their effects on NATS.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::DefaultHashBuilder;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::TaskTracker;

use super::barrier::Barrier;
use super::bucket::{Bucket, BucketError};
use super::clock_skew::ClockSkew;
use super::markers::Markers;
use super::outbox::{Message, Outbox};
use super::stream_clock::StreamClock;
use super::stripe::{Answer, Effect, Failure, Found, Job, Stripe, Timing};
use super::told_lease::ToldLease;
use super::wire;
use super::write_health::WriteHealth;
use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::payload_limit::PayloadLimit;
use crate::presence::entity::{DaemonId, Entity, Event, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;

/// The number of stripes. A scan holds one stripe at a time, so that writes to the others go on.
const STRIPES: usize = 256;

/// The answer to a command.
pub type CommandResult<E> = Result<Answer<<E as Entity>::Outcome>, Refusal>;

/// The sending half of a command's answer.
pub type Ticket<E> = oneshot::Sender<CommandResult<E>>;

/// Keys of which the store lost what was known, and what that was.
type Lost<E> = Vec<(<E as Entity>::Key, Stored<<E as Entity>::Record>)>;

/// A stripe of the records.
pub type TicketStripe<E> = Stripe<E, Ticket<E>>;

/// The context that the keyspaces of a daemon share.
#[derive(Debug)]
pub struct StoreContext {
    pub clock: Clock,
    pub daemon: DaemonId,
    pub bucket: Bucket,
    pub barrier: Barrier,
    /// The outbox of writes.
    pub writes: Outbox,
    /// The outbox of events, on the connection of requests and answers.
    pub events: Outbox,
    /// The prefix of event subjects.
    pub event_prefix: String,
    /// The prefix of the subjects of acknowledgements.
    pub ack_inbox: String,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub payload_limit: PayloadLimit,
    pub write_health: WriteHealth,
    pub clock_skew: ClockSkew,
    pub stream_clock: StreamClock,
    pub told_lease: ToldLease,
    pub markers: Mutex<Markers>,
    /// Notified when the connection to the stream's server is a new one.
    pub reconnected: Notify,
    /// Notified when the leader holds an older record than a known one.
    pub suspicion: Notify,
    /// Notified when the store is found to have lost what was known.
    pub repairs: Notify,
    /// The newest revision of a write of this daemon.
    pub acked: AtomicU64,
    /// The tasks that end before the daemon does.
    pub tracker: TaskTracker,
}

impl StoreContext {
    /// The present time, on all clocks.
    pub fn now(&self) -> Now {
        self.stream_clock.at(self.clock.now())
    }

    /// Publishes the JSON of an event of that version.
    pub fn publish(&self, subject: String, version: u64, body: Vec<u8>) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(wire::VERSION, version.to_string());
        self.events.send(Message {
            subject,
            reply: None,
            headers: Some(headers),
            payload: body.into(),
            not_after_ms: None,
        });
    }

    /// The markers of deletions.
    pub fn markers(&self) -> MutexGuard<'_, Markers> {
        self.markers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that a write of this daemon was stored at.
    pub fn acked_rev(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}

/// A visible change by another daemon, which that daemon announces.
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
    hasher: DefaultHashBuilder,
    shared: Mutex<E::Shared>,
    remote_changes: Mutex<VecDeque<RemoteChange<E::Key>>>,
    /// Keys of which the store lost what was known.
    lost: Mutex<Lost<E>>,
}

/// The changes of a former daemon from this long before its last one are announced again by a
/// daemon that starts alone, in milliseconds of the former daemon's clock.
const NEWEST_CHANGES_MS: u64 = 5000;

/// How long a remote change is remembered in case its daemon fails, in milliseconds.
const REMOTE_CHANGE_TTL_MS: u64 = 20_000;

impl<E: Entity> fmt::Debug for Keyspace<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({})", E::KIND)
    }
}

impl<E: Entity> Keyspace<E> {
    pub fn new(
        context: Arc<StoreContext>,
        rules: &Arc<E::Rules>,
        timing: Timing,
        index: impl Fn() -> E::Index,
        shared: E::Shared,
    ) -> Self {
        let stripe =
            |_| Mutex::new(Stripe::new(context.daemon, Arc::clone(rules), timing, index()));
        let stripes = (0..STRIPES).map(stripe).collect();
        Self {
            context,
            stripes,
            hasher: DefaultHashBuilder::default(),
            shared: Mutex::new(shared),
            remote_changes: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// What the indexes of all stripes have in common. It may be locked while a stripe is, and not
    /// the other way round.
    pub fn shared(&self) -> MutexGuard<'_, E::Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits a command before it returns. The receiver gets the answer.
    pub fn command(
        self: &Arc<Self>,
        key: E::Key,
        command: E::Command,
        deadline_ms: u64,
    ) -> oneshot::Receiver<CommandResult<E>> {
        let (ticket, answer) = oneshot::channel();
        // A clock that has just jumped is noticed before the next comparison.
        if self.context.clock_skew.is_wrong() || self.context.now().is_wrong() {
            // The receiver is not waiting yet.
            let _ = ticket.send(Err(wrong_clock()));
            return answer;
        }
        let job = Job { command, ticket, deadline_ms };
        self.drive(self.stripe_of(&key), |stripe, now| stripe.on_command(key, job, now));
        answer
    }

    /// Works on the record under a key.
    pub fn with_record<R>(&self, key: &E::Key, work: impl FnOnce(Option<&E::Record>) -> R) -> R {
        let record = self.lock(self.stripe_of(key)).record(key);
        work(record.as_deref())
    }

    /// Works on the stored content of a key and its revision.
    pub fn with_stored<R>(
        &self,
        key: &E::Key,
        work: impl FnOnce(Option<(&Stored<E::Record>, u64)>) -> R,
    ) -> R {
        let known = self.lock(self.stripe_of(key)).known(key);
        work(known.as_ref().map(|(stored, rev)| (stored, *rev)))
    }

    /// Works on the index of a key's stripe; the key may be given in borrowed form.
    pub fn with_index<Q, R>(&self, key: &Q, work: impl FnOnce(&mut E::Index) -> R) -> R
    where
        E::Key: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        work(self.lock(self.stripe_of(key)).index_mut())
    }

    /// Works on the stripe of a key.
    pub fn for_stripe_of<R>(
        &self,
        key: &E::Key,
        work: impl FnOnce(&mut TicketStripe<E>) -> R,
    ) -> R {
        work(&mut self.lock(self.stripe_of(key)))
    }

    /// Visits the stripes one by one, each under its lock.
    pub fn for_each_stripe(&self, mut visit: impl FnMut(&mut TicketStripe<E>)) {
        for stripe in 0..self.stripes.len() {
            visit(&mut self.lock(stripe));
        }
    }

    /// Hands an input to the stripe with that number, and carries out its effects.
    pub(super) fn drive<R>(
        self: &Arc<Self>,
        stripe: usize,
        input: impl FnOnce(&mut TicketStripe<E>, Now) -> R,
    ) -> R {
        let mut locked = self.lock(stripe);
        let result = input(&mut locked, self.context.now());
        // Under the lock, so that the effects of one key leave in their order.
        for effect in locked.take_effects() {
            self.carry_out(stripe, effect);
        }
        result
    }

    /// Takes an entry of the feed under a key with those tokens. Returns the revision of the key
    /// that the feed delivered before, or `None` if they are no key of this kind.
    pub(super) fn feed(
        self: &Arc<Self>,
        tokens: &str,
        message: &async_nats::Message,
        rev: u64,
    ) -> Option<u64> {
        let key = E::from_tokens(tokens)?;
        let entry = wire::entry(rev, message.headers.as_ref(), &message.payload);
        Some(self.drive(self.stripe_of(&key), |stripe, now| stripe.on_fed(&key, entry, now)))
    }

    /// Ticks all stripes, and forgets old remote changes.
    pub fn tick(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::on_tick);
        }
        let now_ms = self.context.now().mono_ms;
        let mut remote_changes = self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
        while remote_changes
            .front()
            .is_some_and(|each| each.seen_ms + REMOTE_CHANGE_TTL_MS < now_ms)
        {
            remote_changes.pop_front();
        }
    }

    /// The stream is not the one that was known: it is replayed from here on.
    pub(super) fn on_stream_lost(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::on_stream_lost);
        }
    }

    /// The replay is over.
    pub(super) fn on_replayed(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::on_replayed);
        }
    }

    /// Takes the keys of which the store lost what was known.
    pub(super) fn take_lost(&self) -> Lost<E> {
        std::mem::take(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn has_lost(&self) -> bool {
        !self.lost.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives a key of which the store lost what was known the version that others have seen, and
    /// tells them what is left. Tries until that is stored, or can never be.
    pub(super) async fn repair(self: &Arc<Self>, key: E::Key, lost: Stored<E::Record>) {
        loop {
            let found = self.with_stored(&key, |found| {
                let nothing = Stored::default();
                E::repair(&lost, found.map_or(&nothing, |(found, _)| found))
            });
            let Some(command) = found else { return };
            let deadline_ms = self.context.now().mono_ms + REPAIR_TIMEOUT_MS;
            match self.command(key.clone(), command, deadline_ms).await {
                Ok(Err(refusal)) if matches!(refusal.code, Code::Unavailable | Code::Contended) => {
                    tracing::debug!(?refusal, "a key could not be repaired yet");
                    tokio::time::sleep(REPAIR_PAUSE).await;
                }
                Ok(Err(refusal)) => {
                    tracing::error!(reason = refusal.message, "a record cannot be repaired");
                    return;
                }
                // It is done, or the daemon stops.
                Ok(Ok(_)) | Err(_) => return,
            }
        }
    }

    /// Announces the changes of a failed daemon since `since_ms` again, since it may not have done
    /// so. Returns the number of keys.
    pub fn announce_for(&self, failed: DaemonId, since_ms: u64) -> usize {
        let keys: std::collections::BTreeSet<_> = {
            let remote_changes = self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
            let its_changes =
                remote_changes.iter().filter(|each| each.by == failed && each.seen_ms >= since_ms);
            its_changes.map(|each| each.key.clone()).collect()
        };
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces the newest changes of each former daemon that is not `alive` again: it may have
    /// failed before it announced them. Returns the number of keys. The choice depends on the
    /// versions alone, which are public: an invisible change leaves no trace in it.
    pub fn announce_newest(&self, alive: impl Fn(DaemonId) -> bool) -> usize {
        let mut newest: HashMap<DaemonId, u64> = HashMap::new();
        self.for_each_stripe(|stripe| {
            for (_, (version, by)) in stripe.changes() {
                if let Some(by) = by.filter(|by| !alive(*by)) {
                    let newest = newest.entry(by).or_default();
                    *newest = version.max(*newest);
                }
            }
        });
        let is_new = |(version, by): (u64, Option<DaemonId>)| {
            let last = by.and_then(|by| newest.get(&by)).copied();
            last.is_some_and(|last| version + NEWEST_CHANGES_MS >= last)
        };
        let mut keys = Vec::new();
        self.for_each_stripe(|stripe| {
            let new = stripe.changes().filter(|(_, change)| is_new(*change));
            keys.extend(new.map(|(key, _)| key.clone()));
        });
        keys.iter().for_each(|key| self.announce(key));
        keys.len()
    }

    /// Announces the present view of a key.
    pub fn announce(&self, key: &E::Key) {
        let stripe = self.lock(self.stripe_of(key));
        if let Some(event) = stripe.announcement(key, self.context.now()) {
            self.publish(event);
        }
    }

    /// The number of keys with unfinished work.
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
                    subject: format!(
                        "{}{}",
                        self.context.bucket.write_prefix(),
                        Self::tokens(&key)
                    ),
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
                let deadline_ms = self.context.now().mono_ms + VERIFY_TIMEOUT_MS;
                let all_stored = self.context.barrier.all_stored(deadline_ms);
                self.context.tracker.spawn(async move {
                    if all_stored.await.is_ok() {
                        this.drive(stripe, |stripe, now| stripe.on_verified(&key, verify, now));
                    }
                });
            }
            Effect::ChangeShared(change) => {
                E::apply(&mut self.shared(), &change, self.context.now());
            }
            Effect::Announce(event) => self.publish(event),
            // The receiver is gone only when its request is.
            Effect::Answer { ticket, result } => drop(ticket.send(result)),
            Effect::Lost { key, lost } => {
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).push((key, lost));
                self.context.repairs.notify_one();
            }
            Effect::Suspect => self.context.suspicion.notify_one(),
            Effect::RemoteChange { key, by } => {
                let seen_ms = self.context.now().mono_ms;
                let mut remote_changes =
                    self.remote_changes.lock().unwrap_or_else(PoisonError::into_inner);
                remote_changes.push_back(RemoteChange { seen_ms, key, by });
            }
        }
    }

    async fn read(self: Arc<Self>, stripe: usize, key: E::Key, read: u64) {
        let found = match self.context.bucket.last(&self.subject(&key)).await {
            Ok(raw) => Found::Entry(wire::entry(raw.seq, Some(&raw.headers), &raw.payload)),
            Err(BucketError::NoKey) => Found::Nothing,
            Err(error) => {
                tracing::debug!(%error, "a record could not be read");
                Found::Failed
            }
        };
        self.drive(stripe, |stripe, now| stripe.on_found(&key, read, found, now));
    }

    fn publish(&self, event: Event) {
        self.context.metrics.events.inc();
        let mut subject = format!("{}.", self.context.event_prefix);
        crate::presence::id::push_token(&mut subject, Id::as_str(&event.user));
        self.context.publish(subject, event.version, event.body);
    }

    fn subject(&self, key: &E::Key) -> String {
        format!("{}{}", self.context.bucket.prefix(), Self::tokens(key))
    }

    fn tokens(key: &E::Key) -> String {
        format!("{}.{}", E::KIND, E::tokens(key))
    }
}

/// The refusal of a command of a daemon whose clock is wrong.
fn wrong_clock() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the clock of the daemon's machine is wrong by more than an hour; nothing is written",
    )
}

/// How long one attempt to repair a key may take, in milliseconds.
const REPAIR_TIMEOUT_MS: u64 = 5000;

/// The pause after an attempt that failed.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);

/// The time-out of a verification, in milliseconds: longer than any command lives.
const VERIFY_TIMEOUT_MS: u64 = 60_000;

/// Hands the outcome of a write to its stripe.
pub(super) fn settle<E: Entity>(
    keyspace: &Arc<Keyspace<E>>,
    stripe: usize,
    write: u64,
    outcome: WriteOutcome,
) {
    if stripe >= STRIPES {
        return;
    }
    let StoreContext { metrics, write_health, .. } = &*keyspace.context;
    match &outcome {
        WriteOutcome::Stored(rev) => {
            keyspace.context.acked.fetch_max(*rev, Ordering::Relaxed);
            write_health.on_stored();
            metrics.committed(E::KIND);
        }
        WriteOutcome::Conflict => {
            write_health.on_answered();
            metrics.conflicted(E::KIND);
        }
        WriteOutcome::Failed(Failure::Retry(reason)) => {
            if let Some(reason) = reason {
                write_health.on_refused(reason, keyspace.context.now());
            }
            metrics.retried(E::KIND);
        }
        WriteOutcome::Failed(Failure::Refused(_)) => write_health.on_answered(),
    }
    keyspace.drive(stripe, |stripe, now| match outcome {
        WriteOutcome::Stored(rev) => stripe.on_acked(write, rev, now),
        WriteOutcome::Conflict => stripe.on_conflicted(write, now),
        WriteOutcome::Failed(failure) => stripe.on_failed(write, &failure, now),
    });
}

/// The outcome of a write, by its acknowledgement.
#[derive(Debug)]
pub(super) enum WriteOutcome {
    Stored(u64),
    Conflict,
    Failed(Failure),
}
