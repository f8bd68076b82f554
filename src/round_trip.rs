//! A check that the server has processed the messages sent on a connection.

use std::time::Duration;

use async_nats::{Client, PublishError, SubscribeError};
use futures_util::StreamExt;
use thiserror::Error;
use tokio::time::timeout;

use crate::config::INTERNAL;

/// The time that the message may take before it is sent again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The message could not be sent.
#[derive(Debug, Error)]
pub enum RoundTripError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    #[error("the connection was closed")]
    Closed,
}

/// Returns when the server has processed all that was sent before on the connection of `client`.
///
/// A server handles the commands of one connection in order, so a message to oneself comes back
/// after them. It is repeated until it does, as it is lost when the connection breaks.
pub async fn round_trip(client: &Client) -> Result<(), RoundTripError> {
    let subject = format!("{INTERNAL}.round_trip.{:016x}", fastrand::u64(..));
    let mut messages = client.subscribe(subject.clone()).await?;
    loop {
        let back = async {
            client.publish(subject.clone(), bytes::Bytes::new()).await?;
            messages.next().await.map(|_| ()).ok_or(RoundTripError::Closed)
        };
        if let Ok(outcome) = timeout(RETRY_INTERVAL, back).await {
            return outcome;
        }
    }
}
