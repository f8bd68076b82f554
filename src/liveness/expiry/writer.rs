//! The writes that the judge asks for, carried out a bounded number at a time.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::PendingWrite;
use crate::presence::id::Id;
use crate::presence::user::{Command, Outcome};
use crate::store::Store;
use crate::store::stripe::Answer;

/// How many users are written at a time: requests go on beside them.
const MAX_CONCURRENT_WRITES: usize = 512;

/// A write that is to be carried out.
#[derive(Debug)]
pub struct QueuedWrite {
    pub write: PendingWrite,
    /// The lease that is ended by it and others.
    pub ending: Option<Arc<LeaseEndGuard>>,
}

/// Tells when the last write for the end of a lease is done.
#[derive(Debug)]
pub struct LeaseEndGuard {
    pub lease: Id,
    pub done: mpsc::UnboundedSender<Id>,
}

impl Drop for LeaseEndGuard {
    fn drop(&mut self) {
        // The judge is gone only when the daemon is.
        let _ = self.done.send(self.lease.clone());
    }
}

/// Carries writes out, a bounded number at a time.
pub async fn carry_out(store: Store, mut writes: mpsc::UnboundedReceiver<QueuedWrite>) {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
    while let Some(QueuedWrite { write, ending }) = writes.recv().await {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let PendingWrite { user, command, deadline_ms } = write;
        let (metrics, lapses) =
            (Arc::clone(&store.context.metrics), matches!(command, Command::Lapse { .. }));
        let answer = store.users.command(user, command, deadline_ms);
        store.context.tracker.spawn(async move {
            if let (true, Ok(Ok(Answer { outcome: Outcome::Disconnected { count, .. }, .. }))) =
                (lapses, answer.await)
            {
                metrics.lapses.inc_by(count as u64);
            }
            drop(permit);
            drop(ending);
        });
    }
}
