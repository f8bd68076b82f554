//! One task per door: subscriptions, queries and their merge, shared by all watches.

mod feed;
mod queries;
mod source;
mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, SelectAll};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::feed::Feed;
pub(crate) use self::queries::MISSED;
use self::queries::Query;
pub(crate) use self::source::{Source, ask_channel, members};
use crate::error::Error;
use crate::id::Id;
use crate::link::{LOOK_INTERVAL, Link, LinkState, until};
use crate::merge::{Known, Merge, Merged};
use crate::signals::Signal;
use crate::user::Seen;
use crate::watch::{Picture, WatchState};

const GATHER: Duration = Duration::from_millis(10);
const LINGER: Duration = Duration::from_secs(1);
const QUERIES: usize = 4;

#[derive(Debug)]
pub(crate) enum Command {
    Watch {
        number: u64,
        picture: Arc<dyn Picture>,
        ids: HashSet<Id>,
    },
    Add {
        number: u64,
        ids: HashSet<Id>,
    },
    Remove {
        number: u64,
        id: Id,
    },
    Unwatch {
        number: u64,
    },
    /// A user as it sees itself, at its own door: not all of that is announced.
    Me(Arc<Seen>),
}

/// The handle that the objects of a door hold. The hub ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct HubHandle {
    commands: mpsc::UnboundedSender<Command>,
    counts: Arc<Counts>,
}

/// The counters of the hub.
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
    picture: Arc<dyn Picture>,
    ids: HashSet<Id>,
    /// Users of which there is no fresh answer.
    pending: HashSet<Id>,
    denied: Option<Error>,
    was_live: bool,
    stale: Option<&'static str>,
}

#[derive(Default)]
struct Followed {
    watches: HashSet<u64>,
    /// Ends the subscription when it is dropped; none while it could not be made yet.
    stop: Option<oneshot::Sender<()>>,
    /// Answers to queries up to this one were asked for before the subscription.
    subscribed_after: u64,
    /// An answer has come since the subscription, and nothing was missed since.
    fresh: bool,
    linger_until: Option<Instant>,
    /// NATS refused the events over this connection, as [`LinkState::connects`] counts them.
    denied: Option<u64>,
}

