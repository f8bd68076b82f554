//! One daemon on one server, a trusted service, and a watcher over the same connection.

use super::server::last_seq;
use super::{Client, Daemon, Events, Server, Settings};

/// A user that leaves is offline at once.
pub const NO_GRACE: Settings<'static> = &[("LIVENESS__OFFLINE_GRACE", "0s")];

/// The same, and no request is too old however busy the machine is.
pub const PATIENT: Settings<'static> =
    &[("LIVENESS__OFFLINE_GRACE", "0s"), ("LIMITS__REQUEST_TIMEOUT", "20s")];

pub struct Stage {
    pub client: Client,
    pub events: Events,
    pub daemon: Daemon,
    pub server: Server,
}

impl Stage {
    pub async fn start(settings: Settings<'_>) -> Self {
        Self::on(Server::start().await, settings).await
    }

    pub async fn on(server: Server, settings: Settings<'_>) -> Self {
        let daemon = Daemon::spawn(&server, settings).await;
        let client = Client::connect(&server).await;
        let events = Events::of_all(&client).await;
        Self { client, events, daemon, server }
    }

    /// Moves with everything that is written.
    pub async fn written(&self) -> u64 {
        last_seq(&self.client.nats).await
    }
}
