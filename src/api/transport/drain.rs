//! Leaving the queue group without losing the requests that are under way to us.
//!
//! The client forgets a subscription before the server does, and drops what the server had sent
//! by then. Both count what is delivered, though: told to end after a certain number of messages,
//! they end at the same one. Under load that number comes soon; without load, nothing is under way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

/// How long that number may take to come.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the last requests are awaited after that.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_millis(250);

/// At least so many more requests are taken: more than a slow machine has under way.
const MIN_REMAINING: u64 = 64;

/// How long the rate is measured, in milliseconds.
const WINDOW_MS: u64 = 100;

/// How many requests have come, and how fast they come.
#[derive(Debug, Default)]
pub struct ArrivalRate {
    received: u64,
    window_from_ms: u64,
    in_window: u64,
    in_last_window: u64,
}

impl ArrivalRate {
    /// A request came.
    pub fn count(&mut self, now_ms: u64) {
        self.received += 1;
        self.in_window += 1;
        if now_ms.saturating_sub(self.window_from_ms) >= WINDOW_MS {
            self.window_from_ms = now_ms;
            self.in_last_window = std::mem::take(&mut self.in_window);
        }
    }

    /// The last request to take: as many more as came within the last moments, which are more
    /// than can be under way.
    fn last(&self) -> u64 {
        self.received + MIN_REMAINING + self.in_last_window + self.in_window
    }
}

/// Ends the subscription, and hands over what still comes.
pub async fn drain(
    client: &Client,
    mut requests: Subscriber,
    rate: &ArrivalRate,
    mut take: impl FnMut(Message),
) {
    // After a reconnect the server has begun to count anew.
    let counts_agree = client.statistics().connects.load(Ordering::Relaxed) <= 1;
    if counts_agree && requests.unsubscribe_after(rate.last()).await.is_ok() {
        let all = async {
            while let Some(request) = requests.next().await {
                take(request);
            }
        };
        if timeout(DRAIN_TIMEOUT, all).await.is_ok() {
            return;
        }
    }
    if let Err(error) = requests.drain().await {
        tracing::debug!(%error, "the subscription was gone already");
    }
    while let Ok(Some(request)) = timeout(LAST_REQUEST_TIMEOUT, requests.next()).await {
        take(request);
    }
}
