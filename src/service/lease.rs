//! Shared leases across the whole store.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::{Service, unavailable};
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};

/// How many users are written at a time for one lease that ends: others' requests go on.
const MAX_CONCURRENT_WRITES: usize = 512;

impl Service {
    /// Ends all connections on a lease; how many they were, and the revision that shows it.
    pub async fn end_lease(
        &self,
        lease: Id,
        grace_ms: Option<u64>,
        deadline_ms: u64,
    ) -> Result<(usize, u64), Refusal> {
        self.fresh(deadline_ms).await?;
        let mut holders = BTreeSet::new();
        self.store.users.for_each_stripe(|stripe| holders.extend(stripe.index().holders(&lease)));
        let mut rev = self.store.context.barrier.position();
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
        let (results, mut ended) = mpsc::unbounded_channel();
        for user in holders {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            if self.now().mono_ms >= deadline_ms {
                return Err(late());
            }
            let results = results.clone();
            let command = Command::DisconnectLease { lease: lease.clone(), grace_ms };
            self.command(
                user,
                command,
                deadline_ms,
                Box::new(move |result| {
                    drop(permit);
                    // Nobody listens any more only if the request was given up.
                    let _ = results.send(result);
                }),
            );
        }
        drop(results);
        let mut count = 0;
        while let Some(result) = ended.recv().await {
            let answer = result.map_err(|_| late())?;
            rev = rev.max(answer.rev);
            if let Outcome::Disconnected { count: ended, .. } = answer.outcome {
                count += ended;
            }
        }
        Ok((count, rev))
    }

    /// Waits until the replica has seen all that is stored now.
    pub async fn fresh(&self, deadline_ms: u64) -> Result<(), Refusal> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.when_fresh(true, None, deadline_ms, move |fresh| {
            let _ = sender.send(fresh);
        });
        receiver.await.unwrap_or_else(|_| Err(late()))
    }
}

fn late() -> Refusal {
    unavailable(
        "not all connections on the lease could be ended in time; a repeat goes on with the rest",
    )
}
