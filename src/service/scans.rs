//! Queries that look at every record: few at once, and not too many that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// Who scans, and who waits for it.
#[derive(Debug)]
pub(super) struct Scans {
    permits: Arc<Semaphore>,
    /// Those that run and those that wait.
    pending: AtomicUsize,
}

impl Scans {
    pub fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once)), pending: AtomicUsize::new(0) }
    }

    /// Takes one more in, unless there are `most` already.
    pub fn join(&self, most: usize) -> bool {
        let joined = self.pending.fetch_add(1, Ordering::Relaxed) < most;
        if !joined {
            self.leave();
        }
        joined
    }

    /// How many run or wait.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Gives the place that [`Scans::join`] took back.
    pub fn leave(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for one's turn, which ends when it is dropped.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Lets `now` run at once instead of `before`. Places that are taken are given up in their
    /// turn, so what runs is not disturbed.
    pub fn resize(&self, before: usize, now: usize, tracker: &TaskTracker) {
        self.permits.add_permits(now.saturating_sub(before));
        if let Ok(fewer @ 1..) = u32::try_from(before.saturating_sub(now)) {
            let permits = Arc::clone(&self.permits);
            tracker.spawn(async move {
                if let Ok(given_up) = permits.acquire_many(fewer).await {
                    given_up.forget();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn fewer_places_count_once_those_who_hold_them_have_left_and_more_at_once() {
        let (scans, tracker) = (Scans::new(2), TaskTracker::new());
        let first = scans.turn().await;
        let second = scans.turn().await;
        scans.resize(2, 1, &tracker);
        drop(first);
        tracker.close();
        tracker.wait().await;
        assert!(scans.turn().now_or_never().is_none(), "the one place is taken");
        drop(second);
        let alone = scans.turn().now_or_never().flatten();
        assert!(alone.is_some() && scans.turn().now_or_never().is_none());
        scans.resize(1, 3, &tracker);
        let others = [scans.turn().now_or_never().flatten(), scans.turn().now_or_never().flatten()];
        assert!(others.iter().all(Option::is_some) && scans.turn().now_or_never().is_none());
    }

    #[test]
    fn no_more_wait_than_may() {
        let scans = Scans::new(1);
        assert!(scans.join(2) && scans.join(2) && !scans.join(2));
        scans.leave();
        assert!(scans.join(2));
    }
}
