//! The heartbeat of a lease, and the comparison of the connections that the service counts with
//! those that it has acknowledged.

use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Task, renamed};
use crate::beat::{Beat, Silence};
use crate::error::Error;
use crate::id::Id;
use crate::link::LinkState;

/// Heartbeats in a row that count other connections than the lease has, before it acts.
const MISCOUNTS: u32 = 2;

/// A heartbeat under way: what it was sent for, its answer, and whether NATS sent anything.
pub(super) type Asked = Pin<Box<dyn Future<Output = (Beaten, Result<Value, Error>, bool)> + Send>>;

/// A heartbeat that was sent.
pub(super) struct Beaten {
    name: Id,
    /// The number of acknowledged connections, if none was under way.
    acknowledged: Option<usize>,
    link: LinkState,
}

impl Task {
    pub(super) fn send_beat(&mut self, beat: &mut Beat, link: LinkState) {
        beat.set_interval(self.interval);
        beat.on_sent(Instant::now());
        self.state.send_modify(|state| state.heartbeats += 1);
        let settled = self.seats.is_settled() && self.batches.is_empty();
        let acknowledged = settled.then(|| self.seats.acknowledged());
        let sent = Beaten { name: self.name(), acknowledged, link };
        let body = json!({"lease": sent.name});
        let (link, doubtful) = (self.link.clone(), beat.is_doubtful());
        self.beats.push(Box::pin(async move {
            let (answer, link_lives) = link.beat(&body, doubtful).await;
            (sent, answer, link_lives)
        }));
    }

    /// An error ends the lease: NATS or the service refuses its heartbeats.
    pub(super) async fn on_beat(
        &mut self,
        beat: &mut Beat,
        sent: Beaten,
        answer: Result<Value, Error>,
        link_lives: bool,
    ) -> Result<(), Error> {
        let error = match answer {
            Ok(answer) => {
                beat.on_answer();
                self.note(None);
                self.learn(&answer);
                if sent.name == self.name() {
                    self.compare(&answer, sent.acknowledged);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        self.note(Some(error.clone()));
        if !error.may_pass() {
            return Err(error);
        }
        if !matches!(error, Error::NoAnswer { .. }) {
            beat.on_answer();
        } else if beat.on_silence(Instant::now(), link_lives) == Silence::Link {
            self.link.abandon(sent.link).await;
        }
        Ok(())
    }

    /// Holds what the service counts against what it has acknowledged.
    fn compare(&mut self, answer: &Value, acknowledged: Option<usize>) {
        if answer["unknown"].as_array().is_some_and(|all| !all.is_empty()) {
            return self.renew(false);
        }
        let mine = acknowledged.map(|count| count as u64);
        let Some((mine, held)) =
            mine.zip(answer["held"].as_u64()).filter(|(mine, held)| mine != held)
        else {
            self.miscounts = 0;
            return;
        };
        self.miscounts += 1;
        if self.miscounts >= MISCOUNTS {
            self.miscounts = 0;
            if held > mine { self.renew(true) } else { self.connect_again(false) }
        }
    }

    pub(super) fn learn(&mut self, answer: &Value) {
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
}
