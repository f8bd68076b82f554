//! The connection to NATS: waits for a server as long as it takes, and reports connection events.

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, Event, ReconnectToServer, Server, ServerError, ServerInfo,
};
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::access::Access;
use super::check::CheckError;
use super::connect_error::{explain, is_expiry, is_refusal};
use super::login::{self, LoginError};
use crate::clock::Clock;
use crate::config::{Nats, TlsIdentity};

/// The oldest server with all features that the store builds on.
const MIN_SERVER_VERSION: (i64, i64, i64) = (2, 11, 0);

/// A dead connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Commands that queue in the client before a caller has to wait.
const CLIENT_CAPACITY: usize = 4096;

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Between two attempts with a login that was refused: a person has to act, and the log of the
/// server should not fill up meanwhile. Up to as much again is added, so that daemons spread out.
const REFUSED_RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// The reason why waiting for a connection is in vain.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error(
        "the NATS server at {servers} is version {version}, but presenced needs {}.{}.{} or newer",
        MIN_SERVER_VERSION.0, MIN_SERVER_VERSION.1, MIN_SERVER_VERSION.2
    )]
    TooOld { servers: String, version: String },

    #[error(transparent)]
    Login(#[from] LoginError),
}

/// The purpose of a connection of the daemon.
#[derive(Debug, Clone)]
pub struct Purpose {
    /// Its place in the health.
    pub name: &'static str,
    /// Its name on the server.
    pub label: String,
    /// Messages that a subscription holds before it drops the next.
    pub subscription_capacity: usize,
}

/// The state that the callbacks of one connection share.
#[derive(Debug, Clone)]
struct Connection {
    settings: Arc<Nats>,
    purpose: Purpose,
    access: Access,
    clock: Clock,
    /// Whether the last attempt was refused.
    refused: Arc<AtomicBool>,
}

/// Connects, and waits while there is no server or the login is refused. Later events of the
/// connection are logged, reported in the health, and sent to the receiver.
pub async fn connect(
    settings: &Nats,
    purpose: Purpose,
    access: &Access,
) -> Result<(Client, UnboundedReceiver<Event>), ConnectError> {
    let connection = Connection {
        settings: Arc::new(settings.clone()),
        purpose,
        access: access.clone(),
        clock: Clock::start(),
        refused: Arc::default(),
    };
    let servers = settings.servers();
    let health = access.health();
    let mut attempts = 0;
    health.starting(format!("NATS at {servers}"));
    loop {
        // A file that cannot be used at the start needs a person; later it may be half written.
        login::answer(&settings.auth, &[])?;
        let (sender, events) = mpsc::unbounded_channel();
        let options = connection.options(sender);
        let failure = match options.connect(&settings.urls[..]).await {
            Ok(client) => return supported(&client, servers).map(|()| (client, events)),
            Err(failure) => failure.to_string(),
        };
        attempts += 1;
        let (explained, refused) = (connection.explain(&failure), is_refusal(&failure));
        health.starting(format!("NATS at {servers}: {explained}"));
        log_failure(access, &servers, &explained, refused);
        sleep(delay(attempts, refused)).await;
    }
}

/// One attempt, without waiting. Refusals of permissions are noted in `access`.
pub async fn connect_once(
    settings: &Nats,
    label: &str,
    access: &Access,
) -> Result<Client, CheckError> {
    login::answer(&settings.auth, &[]).map_err(ConnectError::from)?;
    let access = access.clone();
    let options = options(settings).name(label).event_callback(move |event| {
        if let Event::ServerError(refusal) = event {
            access.on_server_error(&refusal.to_string());
        }
        ready(())
    });
    let servers = settings.servers();
    let client = options.connect(&settings.urls[..]).await.map_err(|failure| {
        let failure = explain(&failure.to_string(), settings, Clock::start().now().wall);
        CheckError::NotConnected { servers: servers.clone(), failure }
    })?;
    supported(&client, servers)?;
    Ok(client)
}

fn log_failure(access: &Access, servers: &str, failure: &str, refused: bool) {
    if !access.admit_to_log(failure) {
        return;
    }
    if refused {
        error!(%servers, error = failure, "NATS refuses the connection; trying again");
    } else {
        warn!(error = failure, "waiting for NATS at {servers}");
    }
}

fn supported(client: &Client, servers: String) -> Result<(), ConnectError> {
    let (major, minor, patch) = MIN_SERVER_VERSION;
    if client.is_server_compatible(major, minor, patch) {
        return Ok(());
    }
    Err(ConnectError::TooOld { servers, version: client.server_info().version })
}

