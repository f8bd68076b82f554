//! The daemon as a whole: connects, serves, leaves.

pub mod connect;

use std::future::Future;

use thiserror::Error;

use crate::config::Settings;
use connect::{ConnectError, connect};

/// What ends a daemon other than a request to stop.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Error {
    /// Whether a new start would fail in the same way until someone changes the settings or the
    /// server.
    pub fn needs_a_change(&self) -> bool {
        match self {
            Self::Connect(ConnectError::TooOld { .. } | ConnectError::Login { .. }) => true,
        }
    }
}

/// Runs a daemon until `shutdown` completes.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut shutdown = std::pin::pin!(shutdown);
    let subscription_capacity = settings.limits.pending_requests;
    let (client, _events) = tokio::select! {
        connected = connect(&settings.nats, "presenced", subscription_capacity) => connected?,
        () = &mut shutdown => return Ok(()),
    };
    shutdown.await;
    if let Err(error) = client.drain().await {
        tracing::warn!(%error, "left NATS without a farewell");
    }
    Ok(())
}
