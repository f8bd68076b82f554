//! The connection to NATS: waits for a server as long as it takes, and reports what befalls it.

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, Event, ReconnectToServer, Server, ServerError, ServerInfo,
};
use thiserror::Error;
use tokio::fs;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::access::Access;
use crate::config::{Auth, Nats, TlsIdentity};

/// The oldest server that has all that the store builds on.
const MIN_SERVER_VERSION: (i64, i64, i64) = (2, 11, 0);

/// A dead connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Commands that queue in the client before a caller has to wait.
const CLIENT_CAPACITY: usize = 4096;

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Between two attempts with a login that was refused: a person has to act, and the server's log
/// should not fill up meanwhile.
const REFUSED_RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// Why there will be no connection however long one waits.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error(
        "the NATS server at {servers} is version {version}, but presenced needs {}.{}.{} or newer",
        MIN_SERVER_VERSION.0, MIN_SERVER_VERSION.1, MIN_SERVER_VERSION.2
    )]
    TooOld { servers: String, version: String },

    #[error("{} holds no login that can be used: {source}", path.display())]
    Login { path: PathBuf, source: io::Error },
}

/// Connects under `name`, and waits while there is no server or the login is refused. What befalls
/// the connection afterwards is logged here, noted in the health, and comes out of the receiver too.
///
/// `subscription_capacity` is how many messages a subscription holds before it drops the next.
pub async fn connect(
    settings: &Nats,
    name: &str,
    subscription_capacity: usize,
    access: &Access,
) -> Result<(Client, UnboundedReceiver<Event>), ConnectError> {
    let servers = settings.servers();
    let health = access.health();
    let mut attempts = 0;
    health.starting(format!("NATS at {servers}"));
    loop {
        let (sender, events) = mpsc::unbounded_channel();
        // Made anew each time: the file of a login may have been replaced since.
        let options = log_in(settings).await?;
        let options = options
            .name(name)
            .subscription_capacity(subscription_capacity)
            .client_capacity(CLIENT_CAPACITY)
            .custom_inbox_prefix(&settings.inbox_prefix)
            .ping_interval(PING_INTERVAL)
            .max_reconnects(None)
            .reconnect_delay_callback(delay)
            .reconnect_to_server_callback(look_back(name, access.clone()))
            .event_callback(forward(name, access.clone(), sender));
        let failure = match secure(options, settings).connect(&settings.urls[..]).await {
            Ok(client) => return supported(&client, servers).map(|()| (client, events)),
            Err(failure) => failure.to_string(),
        };
        attempts += 1;
        health.starting(format!("NATS at {servers}: {failure}"));
        tell(access, &servers, &failure);
        sleep(if is_refusal(&failure) { REFUSED_RECONNECT_DELAY } else { delay(attempts) }).await;
    }
}

/// Tells why there is no connection, once in a while.
fn tell(access: &Access, servers: &str, failure: &str) {
    if !access.is_due(failure) {
        return;
    }
    if is_refusal(failure) {
        error!(%servers, error = failure, "NATS does not let us in; trying on");
    } else {
        warn!(error = failure, "waiting for NATS at {servers}");
    }
}

/// Whether a person has to act: on a login or a certificate. By the text, as that is all that the
/// client keeps of it when it connects again, and as a server that refuses our certificate says so
/// only after the handshake.
fn is_refusal(failure: &str) -> bool {
    let failure = failure.to_lowercase();
    ["authorization", "authentication", "certificate", "tls"].iter().any(|of| failure.contains(of))
}

fn supported(client: &Client, servers: String) -> Result<(), ConnectError> {
    let (major, minor, patch) = MIN_SERVER_VERSION;
    if client.is_server_compatible(major, minor, patch) {
        return Ok(());
    }
    Err(ConnectError::TooOld { servers, version: client.server_info().version })
}