/// Login and TLS. The files of both are read at each attempt.
fn options(settings: &Nats) -> ConnectOptions {
    let auth = settings.auth.clone();
    let mut options =
        ConnectOptions::with_auth_callback(move |nonce| ready(login::answer_client(&auth, &nonce)))
            .custom_inbox_prefix(&settings.inbox_prefix);
    // An authority or a certificate implies TLS. Otherwise a server that pretends not to know TLS
    // would get the login in the clear.
    if settings.tls_first || settings.tls_ca.is_some() || settings.tls_identity.is_some() {
        options = options.require_tls(true);
    }
    if settings.tls_first {
        options = options.tls_first();
    }
    if let Some(path) = &settings.tls_ca {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(TlsIdentity { cert, key }) = &settings.tls_identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options
}

impl Connection {
    fn options(&self, sender: UnboundedSender<Event>) -> ConnectOptions {
        let refused = Arc::clone(&self.refused);
        options(&self.settings)
            .name(&self.purpose.label)
            .subscription_capacity(self.purpose.subscription_capacity)
            .client_capacity(CLIENT_CAPACITY)
            .ping_interval(PING_INTERVAL)
            .max_reconnects(None)
            .reconnect_delay_callback(move |attempt| {
                delay(attempt, refused.load(Ordering::Relaxed))
            })
            .reconnect_to_server_callback(self.clone().report_failures())
            .event_callback(self.clone().report_events(sender))
    }

    fn explain(&self, failure: &str) -> String {
        explain(failure, &self.settings, self.clock.now().wall)
    }

    /// Before each round of attempts to connect again: reports why the last one failed, and leaves
    /// the choice of the server to the client.
    fn report_failures(
        self,
    ) -> impl Fn(Vec<Server>, ServerInfo) -> Ready<Option<ReconnectToServer>> + use<> {
        move |servers, _| {
            // A server without a failed attempt: this is the first round.
            if servers.iter().all(|server| server.failed_attempts > 0) {
                let failures: BTreeSet<_> =
                    servers.iter().filter_map(|server| server.last_error.as_deref()).collect();
                let refused = failures.iter().any(|failure| is_refusal(failure));
                let failures: Vec<_> =
                    failures.into_iter().map(|failure| self.explain(failure)).collect();
                let failure = failures.join("; ");
                let servers: Vec<_> = servers.iter().map(Server::to_string).collect();
                self.refused.store(refused, Ordering::Relaxed);
                let problem = format!("not connected to NATS: {failure}");
                self.access.health().report(self.purpose.name, problem);
                log_failure(&self.access, &servers.join(", "), &failure, refused);
            }
            ready(None)
        }
    }

    /// Logs each event in one line, reports what it means for the health, and passes it on.
    fn report_events(self, sender: UnboundedSender<Event>) -> impl Fn(Event) -> Ready<()> + use<> {
        move |event| {
            let health = self.access.health();
            match event {
                Event::Connected => {
                    self.refused.store(false, Ordering::Relaxed);
                    health.clear(self.purpose.name);
                }
                Event::Disconnected => health.report(self.purpose.name, "not connected to NATS"),
                _ => {}
            }
            log(&event, &self.access);
            // The receiver is gone when the daemon leaves.
            let _ = sender.send(event);
            ready(())
        }
    }
}

/// The delay before the attempt of this number, from 1. The first is made almost at once. All are
/// spread out, as many clients lose one server at the same moment.
fn delay(attempt: usize, refused: bool) -> Duration {
    if refused {
        return REFUSED_RECONNECT_DELAY.mul_f64(1.0 + fastrand::f64());
    }
    let doublings = attempt.saturating_sub(1).min(16) as u32;
    let longest = (MIN_RECONNECT_DELAY * 2_u32.pow(doublings)).min(MAX_RECONNECT_DELAY);
    let shortest = if attempt <= 1 { Duration::ZERO } else { MIN_RECONNECT_DELAY };
    shortest + (longest - shortest).mul_f64(fastrand::f64())
}

fn log(event: &Event, access: &Access) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => warn!("lost the connection to NATS; connecting again"),
        Event::LameDuckMode => info!("the NATS server is about to stop; moving to another"),
        Event::Draining | Event::Closed => debug!(%event, "leaving NATS"),
        Event::SlowConsumer(subscription) => {
            warn!(subscription, "messages were dropped: they came faster than they were processed");
        }
        Event::ServerError(ServerError::SlowConsumer(subscription)) => {
            warn!(subscription, "NATS counts the daemon as a slow consumer");
        }
        Event::ServerError(expiry) if is_expiry(&expiry.to_string()) => {
            info!("the login has expired; connecting with the one that its file holds now");
        }
        Event::ServerError(refusal) => {
            let text = refusal.to_string();
            if !access.on_server_error(&text) && access.admit_to_log(&text) {
                error!(error = text, "NATS refused something");
            }
        }
        // One for each failed attempt to connect again, without the reason, which `report_failures`
        // logs.
        Event::ClientError(failure) => debug!(error = %failure, "still without NATS"),
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
