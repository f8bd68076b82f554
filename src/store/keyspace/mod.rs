//! All records of one kind: the stripes, and what comes in for them.

mod announcements;
mod effects;
mod repair;

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;
use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use tokio::sync::oneshot;

use super::context::StoreContext;
use super::stripe::{Answer, Content, Entry, Job, Stripe, Timing};
use super::wire;
use crate::presence::entity::{Entity, Stored};
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::Now;
use announcements::RemoteChange;
use repair::Lost;

pub(super) use effects::{WriteOutcome, settle};

/// The number of stripes. A scan holds one stripe at a time, so that writes to the others go on.
pub(super) const STRIPES: usize = 256;

/// The answer to a command.
pub type CommandResult<E> = Result<Answer<<E as Entity>::Outcome>, Refusal>;

/// The sending half of a command's answer.
pub type Ticket<E> = oneshot::Sender<CommandResult<E>>;

/// A stripe of the records.
pub type TicketStripe<E> = Stripe<E, Ticket<E>>;

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

    /// The state that the indexes of all stripes share. It may be locked while a stripe is, and not
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
        let entry = self.entry(rev, message.headers.as_ref(), &message.payload);
        Some(self.drive(self.stripe_of(&key), |stripe, now| stripe.on_fed(&key, entry, now)))
    }

    /// Reads a stored message. A record below the floor was deleted.
    fn entry(&self, rev: u64, headers: Option<&HeaderMap>, payload: &Bytes) -> Entry {
        let entry = wire::entry(rev, headers, payload);
        if rev >= self.context.floor.seq() || !matches!(entry.content, Content::Put(_)) {
            return entry;
        }
        let version = entry.content.decode::<E>().map_or(0, |stored| E::version(&stored));
        let content = Content::Purge { version, changed_by: None };
        Entry { content, writer: None, expires: false, ..entry }
    }

    /// The subjects of records in a stripe that stand below sequence `floor`, at most `limit`;
    /// `None` if there is no such stripe.
    pub fn below(&self, stripe: usize, floor: u64, limit: usize) -> Option<Vec<String>> {
        if stripe >= self.stripes.len() {
            return None;
        }
        let keys = self.lock(stripe).below(floor, limit);
        Some(keys.iter().map(|key| self.subject(key)).collect())
    }

    /// Ticks all stripes, and forgets old remote changes.
    pub fn tick(self: &Arc<Self>) {
        for stripe in 0..self.stripes.len() {
            self.drive(stripe, Stripe::on_tick);
        }
        self.forget_remote_changes();
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
}

/// The refusal of a command of a daemon whose clock is wrong.
fn wrong_clock() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the clock of the daemon's machine is wrong by more than an hour; nothing is written",
    )
}
