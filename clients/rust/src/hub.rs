//! One task per door: subscriptions, queries and their merge, shared by all watches.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, SelectAll};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::error::Error;
use crate::id::Id;
use crate::link::{LOOK_INTERVAL, Link, LinkState, part};
use crate::merge::{Known, Merge, Merged};
use crate::signals::Signal;
use crate::user::Seen;
use crate::watch::{Shared, WatchState};

const GATHER: Duration = Duration::from_millis(10);
const LINGER: Duration = Duration::from_secs(1);
const QUERIES: usize = 4;

/// Where a hub asks for users.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// `query_users`.
    Users,
    /// `watch_channel`: members of one channel, for users who may not query.
    Channel { kind: Id, id: Id },
}

impl Source {
    /// How many users one request may name.
    fn most(&self) -> usize {
        match self {
            Self::Users => 100,
            Self::Channel { .. } => 10,
        }
    }

    async fn ask(&self, link: &Link, ids: &[Id]) -> Result<Vec<Seen>, Error> {
        match self {
            Self::Users => {
                let filter = json!({"id": {"$in": ids}});
                let body = json!({"filter": filter, "limit": self.most(), "presence": true});
                part(&mut link.ask("query_users", &body).await?, "users")
            }
            Self::Channel { kind, id } => {
                let body = json!({"type": kind, "id": id, "users": ids, "presence": true});
                Ok(members(&link.ask("watch_channel", &body).await?["channel"]))
            }
        }
    }
}

/// The members of a channel that are shown with their presence.
pub(crate) fn members(channel: &Value) -> Vec<Seen> {
    let members = channel["members"].as_array().into_iter().flatten();
    members.filter_map(|member| Seen::deserialize(&member["user"]).ok()).collect()
}

#[derive(Debug)]
pub(crate) enum Command {
    Watch { number: u64, shared: Arc<Shared>, ids: HashSet<Id> },
    Add { number: u64, ids: HashSet<Id> },
    Remove { number: u64, id: Id },
    Unwatch { number: u64 },
}

/// What the objects of a door hold of its hub. The hub ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct HubHandle {
    commands: mpsc::UnboundedSender<Command>,
    counts: Arc<Counts>,
}

/// What the hub counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    watches: AtomicU64,
    pub foreign: AtomicU64,
    pub missed: AtomicU64,
    pub resyncs: AtomicU64,
}

impl HubHandle {
    pub fn start(link: Arc<Link>, audit: Option<Duration>, source: Source) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        tokio::spawn(Hub::new(link, source, receiver, audit, counts.clone()).run());
        Self { commands, counts }
    }

    /// A hub that has ended closed all watches already.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    pub fn next_watch(&self) -> u64 {
        self.counts.watches.fetch_add(1, Ordering::Relaxed)
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

struct Watched {
    shared: Arc<Shared>,
    ids: HashSet<Id>,
    /// Users of which there is no fresh answer.
    pending: HashSet<Id>,
    denied: Option<Error>,
    was_live: bool,
    stale: Option<&'static str>,
}

struct Followed {
    watches: HashSet<u64>,
    /// Ends the subscription when it is dropped.
    _stop: oneshot::Sender<()>,
    linger_until: Option<Instant>,
    denied: bool,
}

struct Answer {
    query: u64,
    ids: Vec<Id>,
    audit: bool,
    found: Result<Vec<Seen>, Error>,
}

type Query = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Hub {
    link: Arc<Link>,
    source: Source,
    commands: mpsc::UnboundedReceiver<Command>,
    counts: Arc<Counts>,
    audit: Option<Duration>,
    merge: Merge,
    watches: HashMap<u64, Watched>,
    users: HashMap<Id, Followed>,
    events: SelectAll<Feed>,
    queries: FuturesUnordered<Query>,
    due: VecDeque<Id>,
    due_at: Option<Instant>,
    seen_link: LinkState,
    /// Answers of queries up to this one do not make a watch live.
    stale_until: u64,
}

impl Hub {
    fn new(
        link: Arc<Link>,
        source: Source,
        commands: mpsc::UnboundedReceiver<Command>,
        audit: Option<Duration>,
        counts: Arc<Counts>,
    ) -> Self {
        let seen_link = link.look();
        Self {
            link,
            source,
            commands,
            counts,
            audit,
            merge: Merge::default(),
            watches: HashMap::new(),
            users: HashMap::new(),
            events: SelectAll::new(),
            queries: FuturesUnordered::new(),
            due: VecDeque::new(),
            due_at: None,
            seen_link,
            stale_until: 0,
        }
    }

