//! Leaving: take in no more requests, finish those that were taken, announce the end. No user goes
//! offline by it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Daemon;

/// The time that the taken requests may take. The whole leave stays within five seconds.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// The time that the last messages may take to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

impl Daemon {
    /// Answers the requests that were taken, publishes their events, and leaves.
    pub(super) async fn leave(self) {
        tracing::info!("leaving");
        let Self { health, service, answers, internal, no_more, intake, stop } = self;
        health.leaving();
        no_more.cancel();
        let finished = timeout(FINISH_TIMEOUT, async {
            let _ = intake.await;
            while service.pending() > 0 || service.store.busy() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        });
        if finished.await.is_err() {
            tracing::warn!(requests = service.pending(), "left requests unanswered");
        }
        let flushed = timeout(FLUSH_TIMEOUT, async {
            answers.flush().await;
            service.beacons.leave().await;
            internal.flush().await
        });
        if flushed.await.is_err() {
            tracing::warn!("NATS did not take the last messages in time");
        }
        stop.cancel();
        let tracker = service.store.context.tracker.clone();
        tracker.close();
        if timeout(FLUSH_TIMEOUT, tracker.wait()).await.is_err() {
            tracing::debug!("some tasks did not end in time");
        }
        tracing::info!("left");
    }
}
