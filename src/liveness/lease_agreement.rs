//! The daemons of a bucket agree on the lease that clients are told: the longest one in the
//! settings of those that are alive. A longer one is stored before its daemon serves, a shorter one
//! when no daemon is left that wants more
//! ([`LeaseTerms`](crate::presence::lease_terms::LeaseTerms)).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::internal::Beacons;
use super::peers::RankFilter;
use super::upkeep::Upkeep;
use crate::store::Store;
use crate::store::bucket::BucketError;
use crate::store::told_lease::KEY;

/// The delay by which the next daemon in rendezvous order stores the lease.
const STEP: Duration = Duration::from_secs(5);

/// The longest time for which a daemon that starts waits for the lease to be stored.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before it looks again whether it is.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The work of one daemon for the agreement.
#[derive(Debug, Clone)]
pub struct LeaseAgreement {
    pub store: Store,
    pub beacons: Beacons,
}

impl LeaseAgreement {
    /// Brings the lease into agreement before this daemon serves: its clients may go by what it
    /// tells them from then on. The replica is whole.
    pub async fn begin(&self) {
        let is_shorter =
            self.beacons.settings().lease_ms < self.store.context.told_lease.lease_ms();
        if is_shorter && self.store.has_users() {
            // Another daemon may be alive that wants the longer one.
            self.beacons.listened().await;
        }
        let stored = tokio::time::timeout(START_TIMEOUT, self.store_longest()).await;
        if stored.is_err() {
            tracing::warn!("the lease could not be stored yet; it is tried again");
        }
    }

    async fn store_longest(&self) {
        while !self.is_agreed() {
            if let Err(error) = self.write().await {
                tracing::debug!(%error, "the lease could not be stored");
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Keeps to the agreement while daemons come and go.
    pub async fn run(self) {
        let mut upkeep = Upkeep::new("the agreement of daemons on a lease");
        let mut differs_since: Option<Instant> = None;
        loop {
            upkeep.tick().await;
            if self.is_agreed() {
                differs_since = None;
                continue;
            }
            let since = *differs_since.get_or_insert_with(Instant::now);
            let rank = u32::try_from(self.beacons.peers().rank(KEY, RankFilter::Alive));
            // The first one may be of an older version, or unable to.
            let is_due = since.elapsed() >= STEP.saturating_mul(rank.unwrap_or(u32::MAX));
            if is_due && self.store.is_whole() && !upkeep.is_paused() {
                upkeep.on_tried([self.write().await]);
            }
        }
    }

    fn is_agreed(&self) -> bool {
        self.store.context.told_lease.is_stored(self.beacons.longest().lease_ms)
    }

    async fn write(&self) -> Result<(), BucketError> {
        let context = &self.store.context;
        let (lease_ms, now) = (self.beacons.longest().lease_ms, context.clock.now());
        let has_users = self.store.has_users();
        context.told_lease.store(&context.bucket, lease_ms, has_users, now).await?;
        tracing::info!(lease_ms, "clients are told this lease from now on");
        Ok(())
    }
}
