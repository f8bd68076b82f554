//! The task of a lease: its commands, and the batches that carry them out.

mod heartbeat;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use self::heartbeat::Asked;
use super::seats::{Key, Retry, Seats, Sent};
use super::{Command, LeaseState};
use crate::beat::{Beat, FIRST_INTERVAL};
use crate::error::Error;
use crate::id::Id;
use crate::link::{Link, LinkState, until};
use crate::retry;

const GATHER: Duration = Duration::from_millis(5);
const BATCH: usize = 200;
const BATCHES: usize = 4;
/// The time for which the end of a whole lease is tried: a large one takes several requests.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before a connection that was there, and is refused now, is tried again.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

type Batch = Pin<Box<dyn Future<Output = (Vec<Sent>, Result<Vec<Value>, Error>)> + Send>>;

pub struct Task {
    link: Arc<Link>,
    prefix: Id,
    state: watch::Sender<LeaseState>,
    seats: Seats,
    batches: FuturesUnordered<Batch>,
    /// At most one.
    beats: FuturesUnordered<Asked>,
    /// Seats whose operations are tried again, each at its time.
    later: BTreeMap<Instant, Vec<Key>>,
    /// Batches in a row that the service did not take, and until when none is sent.
    failed: u32,
    hold_until: Option<Instant>,
    /// The number of operations in a batch: fewer after one was too large.
    batch: usize,
    /// The name before this one, to be ended when all are connected to the new one.
    old: Option<Id>,
    /// The end of an old name that is under way.
    ending: FuturesUnordered<Ending>,
    lease_ms: u64,
    interval: Duration,
    send_at: Option<Instant>,
    miscounts: u32,
    interval_changed: bool,
}

