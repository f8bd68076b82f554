//! The bound on scans: queries that visit every record.
//!
//! A few run at a time, and a bounded number waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// The scans that run and the scans that wait.
#[derive(Debug)]
pub(super) struct Scans {
    permits: Arc<Semaphore>,
    pending: Arc<AtomicUsize>,
}

/// One scan among those that run or wait; given back when dropped.
#[derive(Debug)]
pub(super) struct ScanSlot(Arc<AtomicUsize>);

impl Drop for ScanSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Scans {
    pub fn new(concurrent: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrent)), pending: Arc::default() }
    }

    /// Admits one more scan, unless `max_pending` run or wait already.
    pub fn join(&self, max_pending: usize) -> Option<ScanSlot> {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        let slot = ScanSlot(Arc::clone(&self.pending));
        (before < max_pending).then_some(slot)
    }

    /// The number of scans that run or wait.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Waits for a permit to run.
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Changes the number of concurrent scans. A lower number takes effect as permits come back:
    /// running scans are not disturbed.
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
    async fn fewer_permits_count_once_running_scans_end_and_more_at_once() {
        let (scans, tracker) = (Scans::new(2), TaskTracker::new());
        let first = scans.permit().await;
        let second = scans.permit().await;
        scans.resize(2, 1, &tracker);
        drop(first);
        tracker.close();
        tracker.wait().await;
        assert!(scans.permit().now_or_never().is_none(), "the one permit is taken");
        drop(second);
        let alone = scans.permit().now_or_never().flatten();
        assert!(alone.is_some() && scans.permit().now_or_never().is_none());
        scans.resize(1, 3, &tracker);
        let others =
            [scans.permit().now_or_never().flatten(), scans.permit().now_or_never().flatten()];
        assert!(others.iter().all(Option::is_some) && scans.permit().now_or_never().is_none());
    }

    #[test]
    fn the_number_of_pending_scans_is_bounded() {
        let scans = Scans::new(1);
        let first = scans.join(2);
        let second = scans.join(2);
        assert!(first.is_some() && second.is_some() && scans.join(2).is_none());
        drop(first);
        assert!(scans.join(2).is_some());
    }
}
