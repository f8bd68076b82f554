//! The deliberate end of a shared lease, across the whole store.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

use super::{Service, unavailable};
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};

/// The bound on concurrent writes for one lease that ends, which leaves room for requests.
const MAX_CONCURRENT_WRITES: usize = 512;

/// The end of a lease.
#[derive(Debug, Clone, Copy, Default)]
pub struct EndedLease {
    /// The number of connections that were ended.
    pub count: usize,
    /// The revision at which the store shows the end.
    pub rev: u64,
}

impl Service {
    /// Ends all connections on a lease. A repeat after a failure goes on with the rest.
    pub async fn end_lease(
        &self,
        lease: &Id,
        grace_ms: Option<u64>,
        deadline_ms: u64,
    ) -> Result<EndedLease, Refusal> {
        self.all_stored(deadline_ms).await?;
        let mut holders = BTreeSet::new();
        self.store.users.for_each_stripe(|stripe| holders.extend(stripe.index().holders(lease)));
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
        let writes = holders.into_iter().map(|user| {
            let permits = Arc::clone(&permits);
            async move {
                let permit = permits.acquire_owned().await;
                if self.now().mono_ms >= deadline_ms {
                    return Err(late());
                }
                let command = Command::DisconnectLease { lease: lease.clone(), grace_ms };
                let answer = self.command(user, command, deadline_ms).await;
                drop(permit);
                answer.map_err(|_| late())
            }
        });
        let mut ended = EndedLease { count: 0, rev: self.store.context.barrier.position() };
        for answer in try_join_all(writes).await? {
            ended.rev = ended.rev.max(answer.rev);
            if let Outcome::Disconnected { count, .. } = answer.outcome {
                ended.count += count;
            }
        }
        Ok(ended)
    }
}

fn late() -> Refusal {
    unavailable(
        "not all connections on the lease could be ended in time; a repeat goes on with the rest",
    )
}
