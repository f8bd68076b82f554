//! The permissions of the daemon's user on NATS. A missing one is logged by name, reported in the
//! health, and probed until it is granted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::log_throttle::{LogThrottle, REPEAT_INTERVAL};
use super::permissions::{Permission, Permissions, Verb, Violation};
use crate::config::INTERNAL;
use crate::health::Health;
use crate::round_trip::{RoundTripError, round_trip};

/// The key under which missing permissions are reported.
const PROBLEM_KEY: &str = "permissions";

/// The interval at which refused permissions are probed again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The time that the server may take to refuse a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time that the client library may take to pass on refusals that have arrived.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(250);

/// A message with these headers is checked and traced by the server, and not delivered (ADR-41 of
/// NATS).
const TRACE_DEST: &str = "Nats-Trace-Dest";
const TRACE_ONLY: &str = "Nats-Trace-Only";

/// NATS did not answer a probe of the permissions in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("NATS did not answer the probe of the permissions")]
pub struct ProbeError;

/// The permissions of one daemon's user. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    health: Health,
    log_throttle: LogThrottle,
    permissions: Permissions,
    refused: Mutex<BTreeSet<Permission>>,
    /// The time at which an answer was last refused.
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

    /// Returns whether a condition is to be logged now.
    pub fn admit_to_log(&self, condition: &str) -> bool {
        self.0.log_throttle.admit(condition, Instant::now())
    }

    /// Takes in an error of the server; returns whether it was a refusal of a permission.
    pub fn on_server_error(&self, text: &str) -> bool {
        let Some(violation) = Violation::parse(text) else { return false };
        let Some(missing) = self.0.permissions.missing(&violation) else {
            // A client can ask for its answer on a subject that the daemon may not publish to. Such
            // a subject may hold the id of a user, as an inbox prefix does.
            let subject = violation.subject;
            debug!(subject, "NATS refused a subject that the daemon does not need");
            if self.admit_to_log("an answer was refused") {
                warn!("NATS refused an answer, or another subject that the daemon does not need");
            }
            return true;
        };
        if self.admit_to_log(&missing.to_string()) {
            let advice = self.0.permissions.advice(&missing);
            error!("NATS refuses what the daemon needs: {advice}");
        }
        if !missing.can_be_probed() {
            let mut at = self.0.answer_refused.lock().unwrap_or_else(PoisonError::into_inner);
            *at = Some(Instant::now());
        }
        self.refused().insert(missing);
        self.report();
        true
    }

    /// Probes all permissions.
    ///
    /// # Errors
    /// If the probe did not come to an end.
    pub async fn probe_all(&self, client: &Client) -> Result<(), ProbeError> {
        self.probe(client, &self.0.permissions.always).await
    }

    /// The change to make if a permission is missing.
    pub fn advice(&self) -> Option<String> {
        let refused = self.refused();
        if let Some(advice) = self.0.permissions.other_role(refused.len()) {
            return Some(advice);
        }
        let advice: Vec<_> =
            refused.iter().map(|missing| self.0.permissions.advice(missing)).collect();
        (!advice.is_empty()).then(|| advice.join("; "))
    }

    /// Waits until all permissions are granted.
    pub async fn settle(&self, client: &Client) {
        self.0.health.starting("the permissions of its user on NATS");
        while self.probe_all(client).await.is_err() || !self.refused().is_empty() {
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Probes refused permissions for as long as the daemon lives.
    ///
    /// The server forgets the subscriptions that it refuses. Once they are granted, the connections
    /// are replaced, so that the client library subscribes again.
    pub async fn keep(self, connections: Vec<Client>) {
        loop {
            sleep(RETRY_INTERVAL).await;
            let before: Vec<_> = self.refused().iter().cloned().collect();
            let Some(client) = connections.first().filter(|_| !before.is_empty()) else { continue };
            // A permission without a result stays refused, and is probed again.
            let _ = self.probe(client, &before).await;
            let granted = {
                let refused = self.refused();
                let mut granted = before.iter().filter(|each| !refused.contains(each));
                granted.any(|each| each.verb == Verb::Subscribe)
            };
            if granted {
                for client in &connections {
                    if let Err(error) = client.force_reconnect().await {
                        warn!(%error, "could not reconnect to subscribe again");
                    }
                }
            }
        }
    }

    /// Probes permissions; `refused` holds the missing ones afterwards.
    ///
    /// # Errors
    /// If the probe did not come to an end: nothing is known then, and refused permissions still
    /// count as refused.
    async fn probe(&self, client: &Client, permissions: &[Permission]) -> Result<(), ProbeError> {
        let mut before = {
            let mut refused = self.refused();
            let before = refused.clone();
            refused.retain(|each| !each.can_be_probed() && self.is_answer_refused());
            before
        };
        let probed = timeout(PROBE_TIMEOUT, async {
            for each in permissions.iter().filter(|each| each.can_be_probed()) {
                probe_one(client, each).await?;
            }
            round_trip(client).await
        });
        let probed = matches!(probed.await, Ok(Ok(())));
        sleep(FORWARD_TIMEOUT).await;
        // The round trip may itself be what is refused.
        let is_complete = probed || !self.refused().is_empty();
        if !is_complete {
            self.refused().append(&mut before);
        }
        self.report();
        if !before.is_empty() && self.refused().is_empty() {
            info!("NATS grants the missing permissions now");
        }
        if is_complete { Ok(()) } else { Err(ProbeError) }
    }

    fn is_answer_refused(&self) -> bool {
        let at = self.0.answer_refused.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < REPEAT_INTERVAL)
    }

    /// Reports missing permissions in the health.
    fn report(&self) {
        let refused = self.refused();
        if refused.is_empty() {
            return self.0.health.clear(PROBLEM_KEY);
        }
        let problem = self.0.permissions.other_role(refused.len()).unwrap_or_else(|| {
            let all: Vec<_> = refused.iter().map(ToString::to_string).collect();
            format!("grant {} to the daemon's user", all.join(", "))
        });
        self.0.health.report(PROBLEM_KEY, problem);
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<Permission>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uses a permission without an effect.
async fn probe_one(client: &Client, permission: &Permission) -> Result<(), RoundTripError> {
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
            // The subscription has served its purpose.
            let _ = subscriber.unsubscribe().await;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
