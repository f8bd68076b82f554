//! Whether NATS lets the daemon do what it needs to. What is refused is told in one line that names
//! the permission, noted in the health, and tried again until it is granted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::log_throttle::{LogThrottle, REPEAT_INTERVAL};
use super::permissions::{Permission, Permissions, Verb, Violation};
use crate::config::INTERNAL;
use crate::health::Health;
use crate::round_trip::{RoundTripError, round_trip};

/// Where the health notes it.
const PROBLEM_KEY: &str = "permissions";

/// How often what was refused is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long the server may take to refuse what is tried.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after the server's last word the client may take to pass its refusals on.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(250);

/// What is published with these headers the server checks and traces, and delivers to nobody
/// (ADR-41).
const TRACE_DEST: &str = "Nats-Trace-Dest";
const TRACE_ONLY: &str = "Nats-Trace-Only";

/// What is granted and refused to the user of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    health: Health,
    log_throttle: LogThrottle,
    permissions: Permissions,
    refused: Mutex<BTreeSet<Permission>>,
    /// When an answer was refused last.
    answer_refused: Mutex<Option<Instant>>,
}

impl Access {
    pub fn new(health: Health, permissions: Permissions) -> Self {
        Self(Arc::new(Inner {
            health,
            log_throttle: LogThrottle::default(),
            permissions,
            refused: Mutex::default(),
            answer_refused: Mutex::default(),
        }))
    }

    pub fn health(&self) -> &Health {
        &self.0.health
    }

    /// Whether a line of the log is due.
    pub fn is_due(&self, what: &str) -> bool {
        self.0.log_throttle.is_due(what, Instant::now())
    }

    /// The server said something; whether it was a refusal.
    pub fn hear(&self, said: &str) -> bool {
        let Some(violation) = Violation::parse(said) else { return false };
        let Some(missing) = self.0.permissions.missing(&violation) else {
            // Anyone can name a subject for the answer that we may not publish to. It may hold the id
            // of a user, as an inbox prefix does.
            let subject = violation.subject;
            debug!(subject, "NATS refused something that the daemon does not need for itself");
            if self.is_due("an answer was refused") {
                warn!("NATS refused an answer, or what else the daemon does not need for itself");
            }
            return true;
        };
        if self.is_due(&missing.to_string()) {
            error!("NATS refuses what the daemon needs: grant {missing} to its user");
        }
        if !missing.can_be_tried() {
            let mut at = self.0.answer_refused.lock().unwrap_or_else(PoisonError::into_inner);
            *at = Some(Instant::now());
        }
        self.refused().insert(missing);
        self.note();
        true
    }

    /// Waits until all that the daemon needs is granted.
    pub async fn settle(&self, client: &Client) {
        self.0.health.starting("the permissions of its user on NATS");
        while !self.attempt(client, &self.0.permissions.always).await || !self.refused().is_empty()
        {
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Tries again what is refused, for as long as the daemon lives. The server has forgotten the
    /// subscriptions that it refused: once they are allowed, the connections are made anew.
    pub async fn keep(self, connections: Vec<Client>) {
        loop {
            sleep(RETRY_INTERVAL).await;
            let before: Vec<_> = self.refused().iter().cloned().collect();
            let Some(client) = connections.first().filter(|_| !before.is_empty()) else { continue };
            self.attempt(client, &before).await;
            let granted = {
                let refused = self.refused();
                let mut granted = before.iter().filter(|each| !refused.contains(each));
                granted.any(|each| each.verb == Verb::Subscribe)
            };
            if granted {
                for client in &connections {
                    if let Err(error) = client.force_reconnect().await {
                        warn!(%error, "could not connect anew to subscribe again");
                    }
                }
            }
        }
    }

    /// Tries these; what is refused of them is in `refused` afterwards. Whether they could be tried:
    /// otherwise nothing is known, and what was refused before counts as refused still.
    async fn attempt(&self, client: &Client, these: &[Permission]) -> bool {
        let mut before = {
            let mut refused = self.refused();
            let before = refused.clone();
            refused.retain(|each| !each.can_be_tried() && self.is_answer_refused());
            before
        };
        let done = timeout(PROBE_TIMEOUT, async {
            for each in these.iter().filter(|each| each.can_be_tried()) {
                attempt_one(client, each).await?;
            }
            round_trip(client).await
        });
        let done = matches!(done.await, Ok(Ok(())));
        sleep(FORWARD_TIMEOUT).await;
        // The round trip may itself be what is refused.
        let is_tried = done || !self.refused().is_empty();
        if !is_tried {
            self.refused().append(&mut before);
        }
        self.note();
        if !before.is_empty() && self.refused().is_empty() {
            info!("NATS grants now what it refused");
        }
        is_tried
    }

    fn is_answer_refused(&self) -> bool {
        let at = self.0.answer_refused.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < REPEAT_INTERVAL)
    }

    /// Notes in the health how it is.
    fn note(&self) {
        let refused = self.refused();
        if refused.is_empty() {
            return self.0.health.clear(PROBLEM_KEY);
        }
        let all: Vec<_> = refused.iter().map(ToString::to_string).collect();
        self.0.health.report(PROBLEM_KEY, format!("grant {} to the daemon's user", all.join(", ")));
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<Permission>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something for which the permission is needed, and which has no effect.
async fn attempt_one(client: &Client, permission: &Permission) -> Result<(), RoundTripError> {
    let subject = permission.sample();
    match (permission.verb, permission.queue) {
        (Verb::Publish, _) => {
            let mut headers = HeaderMap::new();
            headers.insert(TRACE_DEST, format!("{INTERNAL}.trace"));
            headers.insert(TRACE_ONLY, "true");
            client.publish_with_headers(subject, headers, bytes::Bytes::new()).await?;
        }
        (Verb::Subscribe, queue) => {
            let mut subscriber = match queue {
                Some(queue) => client.queue_subscribe(subject, queue.to_owned()).await?,
                None => client.subscribe(subject).await?,
            };
            // It was only to be asked for; that it is gone already is no harm.
            let _ = subscriber.unsubscribe().await;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
