//! The task of a lease: batches, the heartbeat, and what is done when the service counts otherwise.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::seats::{Seats, Sent};
use super::{Command, GOODBYE, LeaseState};
use crate::beat::Beat;
use crate::error::Error;
use crate::id::Id;
use crate::link::{Link, LinkState, until};
use crate::retry;

const GATHER: Duration = Duration::from_millis(5);
const BATCH: usize = 200;
const BATCHES: usize = 4;
const INTERVAL: Duration = Duration::from_secs(20);
/// How long the end of a whole lease is tried: a large one takes several requests.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Heartbeats in a row that count other connections than the lease has, before it acts.
const MISCOUNTS: u32 = 2;

/// The pause before a connection that was there, and is refused now, is tried again.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

type Batch = std::pin::Pin<Box<dyn Future<Output = (Vec<Sent>, Result<Vec<Value>, Error>)> + Send>>;

pub struct Task {
    link: Arc<Link>,
    prefix: Id,
    state: watch::Sender<LeaseState>,
    seats: Seats,
    batches: FuturesUnordered<Batch>,
    /// How many operations a batch has: fewer after one was too large.
    batch: usize,
    /// The name before this one, to be ended when all are connected to the new one.
    old: Option<Id>,
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
            closed: false,
        });
        let task = Self {
            link,
            prefix,
            state,
            seats: Seats::new(),
            batches: FuturesUnordered::new(),
            batch: BATCH,
            old: None,
            lease_ms: 60_000,
            interval: INTERVAL,
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
        while ends_at.is_none_or(|at| self.seats.len() > 0 && Instant::now() < at) {
            let send_at = self.send_at.filter(|_| link.up && self.batches.len() < BATCHES);
            let beat_at = (link.up && self.seats.acknowledged() > 0).then(|| beat.due());
            tokio::select! {
                command = commands.recv(), if ends_at.is_none() => match command {
                    Some(Command::End { grace, reply }) => {
                        let _ = reply.send(self.end(grace).await);
                        break;
                    }
                    Some(command) => self.on_command(command),
                    None => ends_at = Some(Instant::now() + GOODBYE),
                },
                () = until(ends_at) => {}
                Some((sent, results)) = self.batches.next() => self.on_batch(sent, results),
                () = until(send_at) => self.send(),
                () = until(beat_at) => self.beat(&mut beat).await,
                now = changed(&mut links, link) => {
                    // After a cut the daemons may have lost it: ask before the interval is over.
                    if now.up {
                        beat.hurry(Instant::now());
                    }
                    link = now;
                }
            }
            if std::mem::take(&mut self.interval_changed) {
                beat = Beat::new(self.interval, true, Instant::now());
            }
            self.end_old().await;
            self.show(link, false);
        }
        self.show(link, true);
    }

    fn show(&self, link: LinkState, closed: bool) {
        self.state.send_modify(|state| {
            state.up = link.up;
            state.seats = self.seats.len();
            state.acknowledged = self.seats.acknowledged();
            state.closed = closed;
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
                let answer = link.ask_once("batch", &body).await;
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
        let mut again = Vec::new();
        let mut wait = GATHER;
        match results {
            Ok(results) => {
                for (sent, value) in sent.into_iter().zip(results) {
                    let result = match value.get("error") {
                        Some(error) if error.is_object() => Err(Error::of_reply(None, error)),
                        _ => Ok(()),
                    };
                    self.learn(&value);
                    if let Err(error) = &result {
                        let passes = error.is_retryable();
                        wait = wait.max(if passes { retry::wait(error, 1) } else { REFUSED_WAIT });
                    }
                    again.extend(self.seats.on_result(sent, result.map(|()| value)));
                }
            }
            Err(error) => {
                let too_large = error.code() == "too_large" && sent.len() > 1;
                if too_large {
                    self.batch = self.batch.min(sent.len() / 2);
                }
                wait = if too_large { GATHER } else { retry::wait(&error, 1) };
                for sent in sent {
                    let error = match too_large {
                        true => Error::Disconnected { may_have_applied: false },
                        false => error.clone(),
                    };
                    again.extend(self.seats.on_result(sent, Err(error)));
                }
                // What is wrong may be a permission that comes back, or one garbled answer.
                if !error.is_retryable() && !too_large {
                    wait = REFUSED_WAIT;
                }
            }
        }
        self.seats.retry(again);
        if self.seats.has_work() {
            self.send_in(wait);
        } else {
            self.batch = BATCH;
        }
    }

    async fn beat(&mut self, beat: &mut Beat) {
        beat.set_interval(self.interval);
        beat.on_sent(Instant::now());
        self.state.send_modify(|state| state.heartbeats += 1);
        let (name, before) = (self.name(), self.seats.acknowledged());
        let settled = self.seats.is_settled() && self.batches.is_empty();
        let body = json!({"lease": name});
        match self.link.ask_once("heartbeat", &body).await {
            Ok(answer) => {
                beat.on_answer();
                self.learn(&answer);
                let unknown = answer["unknown"].as_array().is_some_and(|all| !all.is_empty());
                let held = answer["held"].as_u64().filter(|_| settled);
                if unknown {
                    self.renew(false);
                } else if held.is_some_and(|held| held != before as u64) {
                    self.miscounts += 1;
                    if self.miscounts >= MISCOUNTS {
                        self.miscounts = 0;
                        let too_many = held > Some(before as u64);
                        if too_many { self.renew(true) } else { self.connect_again(false) }
                    }
                } else {
                    self.miscounts = 0;
                }
            }
            Err(Error::NoAnswer { .. }) => {
                if beat.on_silence(Instant::now()) {
                    self.link.abandon().await;
                }
            }
            Err(_) => beat.on_answer(),
        }
    }

    fn learn(&mut self, answer: &Value) {
        if let Some(ms) = answer["heartbeat"]["lease_ms"].as_u64() {
            self.lease_ms = ms;
        }
        if let Some(ms) = answer["heartbeat"]["interval_ms"].as_u64() {
            let interval = Duration::from_millis(ms.max(50));
            self.interval_changed |= interval != self.interval;
            self.interval = interval;
        }
    }

    /// Takes a new name, to which all connect again.
    fn renew(&mut self, end_old: bool) {
        let Ok(name) = renamed(&self.prefix) else { return };
        self.old = end_old.then(|| self.name());
        self.state.send_modify(|state| state.name = name);
        self.connect_again(true);
    }

    fn connect_again(&mut self, renamed: bool) {
        self.seats.on_lost(renamed);
        let spread = if self.seats.len() > 1000 { 2000 } else { 1000 };
        self.send_in(Duration::from_millis(fastrand::u64(0..spread)));
    }

    async fn end_old(&mut self) {
        if self.old.is_some() && self.seats.is_settled() && self.batches.is_empty() {
            let Some(old) = self.old.take() else { return };
            // What is not heard lapses.
            let body = json!({"lease": old});
            let _ = self.link.ask_within("disconnect", &body, GOODBYE).await;
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
    Id::parse(format!("{prefix}-{:016x}", fastrand::u64(..)))
}

async fn changed(links: &mut watch::Receiver<LinkState>, known: LinkState) -> LinkState {
    let now = links.wait_for(|link| *link != known).await.map(|link| *link);
    match now {
        Ok(link) => link,
        // The link ends with its hub, after this task.
        Err(_) => std::future::pending().await,
    }
}