impl Task {
    pub fn new(link: Arc<Link>, prefix: Id) -> Result<(Self, watch::Receiver<LeaseState>), Error> {
        let (state, states) = watch::channel(LeaseState {
            name: renamed(&prefix)?,
            up: link.look().up,
            seats: 0,
            acknowledged: 0,
            heartbeats: 0,
            since: std::time::Instant::now(),
            last_error: None,
            closed: false,
        });
        let task = Self {
            link,
            prefix,
            state,
            seats: Seats::new(),
            batches: FuturesUnordered::new(),
            beats: FuturesUnordered::new(),
            later: BTreeMap::new(),
            failed: 0,
            hold_until: None,
            batch: BATCH,
            old: None,
            ending: FuturesUnordered::new(),
            lease_ms: 60_000,
            interval: FIRST_INTERVAL,
            send_at: None,
            miscounts: 0,
            interval_changed: false,
        };
        Ok((task, states))
    }

    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut links = self.link.states();
        let mut link = *links.borrow();
        let mut beat = Beat::new(self.interval, true, Instant::now());
        // Set when nobody holds the lease or a seat any more: the last disconnects are on their
        // way.
        let mut ends_at = None;
        while !self.link.has_ended()
            && ends_at.is_none_or(|at| self.seats.len() > 0 && Instant::now() < at)
        {
            let send_at = self.send_at.filter(|_| link.up && self.batches.len() < BATCHES);
            let send_at = send_at.map(|at| self.hold_until.map_or(at, |until| at.max(until)));
            let beats = link.up && self.seats.acknowledged() > 0 && self.beats.is_empty();
            let beat_at = beats.then(|| beat.due());
            let retry_at = self.later.keys().next().copied();
            tokio::select! {
                command = commands.recv(), if ends_at.is_none() => match command {
                    Some(Command::End { grace, reply }) => {
                        let _ = reply.send(self.end(grace).await);
                        break;
                    }
                    Some(command) => self.on_command(command),
                    None => ends_at = Some(Instant::now() + retry::LAST_DISCONNECT),
                },
                () = until(ends_at) => {}
                Some((sent, results)) = self.batches.next() => self.on_batch(sent, results),
                () = until(send_at) => self.send(),
                () = until(beat_at) => self.send_beat(&mut beat, link),
                Some((sent, answer, link_lives)) = self.beats.next() => {
                    if let Err(error) = self.on_beat(&mut beat, sent, answer, link_lives).await {
                        self.seats.refuse(&error);
                        break;
                    }
                }
                () = until(retry_at) => self.retry_due(),
                Some(()) = self.ending.next() => {}
                now = changed(&mut links, link) => {
                    // After a cut the daemons may have lost it: ask before the interval is over.
                    if now.up {
                        beat.hurry(Instant::now());
                        (self.failed, self.hold_until) = (0, None);
                    } else {
                        self.note(Some(self.link.down()));
                    }
                    link = now;
                }
            }
            if std::mem::take(&mut self.interval_changed) {
                beat = Beat::new(self.interval, true, Instant::now());
            }
            self.end_old();
            self.show(link, false);
        }
        self.show(link, true);
    }

    fn show(&self, link: LinkState, closed: bool) {
        self.state.send_modify(|state| {
            if (state.up, state.closed) != (link.up, closed) {
                state.since = std::time::Instant::now();
            }
            state.up = link.up;
            state.seats = self.seats.len();
            state.acknowledged = self.seats.acknowledged();
            state.closed = closed;
        });
    }

    /// Shows why the service is not reached; `None` when it is.
    fn note(&self, error: Option<Error>) {
        self.state.send_if_modified(|state| {
            let changed = state.last_error != error;
            state.last_error = error;
            changed
        });
    }

    fn name(&self) -> Id {
        self.state.borrow().name.clone()
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { key, patch, device, defaults, reply } => {
                self.seats.on_connect(key, patch, device, defaults, reply);
            }
            Command::Device(key, device, reply) => self.seats.on_device(key, device, reply),
            Command::Patch(key, patch, reply) => self.seats.on_patch(key, patch, reply),
            Command::Close(key, reply) => self.seats.on_close(key, reply),
            Command::End { .. } => {}
        }
        self.send_in(GATHER);
    }

    fn send_in(&mut self, wait: Duration) {
        self.send_at.get_or_insert(Instant::now() + wait);
    }

    fn send(&mut self) {
        self.send_at = None;
        let name = self.name();
        while self.batches.len() < BATCHES {
            let (ops, sent) = self.seats.next_batch(&name, self.batch);
            if sent.is_empty() {
                return;
            }
            let link = self.link.clone();
            let body = json!({"ops": ops, "me": false});
            self.batches.push(Box::pin(async move {
                let answer = link.ask_now("batch", &body).await;
                let results = answer.and_then(|mut answer| match answer["results"].take() {
                    Value::Array(results) if results.len() == sent.len() => Ok(results),
                    _ => Err(Error::Malformed("`results` of a batch".to_owned())),
                });
                (sent, results)
            }));
        }
        if self.seats.has_work() {
            self.send_in(Duration::ZERO);
        }
    }

    fn on_batch(&mut self, sent: Vec<Sent>, results: Result<Vec<Value>, Error>) {
        match results {
            Ok(results) => {
                self.failed = 0;
                self.note(None);
                for (sent, value) in sent.into_iter().zip(results) {
                    self.learn(&value);
                    let result = match value.get("error") {
                        Some(error) if error.is_object() => Err(Error::of_reply(None, error)),
                        _ => Ok(value),
                    };
                    if let Some(retry) = self.seats.on_result(sent, result) {
                        self.try_later(retry);
                    }
                }
                if !self.seats.has_work() {
                    self.batch = BATCH;
                }
            }
            Err(error) if error.code() == "too_large" && sent.len() > 1 => {
                self.batch = self.batch.min(sent.len() / 2);
                sent.into_iter().for_each(|sent| self.seats.on_unsent(sent, false));
            }
            Err(error) => self.on_untaken(sent, &error),
        }
        if self.seats.has_work() {
            self.send_in(GATHER);
        }
    }

    /// The service did not take a batch: nothing is sent before it may.
    fn on_untaken(&mut self, sent: Vec<Sent>, error: &Error) {
        self.note(Some(error.clone()));
        self.failed += 1;
        // Another fault may be a permission that comes back.
        let passes = error.may_pass();
        let wait = if passes { retry::wait(error, self.failed) } else { REFUSED_WAIT };
        self.hold_until = self.hold_until.max(Some(Instant::now() + wait));
        for sent in sent {
            if passes {
                self.seats.on_unsent(sent, error.may_have_applied());
            } else if let Some(retry) = self.seats.on_result(sent, Err(error.clone())) {
                self.try_later(retry);
            }
        }
    }

    /// An operation failed by itself; the other seats do not wait for it.
    fn try_later(&mut self, retry: Retry) {
        let Retry { key, error, failed } = retry;
        let wait = if error.may_pass() { retry::wait(&error, failed) } else { REFUSED_WAIT };
        self.later.entry(Instant::now() + wait).or_default().push(key);
    }

    fn retry_due(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry().filter(|entry| *entry.key() <= now) {
            entry.remove().into_iter().for_each(|key| self.seats.retry(key));
        }
        self.send_in(GATHER);
    }

    fn end_old(&mut self) {
        if self.old.is_some() && self.seats.is_settled() && self.batches.is_empty() {
            let Some(old) = self.old.take() else { return };
            let (link, body) = (self.link.clone(), json!({"lease": old}));
            self.ending.push(Box::pin(async move {
                // A connection whose goodbye is not heard lapses.
                let _ = link.ask_within("disconnect", &body, retry::LAST_DISCONNECT).await;
            }));
        }
    }

    async fn end(&mut self, grace: bool) -> Result<(), Error> {
        if self.seats.len() == 0 {
            return Ok(());
        }
        // Connects under way would come after the end.
        let under_way = async { while self.batches.next().await.is_some() {} };
        let _ = timeout(retry::TRY, under_way).await;
        let mut body = json!({"lease": self.name()});
        if grace {
            body["grace_ms"] = self.lease_ms.into();
        }
        self.link.ask_within("disconnect", &body, END_TIMEOUT).await.map(|_| ())
    }
}

fn renamed(prefix: &Id) -> Result<Id, Error> {
    Id::parse(format!("{prefix}-{:016x}", crate::id::random() as u64))
}

async fn changed(links: &mut watch::Receiver<LinkState>, known: LinkState) -> LinkState {
    let now = links.wait_for(|link| *link != known).await.map(|link| *link);
    match now {
        Ok(link) => link,
        // The link ends with its hub, after this task.
        Err(_) => std::future::pending().await,
    }
}