async fn log_in(settings: &Nats) -> Result<ConnectOptions, ConnectError> {
    let options = ConnectOptions::new();
    Ok(match &settings.auth {
        Auth::None => options,
        Auth::Creds(path) => {
            let text = read(path).await?;
            options.credentials(&text).map_err(unusable(path))?
        }
        Auth::NkeySeed(seed) => options.nkey(seed.reveal().to_owned()),
        Auth::NkeyFile(path) => {
            let seed = read(path).await?.trim().to_owned();
            nkeys::KeyPair::from_seed(&seed).map_err(io::Error::other).map_err(unusable(path))?;
            options.nkey(seed)
        }
        Auth::Password { user, password } => {
            options.user_and_password(user.clone(), password.reveal().to_owned())
        }
        Auth::Token(token) => options.token(token.reveal().to_owned()),
    })
}

async fn read(path: &Path) -> Result<String, ConnectError> {
    fs::read_to_string(path).await.map_err(unusable(path))
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> ConnectError {
    let path = path.to_owned();
    |source| ConnectError::Login { path, source }
}

/// Whoever names an authority or a certificate means TLS; without insisting on it, a server that
/// pretends not to know TLS would get the login in the clear.
fn secure(mut options: ConnectOptions, settings: &Nats) -> ConnectOptions {
    if settings.tls_ca.is_some() || settings.tls_identity.is_some() {
        options = options.require_tls(true);
    }
    if let Some(path) = &settings.tls_ca {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(TlsIdentity { cert, key }) = &settings.tls_identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options
}

/// How long to wait before the attempt of this number, from 1. The first is made almost at once,
/// and all are spread out, as many clients lose one server at the same moment.
fn delay(attempt: usize) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16) as u32;
    let longest = (MIN_RECONNECT_DELAY * 2_u32.pow(doublings)).min(MAX_RECONNECT_DELAY);
    let shortest = if attempt <= 1 { Duration::ZERO } else { MIN_RECONNECT_DELAY };
    shortest + (longest - shortest).mul_f64(fastrand::f64())
}

/// Before each round of attempts to connect again: tells why the last one failed, and leaves the
/// choice of the server to the client.
fn look_back(
    name: &str,
    access: Access,
) -> impl Fn(Vec<Server>, ServerInfo) -> Ready<Option<ReconnectToServer>> + use<> {
    let name = name.to_owned();
    move |servers, _| {
        // One that was not tried since the connection was lost: this is the first round.
        if servers.iter().all(|server| server.failed_attempts > 0) {
            let failures: BTreeSet<_> =
                servers.iter().filter_map(|server| server.last_error.clone()).collect();
            let failures = failures.into_iter().collect::<Vec<_>>().join("; ");
            let servers: Vec<_> = servers.iter().map(Server::to_string).collect();
            access.health().report(&name, format!("not connected to NATS: {failures}"));
            tell(&access, &servers.join(", "), &failures);
        }
        ready(None)
    }
}

/// Logs each event in one line, notes what it means for the health, and passes it on.
fn forward(
    name: &str,
    access: Access,
    sender: UnboundedSender<Event>,
) -> impl Fn(Event) -> Ready<()> + use<> {
    let name = name.to_owned();
    move |event| {
        match event {
            Event::Connected => access.health().clear(&name),
            Event::Disconnected => access.health().report(&name, "not connected to NATS"),
            _ => {}
        }
        log(&event, &access);
        // Nobody listens any more when the daemon is about to leave.
        let _ = sender.send(event);
        ready(())
    }
}

fn log(event: &Event, access: &Access) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => warn!("lost the connection to NATS; connecting again"),
        Event::LameDuckMode => info!("the NATS server is about to stop; moving to another"),
        Event::Draining | Event::Closed => debug!(%event, "leaving NATS"),
        Event::SlowConsumer(subscription) => {
            warn!(subscription, "messages were dropped: they came faster than we took them");
        }
        Event::ServerError(ServerError::SlowConsumer(subscription)) => {
            warn!(subscription, "NATS counts us as a slow consumer");
        }
        Event::ServerError(refusal) => {
            let text = refusal.to_string();
            if !access.on_server_error(&text) && access.is_due(&text) {
                error!(error = text, "NATS refused something");
            }
        }
        // One for each failed attempt to connect again, without the reason; `look_back` tells it.
        Event::ClientError(failure) => debug!(error = %failure, "still without NATS"),
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
