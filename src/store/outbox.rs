//! The outgoing messages of one connection, in order.
//!
//! Publishing through the NATS client may block while it is disconnected. An outbox never blocks,
//! so it can be used under a lock. Its size is bounded by the number of admitted commands.

use async_nats::connection::State;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::payload_limit::PayloadLimit;
use crate::watchdog::WatchdogTap;

/// The number of messages published before the watchdog is looked at.
const MAX_PER_TURN: usize = 64;

/// One message to publish.
#[derive(Debug)]
pub struct Message {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Option<HeaderMap>,
    pub payload: Bytes,
    /// For a write or an announced count: it is dropped rather than sent later than this on the
    /// monotonic clock, or while the connection is down.
    pub not_after_ms: Option<u64>,
}

enum Item {
    Message(Message),
    Flush(oneshot::Sender<()>),
}

/// Takes messages; cheap to clone, never blocks.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::UnboundedSender<Item>);

/// The receiving end of an [`Outbox`].
#[derive(Debug)]
pub struct Outgoing(mpsc::UnboundedReceiver<Item>);

pub fn outbox() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Outbox(sender), Outgoing(receiver))
}

impl Outbox {
    pub fn send(&self, message: Message) {
        // The receiver lives as long as the daemon.
        let _ = self.0.send(Item::Message(message));
    }

    /// Waits until all messages sent before are written to the connection.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Item::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

impl Outgoing {
    /// Publishes on `client` until every [`Outbox`] is gone. Calls `on_write` before each write.
    pub async fn run(
        mut self,
        client: Client,
        clock: Clock,
        limit: PayloadLimit,
        mut tap: WatchdogTap,
        on_write: impl Fn(),
    ) {
        // Waiting for the connection is no hang.
        let disconnected = || client.connection_state() != State::Connected;
        let mut turn = Vec::with_capacity(MAX_PER_TURN);
        loop {
            let count = tokio::select! {
                biased;
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                count = self.0.recv_many(&mut turn, MAX_PER_TURN) => count,
            };
            if count == 0 {
                return;
            }
            for item in turn.drain(..) {
                match item {
                    Item::Message(message) => {
                        if !may_leave(&message, &client, clock, &limit) {
                            continue;
                        }
                        if message.not_after_ms.is_some() {
                            on_write();
                        }
                        tap.during(disconnected, publish(&client, message)).await;
                    }
                    Item::Flush(done) => {
                        if let Err(error) = tap.during(disconnected, client.flush()).await {
                            tracing::debug!(%error, "the connection could not be flushed");
                        }
                        let _ = done.send(());
                    }
                }
            }
        }
    }
}

/// Returns whether a message may be published now.
fn may_leave(message: &Message, client: &Client, clock: Clock, limit: &PayloadLimit) -> bool {
    if is_late(message, client, clock) {
        tracing::debug!("dropped a late message");
        return false;
    }
    let bytes = message.payload.len();
    if bytes > limit.body() {
        // It was made before the limit was lowered, and would cost the connection.
        tracing::warn!(bytes, "dropped a message beyond the server's `max_payload`");
        return false;
    }
    true
}

/// Returns whether the commands of a write may be refused before it is stored, or another daemon
/// may have announced a count. The daemon may have been stopped for long since the decision.
fn is_late(message: &Message, client: &Client, clock: Clock) -> bool {
    message.not_after_ms.is_some_and(|not_after_ms| {
        client.connection_state() != State::Connected || clock.now().mono_ms > not_after_ms
    })
}

async fn publish(client: &Client, message: Message) {
    let Message { subject, reply, headers, payload, .. } = message;
    let published = match (reply, headers) {
        (None, None) => client.publish(subject, payload).await,
        (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
        (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
        (Some(reply), Some(headers)) => {
            client.publish_with_reply_and_headers(subject, reply, headers, payload).await
        }
    };
    if let Err(error) = published {
        tracing::warn!(%error, "a message could not be published");
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
