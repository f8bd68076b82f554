//! When the server has dealt with what was sent to it. A subscription is only asked for; until the
//! server knows of it, requests are answered by others, or not at all.

use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::config::INTERNAL;
use crate::presence::entity::DaemonId;

/// How long a message to ourselves may take; then it is sent again.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(1);

/// A message to ourselves, on the connection of the subscriptions it is to follow.
pub(super) struct Arrival {
    client: Client,
    subject: String,
    messages: Subscriber,
}

impl Arrival {
    pub async fn subscribe(client: &Client, daemon: DaemonId) -> Result<Self, SubscribeError> {
        let subject = format!("{INTERNAL}.ready.{daemon}");
        let messages = client.subscribe(subject.clone()).await?;
        Ok(Self { client: client.clone(), subject, messages })
    }

    /// Waits until all that was sent before on this connection has arrived.
    pub async fn wait(mut self) {
        loop {
            let sent = self.client.publish(self.subject.clone(), Vec::new().into());
            let back = async {
                // What could not be sent does not come back.
                let _ = sent.await;
                self.messages.next().await
            };
            if timeout(ROUND_TRIP_TIMEOUT, back).await.is_ok() {
                return;
            }
        }
    }
}