    async fn run(mut self) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = self.link.signals().listen();
        let mut audit_at = self.next_audit();
        loop {
            let due_at = self.due_at.filter(|_| self.seen_link.up && self.queries.len() < QUERIES);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => break,
                },
                Some((id, message)) = self.events.next() => self.on_event(&id, &message),
                Some(answer) = self.queries.next() => self.on_answer(answer),
                signal = signals.recv() => match signal {
                    Ok(Signal::Denied(subject)) => self.on_denied(&subject),
                    _ => self.resync("messages were dropped"),
                },
                () = until(due_at) => self.send_queries(),
                () = until(audit_at) => {
                    self.send_audit();
                    audit_at = self.next_audit();
                }
                _ = looks.tick() => self.on_look(),
            }
        }
        for watched in self.watches.values() {
            watched.shared.is(WatchState::Closed);
        }
    }

    fn next_audit(&self) -> Option<Instant> {
        self.audit.map(|every| Instant::now() + every.mul_f64(0.8 + 0.4 * fastrand::f64()))
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Watch { number, shared, ids } => {
                let watched = Watched {
                    shared,
                    ids: HashSet::new(),
                    pending: HashSet::new(),
                    denied: None,
                    was_live: false,
                    stale: None,
                };
                self.watches.insert(number, watched);
                self.add(number, ids).await;
            }
            Command::Add { number, ids } => self.add(number, ids).await,
            Command::Remove { number, id } => {
                if let Some(watched) = self.watches.get_mut(&number) {
                    watched.ids.remove(&id);
                    watched.pending.remove(&id);
                    watched.shared.hide(&id);
                    self.leave(number, &id);
                    self.settle(number);
                }
            }
            Command::Unwatch { number } => {
                if let Some(watched) = self.watches.remove(&number) {
                    watched.shared.is(WatchState::Closed);
                    for id in &watched.ids {
                        self.leave(number, id);
                    }
                }
            }
        }
    }

    async fn add(&mut self, number: u64, ids: HashSet<Id>) {
        for id in ids {
            if !self.users.contains_key(&id) {
                let subject = self.link.event_subject(&id);
                let Ok(subscriber) = self.link.subscribe(subject).await else {
                    let Some(watched) = self.watches.get_mut(&number) else { return };
                    watched.denied = Some(Error::Closed);
                    continue;
                };
                let (stop, stopped) = oneshot::channel();
                self.events.push(Feed { id: id.clone(), subscriber, stopped });
                let followed = Followed {
                    watches: HashSet::new(),
                    _stop: stop,
                    linger_until: None,
                    denied: false,
                };
                self.users.insert(id.clone(), followed);
            }
            let Some(watched) = self.watches.get_mut(&number) else { return };
            let Some(followed) = self.users.get_mut(&id) else { continue };
            followed.watches.insert(number);
            followed.linger_until = None;
            watched.ids.insert(id.clone());
            watched.pending.insert(id.clone());
            let known = self.merge.get(id.as_str());
            if known != Known::Unknown {
                watched.shared.show(&id, known);
            }
            self.due.push_back(id);
        }
        let at = Instant::now() + GATHER;
        self.due_at = Some(self.due_at.map_or(at, |due_at| due_at.min(at)));
        self.settle(number);
    }

    fn leave(&mut self, number: u64, id: &Id) {
        if let Some(followed) = self.users.get_mut(id) {
            followed.watches.remove(&number);
            if followed.watches.is_empty() {
                followed.linger_until = Some(Instant::now() + LINGER);
            }
        }
    }

    fn on_event(&mut self, id: &Id, message: &Message) {
        match self.merge.on_event(id, &message.payload) {
            Ok(Some(merged)) => self.show(merged),
            Ok(None) => {}
            Err(_) => {
                self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn show(&self, merged: Merged) {
        let Some(followed) = self.users.get(&merged.id) else { return };
        if followed.denied {
            return;
        }
        for number in &followed.watches {
            if let Some(watched) = self.watches.get(number) {
                watched.shared.show(&merged.id, merged.now.clone());
            }
        }
    }

    fn send_queries(&mut self) {
        let mut chosen = HashSet::new();
        while self.queries.len() < QUERIES && !self.due.is_empty() {
            let mut ids = Vec::new();
            while ids.len() < self.source.most() {
                let Some(id) = self.due.pop_front() else { break };
                if self.users.contains_key(&id) && chosen.insert(id.clone()) {
                    ids.push(id);
                }
            }
            if !ids.is_empty() {
                self.query(ids, false);
            }
        }
        self.due_at = (!self.due.is_empty()).then(Instant::now);
    }

    fn send_audit(&mut self) {
        if !self.seen_link.up || self.users.is_empty() {
            return;
        }
        // A random place in the map goes round all users in time.
        let skip = fastrand::usize(..self.users.len());
        let round = self.users.keys().cycle().skip(skip);
        let ids = round.take(self.source.most().min(self.users.len())).cloned().collect();
        self.query(ids, true);
    }

    fn query(&mut self, ids: Vec<Id>, audit: bool) {
        let query = self.merge.on_query();
        let (link, source) = (self.link.clone(), self.source.clone());
        self.queries.push(Box::pin(async move {
            let found = source.ask(&link, &ids).await;
            Answer { query, ids, audit, found }
        }));
    }

    fn on_answer(&mut self, answer: Answer) {
        let Answer { query, ids, audit, found } = answer;
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_retryable() || error.code() == "too_large" && ids.len() > 1 => {
                if error.code() == "too_large" {
                    for half in ids.chunks(ids.len().div_ceil(2)) {
                        self.query(half.to_vec(), audit);
                    }
                } else if !audit {
                    self.due.extend(ids);
                    let wait = Duration::from_millis(fastrand::u64(100..=1000));
                    self.due_at.get_or_insert(Instant::now() + wait);
                }
                return;
            }
            Err(_) if audit => return,
            Err(error) => return self.refuse(&ids, &error),
        };
        let merged = self.merge.on_answer(query, &ids, found);
        let version = |known: &Known| known.user().map(|user| user.version);
        let missed = merged.iter().any(|merged| {
            version(&merged.before).is_some() && version(&merged.before) < version(&merged.now)
        });
        for merged in merged {
            self.show(merged);
        }
        if audit && missed {
            self.counts.missed.fetch_add(1, Ordering::Relaxed);
            return self
                .resync("events do not arrive: a permission is missing, or NATS drops them");
        }
        if query <= self.stale_until {
            return;
        }
        let mut touched = HashSet::new();
        for id in &ids {
            let Some(followed) = self.users.get(id) else { continue };
            for number in &followed.watches {
                if let Some(watched) = self.watches.get_mut(number) {
                    watched.pending.remove(id);
                    touched.insert(*number);
                }
            }
        }
        for number in touched {
            self.settle(number);
        }
    }

    fn refuse(&mut self, ids: &[Id], error: &Error) {
        for watched in self.watches.values_mut() {
            if ids.iter().any(|id| watched.ids.contains(id)) {
                watched.denied = Some(error.clone());
                watched.shared.is(WatchState::Denied(error.clone()));
            }
        }
    }

    /// NATS refuses the events of a user: nothing may be shown that would silently grow old.
    fn on_denied(&mut self, subject: &str) {
        let event_subject = |id: &Id| self.link.event_subject(id);
        let Some(id) = self.users.keys().find(|id| event_subject(id) == subject).cloned() else {
            return;
        };
        self.merge.forget(id.as_str());
        let Some(followed) = self.users.get_mut(&id) else { return };
        followed.denied = true;
        let error = Error::Permission { subject: subject.to_owned(), may_have_applied: false };
        for number in &followed.watches {
            if let Some(watched) = self.watches.get_mut(number) {
                watched.shared.show(&id, Known::Unknown);
                watched.denied = Some(error.clone());
                watched.shared.is(WatchState::Denied(error.clone()));
            }
        }
    }

    /// Sets the state of a watch by what is pending.
    fn settle(&mut self, number: u64) {
        let Some(watched) = self.watches.get_mut(&number) else { return };
        let state = match (&watched.denied, watched.stale) {
            (Some(error), _) => WatchState::Denied(error.clone()),
            (None, _) if watched.pending.is_empty() && self.seen_link.up => WatchState::Live,
            (None, Some(why)) if watched.was_live => WatchState::Stale(why),
            (None, _) => WatchState::Loading,
        };
        if state == WatchState::Live {
            watched.was_live = true;
            watched.stale = None;
        }
        watched.shared.is(state);
    }

    fn go_stale(&mut self, why: &'static str) {
        self.stale_until = self.merge.sent();
        let numbers: Vec<u64> = self.watches.keys().copied().collect();
        for number in numbers {
            if let Some(watched) = self.watches.get_mut(&number) {
                watched.pending = watched.ids.clone();
                watched.denied = None;
                watched.stale = Some(why);
            }
            self.settle(number);
        }
    }

    /// Asks for all users again, at a random moment, and shows what really differs.
    fn resync(&mut self, why: &'static str) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        self.go_stale(why);
        for followed in self.users.values_mut() {
            followed.denied = false;
        }
        self.due = self.users.keys().cloned().collect();
        let spread = if self.users.len() > 1000 { 5000 } else { 1000 };
        self.due_at = Some(Instant::now() + Duration::from_millis(fastrand::u64(0..spread)));
    }

    fn on_look(&mut self) {
        let before = std::mem::replace(&mut self.seen_link, self.link.look());
        if !self.seen_link.up && before.up {
            self.go_stale("disconnected from NATS");
        } else if self.seen_link.up && before != self.seen_link {
            self.resync("the connection to NATS was made again");
        }
        let now = Instant::now();
        let merge = &mut self.merge;
        self.users.retain(|id, followed| {
            let keep = followed.linger_until.is_none_or(|until| until > now);
            if !keep {
                merge.forget(id.as_str());
            }
            keep
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The events of one user, until the sender of `stopped` is dropped.
struct Feed {
    id: Id,
    subscriber: Subscriber,
    stopped: oneshot::Receiver<()>,
}

impl Stream for Feed {
    type Item = (Id, Message);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if Pin::new(&mut self.stopped).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let id = self.id.clone();
        self.subscriber.poll_next_unpin(context).map(|message| message.map(|message| (id, message)))
    }
}