/// The probed link, and whether NATS answers over it.
type Probe = Pin<Box<dyn Future<Output = (LinkState, bool)> + Send>>;

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
    /// At most one.
    probes: FuturesUnordered<Probe>,
    due: VecDeque<Id>,
    due_at: Option<Instant>,
    /// Users without a subscription: they were added while NATS was away.
    unsubscribed: Vec<Id>,
    /// The time at which the users are asked for again because messages were dropped.
    resync_at: Option<Instant>,
    resynced: Option<Instant>,
    /// The count of messages that the connection had received, and the time when it last grew.
    received: (u64, Instant),
    seen_link: LinkState,
    /// The time at which an invisible user asks for its own view again.
    own_at: Instant,
    /// The last user of the last audit; the next one goes on behind it.
    audited: Option<Id>,
    /// An audit found an event missing, and how many audits have found none since.
    missed: Option<usize>,
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
            probes: FuturesUnordered::new(),
            due: VecDeque::new(),
            due_at: None,
            unsubscribed: Vec::new(),
            resync_at: None,
            resynced: None,
            received: (0, Instant::now()),
            seen_link,
            own_at: Instant::now(),
            audited: None,
            missed: None,
            stale_until: 0,
        }
    }

    async fn run(mut self) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = self.link.signals().listen();
        let mut audit_at = self.next_audit();
        while !self.link.has_ended() {
            let due_at = self.due_at.filter(|_| self.seen_link.up && self.queries.len() < QUERIES);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => break,
                },
                Some((id, message)) = self.events.next() => match message {
                    Some(message) => self.on_event(&id, &message),
                    None => self.link.on_ended(),
                },
                Some(answer) = self.queries.next() => self.on_answer(answer),
                Some((link, answers)) = self.probes.next() => self.on_probe(link, answers).await,
                signal = signals.recv() => match signal {
                    Ok(Signal::Denied(subject)) => self.on_denied(&subject),
                    _ => self.on_dropped(),
                },
                () = until(self.resync_at) => self.resync("messages were dropped"),
                () = until(due_at) => self.send_queries(),
                () = until(audit_at) => {
                    self.send_audit();
                    audit_at = self.next_audit();
                }
                _ = looks.tick() => self.on_look().await,
            }
        }
        for watched in self.watches.values() {
            watched.picture.is(WatchState::Closed);
        }
    }

    fn next_audit(&self) -> Option<Instant> {
        self.audit.map(|every| Instant::now() + every.mul_f64(0.8 + 0.4 * fastrand::f64()))
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Watch { number, picture, ids } => {
                let watched = Watched {
                    picture,
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
                    watched.picture.hide(&id);
                    self.leave(number, &id);
                    self.deny_by_users(number);
                    self.settle(number);
                }
            }
            Command::Me(me) => {
                if let Ok(id) = Id::parse(&me.id)
                    && self.users.contains_key(&id)
                {
                    let query = self.merge.on_query();
                    let merged = self.merge.on_answer(query, &[id], vec![Seen::clone(&me)]);
                    merged.into_iter().for_each(|merged| self.show(merged));
                }
            }
            Command::Unwatch { number } => {
                if let Some(watched) = self.watches.remove(&number) {
                    watched.picture.is(WatchState::Closed);
                    for id in &watched.ids {
                        self.leave(number, id);
                    }
                }
            }
        }
    }

    async fn add(&mut self, number: u64, ids: HashSet<Id>) {
        if !self.watches.contains_key(&number) {
            return;
        }
        for id in ids {
            if !self.users.contains_key(&id) {
                self.users.insert(id.clone(), Followed::default());
                self.subscribe(id.clone()).await;
            }
            let Some(watched) = self.watches.get_mut(&number) else { return };
            let Some(followed) = self.users.get_mut(&id) else { continue };
            followed.watches.insert(number);
            followed.linger_until = None;
            watched.ids.insert(id.clone());
            let known = self.merge.get(id.as_str());
            if known != Known::Unknown && followed.denied.is_none() {
                watched.picture.show(&id, known);
            }
            if !followed.fresh {
                watched.pending.insert(id.clone());
                self.due.push_back(id);
            }
        }
        if !self.due.is_empty() {
            let at = Instant::now() + GATHER;
            self.due_at = Some(self.due_at.map_or(at, |due_at| due_at.min(at)));
        }
        self.deny_by_users(number);
        self.settle(number);
    }

    /// Subscribes to a user's events, or notes that this is to be done when NATS is back.
    async fn subscribe(&mut self, id: Id) {
        if !self.seen_link.up {
            self.unsubscribed.push(id);
            return;
        }
        let Ok(subscriber) = self.link.subscribe(self.link.event_subject(&id)).await else {
            self.unsubscribed.push(id);
            return;
        };
        let (stop, stopped) = oneshot::channel();
        if let Some(followed) = self.users.get_mut(&id) {
            followed.stop = Some(stop);
            followed.subscribed_after = self.merge.sent();
            self.events.push(Feed { id, subscriber, stopped, ended: false });
        }
    }

    /// Makes the subscriptions that could not be made before.
    async fn subscribe_all(&mut self) {
        for id in std::mem::take(&mut self.unsubscribed) {
            if self.users.get(&id).is_some_and(|followed| followed.stop.is_none()) {
                self.subscribe(id).await;
            }
        }
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
        let merged = if self.link.user() == Some(id) {
            // An event is what others see; of itself a user sees more, and asks for it.
            self.merge.is_news(id, &message.payload).map(|is_news| {
                if is_news {
                    self.due.push_back(id.clone());
                    self.due_at = Some(Instant::now());
                }
                None
            })
        } else {
            self.merge.on_event(id, &message.payload)
        };
        match merged {
            Ok(Some(merged)) => self.show(merged),
            Ok(None) => {}
            Err(_) => {
                self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn show(&self, merged: Merged) {
        let Some(followed) = self.users.get(&merged.id) else { return };
        if followed.denied.is_some() {
            return;
        }
        for number in &followed.watches {
            if let Some(watched) = self.watches.get(number) {
                watched.picture.show(&merged.id, merged.now.clone());
            }
        }
    }
}
