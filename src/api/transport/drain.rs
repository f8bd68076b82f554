//! Leaves the queue group without losing requests under way to this daemon.
//!
//! The client forgets a subscription before the server does, and drops messages that the server has
//! sent meanwhile. Both count deliveries, though, and end a limited subscription at the same
//! message. Under load the limit is reached soon; without load, nothing is under way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

/// The time for reaching the limit.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The time without a request that ends the drain after that.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_millis(250);

/// The minimum of further requests: more than a slow machine has under way.
const MIN_REMAINING_REQUESTS: u64 = 64;

/// The window over which the rate is measured.
const RATE_WINDOW_MS: u64 = 100;

/// The number of requests so far, and the rate of their arrival.
#[derive(Debug, Default)]
pub struct ArrivalRate {
    received: u64,
    window_from_ms: u64,
    in_window: u64,
    in_last_window: u64,
}

impl ArrivalRate {
    /// Counts a request.
    pub fn count(&mut self, now_ms: u64) {
        self.received += 1;
        self.in_window += 1;
        if now_ms.saturating_sub(self.window_from_ms) >= RATE_WINDOW_MS {
            self.window_from_ms = now_ms;
            self.in_last_window = std::mem::take(&mut self.in_window);
        }
    }

    /// The number of the last request to take: as many more as arrived in the last two windows,
    /// which is more than can be under way.
    fn last(&self) -> u64 {
        self.received + MIN_REMAINING_REQUESTS + self.in_last_window + self.in_window
    }
}

/// Ends the subscription, and passes its last requests to `take`.
pub async fn drain(
    client: &Client,
    mut requests: Subscriber,
    rate: &ArrivalRate,
    mut take: impl FnMut(Message),
) {
    // A reconnect resets the count of the server.
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
