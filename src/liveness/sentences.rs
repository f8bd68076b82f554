//! The writes that the judge asks for, carried out a bounded number at a time.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::judge::Sentence;
use crate::presence::id::Id;
use crate::presence::user::{Command, Outcome};
use crate::store::Store;
use crate::store::stripe::Answer;

/// How many users are written at a time: requests go on beside them.
const WRITES: usize = 512;

/// A sentence that is to be carried out.
#[derive(Debug)]
pub struct Order {
    pub sentence: Sentence,
    /// The lease that is ended by it and others.
    pub ending: Option<Arc<EndOfLease>>,
}

/// Tells when the last write for the end of a lease is done.
#[derive(Debug)]
pub struct EndOfLease {
    pub lease: Id,
    pub done: mpsc::UnboundedSender<Id>,
}

impl Drop for EndOfLease {
    fn drop(&mut self) {
        // The judge is gone only when the daemon is.
        let _ = self.done.send(self.lease.clone());
    }
}

/// Carries sentences out, a bounded number at a time.
pub async fn carry_out(store: Store, mut orders: mpsc::UnboundedReceiver<Order>) {
    let places = Arc::new(Semaphore::new(WRITES));
    while let Some(Order { sentence, ending }) = orders.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Sentence { user, command, deadline_ms } = sentence;
        let (metrics, lapses) =
            (Arc::clone(&store.link.metrics), matches!(command, Command::Lapse { .. }));
        store.users.command(
            user,
            command,
            deadline_ms,
            Box::new(move |result| {
                if let (true, Ok(Answer { outcome: Outcome::Disconnected { count, .. }, .. })) =
                    (lapses, result)
                {
                    metrics.lapses.inc_by(count as u64);
                }
                drop(place);
                drop(ending);
            }),
        );
    }
}
