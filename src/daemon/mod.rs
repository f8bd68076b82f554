//! The daemon as a whole: connects, replays, serves, leaves.

mod access;
pub mod check;
pub mod connect;
mod connect_error;
mod http;
mod leave;
mod limits;
mod log_throttle;
mod login;
mod monitor;
mod permissions;
mod server_limits;

mod serve;
mod start;
mod tasks;

use std::future::{Future, pending};
use std::sync::Arc;

use async_nats::{Client, SubscribeError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::request::operation::{OPERATIONS, Operation};
use crate::config::{Limits, Settings};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::presence::channel::Channels;
use crate::presence::entity::Entity;
use crate::presence::user::Users;
use crate::round_trip::RoundTripError;
use crate::service::Service;
use crate::store::UnusableBucket;
use crate::store::outbox::Outbox;
use connect::ConnectError;
use http::{Http, ListenError};

/// What ends a daemon other than a request to stop.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Bucket(#[from] UnusableBucket),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not subscribe: {0}")]
    Subscribe(#[from] SubscribeError),
    #[error("could not tell whether NATS passes requests on: {0}")]
    RoundTrip(#[from] RoundTripError),
    #[error("the operating system has no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

impl Error {
    /// Whether a new start would fail in the same way until someone changes the settings or the
    /// server.
    pub fn needs_a_change(&self) -> bool {
        match self {
            Self::Connect(ConnectError::TooOld { .. } | ConnectError::Login(_))
            | Self::Bucket(_) => true,
            Self::Listen(error) => !error.may_pass(),
            Self::Subscribe(_) | Self::RoundTrip(_) | Self::Random(_) => false,
        }
    }
}

/// Other limits for a daemon that runs.
#[derive(Debug)]
pub struct Reload {
    pub limits: Limits,
    /// Completed when they are in force.
    pub done: oneshot::Sender<()>,
}

/// Runs a daemon until `shutdown` completes, and reports its state in `health`. A reload that comes
/// during the start takes effect when the daemon serves.
pub async fn run(
    settings: Settings,
    health: Health,
    mut reloads: mpsc::Receiver<Reload>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let operations = OPERATIONS.map(Operation::name);
    let metrics = Arc::new(Metrics::new(operations, [Users::KIND, Channels::KIND]));
    let http = match settings.metrics.listen {
        Some(address) => Some(Http::bind(address, health.clone(), Arc::clone(&metrics)).await?),
        None => None,
    };
    let serve = async {
        let mut shutdown = std::pin::pin!(shutdown);
        let daemon = tokio::select! {
            started = Daemon::start(settings, health.clone(), metrics) => started?,
            () = &mut shutdown => {
                health.leaving();
                return Ok(());
            }
        };
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(Reload { limits, done }) = reloads.recv() => {
                    daemon.service.adopt(limits);
                    // The requester may be gone.
                    let _ = done.send(());
                }
            }
        }
        daemon.leave().await;
        Ok(())
    };
    // HTTP is answered until the end.
    let http = async {
        match http {
            Some(http) => http.run().await,
            None => pending().await,
        }
    };
    tokio::select! {
        served = serve => served,
        never = http => match never {},
    }
}

/// A daemon at work.
#[derive(Debug)]
struct Daemon {
    health: Health,
    service: Service,
    answers: Outbox,
    internal: Client,
    /// Cancelled to stop taking requests in; the task ends when the last one is taken.
    no_more: CancellationToken,
    intake: JoinHandle<()>,
    /// Cancelled to stop everything else.
    stop: CancellationToken,
}
