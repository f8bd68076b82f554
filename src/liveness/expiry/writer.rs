//! Carries out the writes of the expiry machine, a bounded number at a time.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::PendingWrite;
use crate::presence::id::Id;
use crate::presence::user::{Command, Outcome};
use crate::store::Store;
use crate::store::stripe::Answer;

/// The maximum number of users written at a time, so that requests are served meanwhile.
const MAX_CONCURRENT_WRITES: usize = 512;

/// A write in the queue.
#[derive(Debug)]
pub struct QueuedWrite {
    pub write: PendingWrite,
    /// The lease that this and other writes end.
    pub ending: Option<Arc<LeaseEndGuard>>,
}

/// Reports that the last write for the end of a lease is done.
#[derive(Debug)]
pub struct LeaseEndGuard {
    pub lease: Id,
    pub done: mpsc::UnboundedSender<Id>,
}

impl Drop for LeaseEndGuard {
    fn drop(&mut self) {
        // The receiver is gone only when the daemon ends.
        let _ = self.done.send(self.lease.clone());
    }
}

/// Carries out writes until the queue is closed.
pub async fn carry_out(store: Store, mut writes: mpsc::UnboundedReceiver<QueuedWrite>) {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
    while let Some(QueuedWrite { write, ending }) = writes.recv().await {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let PendingWrite { user, command, deadline_ms } = write;
        let metrics = Arc::clone(&store.context.metrics);
        let is_lapse = matches!(command, Command::Lapse { .. });
        let answer = store.users.command(user, command, deadline_ms);
        store.context.tracker.spawn(async move {
            if let (true, Ok(Ok(Answer { outcome: Outcome::Disconnected { count, .. }, .. }))) =
                (is_lapse, answer.await)
            {
                metrics.lapses.inc_by(count as u64);
            }
            drop(permit);
            drop(ending);
        });
    }
}
