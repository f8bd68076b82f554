//! The picture that `top` and the page share: who is online over time, changes, daemons.
//!
//! Everything in it is bounded: it may run for days.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval};

use crate::daemons;
use crate::failure::Failure;
use crate::session::Session;

/// An hour, a point every two seconds.
const POINTS: usize = 1800;
const ROUND: Duration = Duration::from_secs(2);
/// Changes that are kept.
const CHANGES: usize = 200;
/// Changes that a slow reader may lag behind.
const BACKLOG: usize = 1024;
/// Seconds over which the rate of changes is measured.
const RATE_SECONDS: usize = 10;

#[derive(Clone, Copy)]
pub struct Point {
    pub at_ms: i64,
    pub online: u64,
}

#[derive(Clone, Default)]
pub struct Picture {
    pub online: VecDeque<Point>,
    /// What the daemons count; `None` while none answers.
    pub online_now: Option<u64>,
    pub known: Option<u64>,
    pub channels: Option<u64>,
    /// Changes in each of the last seconds.
    pub per_second: VecDeque<u64>,
    pub total_changes: u64,
    /// The newest first.
    pub changes: VecDeque<Arc<Value>>,
    pub daemons: Vec<Value>,
    /// The reason why the picture is not whole.
    pub problem: Option<String>,
}

impl Picture {
    /// Changes per second, over the last seconds.
    pub fn rate(&self) -> f64 {
        let last: Vec<u64> = self.per_second.iter().rev().take(RATE_SECONDS).copied().collect();
        last.iter().sum::<u64>() as f64 / last.len().max(1) as f64
    }

    fn on_change(&mut self, change: Arc<Value>) {
        push(&mut self.changes, change, CHANGES);
        self.total_changes += 1;
    }

    fn on_daemons(&mut self, found: Vec<Value>, at_ms: i64) {
        let most = |part: &str, state: &str| {
            found.iter().filter_map(|daemon| daemon[part][state].as_u64()).max()
        };
        self.online_now = most("users", "online");
        if let Some(online) = self.online_now {
            self.online.push_back(Point { at_ms, online });
            if self.online.len() > POINTS {
                self.online.pop_front();
            }
        }
        self.known = most("users", "known");
        self.channels = found.iter().filter_map(|each| each["channels"].as_u64()).max();
        self.daemons = found;
    }
}

fn push<T>(newest_first: &mut VecDeque<T>, item: T, most: usize) {
    newest_first.push_front(item);
    newest_first.truncate(most);
}

/// The picture, kept up to date by [`Live::run`].
pub struct Live {
    picture: Mutex<Picture>,
    changes: broadcast::Sender<Arc<Value>>,
}

impl Live {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { picture: Mutex::default(), changes: broadcast::Sender::new(BACKLOG) })
    }

    pub fn picture(&self) -> Picture {
        self.lock().clone()
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Value>> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens and asks until the connection is closed.
    pub async fn run(&self, session: &Session) -> Result<(), Failure> {
        tokio::try_join!(self.listen(session), self.ask(session)).map(|_| ())
    }

    async fn listen(&self, session: &Session) -> Result<(), Failure> {
        let closed = || Failure::Unreachable("the connection to NATS is closed".to_owned());
        let subject = format!("{}.*", session.events);
        let mut events = session.nats.subscribe(subject).await.map_err(|_| closed())?;
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = 0;
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = event.ok_or_else(closed)?;
                    if let Some(change) = change(&event.payload) {
                        self.lock().on_change(Arc::clone(&change));
                        // Without a reader nobody needs it.
                        let _ = self.changes.send(change);
                    }
                }
                _ = seconds.tick() => {
                    let mut picture = self.lock();
                    let count = picture.total_changes - before;
                    before = picture.total_changes;
                    picture.per_second.push_back(count);
                    if picture.per_second.len() > RATE_SECONDS * 30 {
                        picture.per_second.pop_front();
                    }
                }
            }
        }
    }

    async fn ask(&self, session: &Session) -> Result<(), Failure> {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = format!("{}.*", session.events);
        loop {
            rounds.tick().await;
            let found = daemons::find(session).await;
            let refused = session.refused(&events).map(Failure::Permission);
            let (found, problem) = match found {
                Ok(daemons) if daemons.is_empty() => (daemons, Some(daemons::none(session))),
                Ok(daemons) => (daemons, refused),
                Err(failure) => (Vec::new(), Some(failure)),
            };
            let mut picture = self.lock();
            picture.on_daemons(found, Utc::now().timestamp_millis());
            picture.problem = problem.map(|problem| problem.with_advice(&session.events));
        }
    }
}

/// An event as a change; other messages are none.
fn change(payload: &[u8]) -> Option<Arc<Value>> {
    let event: Value = serde_json::from_slice(payload).ok()?;
    let is_change = event["type"] == "user.presence.changed" && event["user"]["id"].is_string();
    is_change.then(|| Arc::new(event))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_does_not_grow_without_end() {
        let mut picture = Picture::default();
        let event = json!({"type": "user.presence.changed", "user": {"id": "john"}}).to_string();
        for at_ms in 0..10_000 {
            picture.on_change(change(event.as_bytes()).unwrap());
            picture.on_daemons(vec![json!({"users": {"online": 7, "known": 9}})], at_ms);
        }
        assert_eq!((picture.changes.len(), picture.online.len()), (CHANGES, POINTS));
        assert_eq!(
            (picture.online_now, picture.known, picture.total_changes),
            (Some(7), Some(9), 10_000)
        );
        picture.on_daemons(Vec::new(), 10_000);
        assert_eq!((picture.online_now, picture.known, picture.channels), (None, None, None));
    }

    #[test]
    fn only_events_are_changes() {
        for payload in ["", "7", r#"{"type":"other","user":{"id":"x"}}"#] {
            assert!(change(payload.as_bytes()).is_none());
        }
    }
}
