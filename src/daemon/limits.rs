//! Keeps the limit of messages to what the server takes at present.

use std::time::Duration;

use async_nats::Client;
use tokio::time::sleep;

use super::server_limits;
use crate::config::Nats;
use crate::payload_limit::PayloadLimit;
use crate::store::Store;

/// The interval at which the server is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// The limit for this login; what the server says to everybody if it does not say that.
pub async fn ask(settings: &Nats, client: &Client) -> usize {
    match server_limits::max_payload(settings).await {
        Ok(bytes) => bytes.min(client.max_payload()),
        Err(error) => {
            tracing::debug!(%error, "the server did not send the limits of the account");
            client.max_payload()
        }
    }
}

/// Asks from time to time, as the limit may change while the server runs.
pub async fn keep(settings: Nats, client: Client, limit: PayloadLimit, store: Store) {
    loop {
        sleep(ASK_INTERVAL).await;
        let Ok(bytes) = server_limits::max_payload(&settings).await else { continue };
        if limit.set(bytes) {
            tracing::warn!(bytes, "the server's limit for messages (`max_payload`) has changed");
            store.set_max_value(limit.body());
            if bytes > client.max_payload() {
                // The client library knows the limit from the time when it connected.
                let _ = client.force_reconnect().await;
            }
        }
    }
}
