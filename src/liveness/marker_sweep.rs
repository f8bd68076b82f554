//! Replaces the markers of deletions when they have done their service
//! ([`markers`](crate::store::markers)). The first daemon in rendezvous order does it, and the next
//! one some seconds later.

use std::time::Duration;

use futures_util::StreamExt;

use super::internal::Beacons;
use super::peers::{RankFilter, delay_ms};
use super::upkeep::Upkeep;
use crate::clock::millis;
use crate::store::Store;
use crate::store::bucket::BucketError;
use crate::store::markers::{DueMarker, Kind};
use crate::store::wire;

/// The delay by which the next daemon replaces a marker, in milliseconds.
const STEP_MS: u64 = 5000;

/// The time for which the last marker stands: all daemons have read it by then.
const LAST_TTL: Duration = Duration::from_secs(60);

/// The number of markers replaced at a time.
const CONCURRENT_WRITES: usize = 16;

/// The work of one daemon for the markers.
#[derive(Debug)]
pub struct MarkerSweep {
    pub store: Store,
    pub beacons: Beacons,
    /// The time for which a marker is kept.
    pub age: Duration,
}

impl MarkerSweep {
    /// Runs without end.
    pub async fn run(self) {
        let mut upkeep = Upkeep::new("the replacement of markers of deletions");
        loop {
            upkeep.until_able(&self.store).await;
            upkeep.on_tried(self.replace_due().await);
        }
    }

    /// Replaces the markers that are due. One that is refused does not hold up the others.
    async fn replace_due(&self) -> Vec<Result<(), BucketError>> {
        let due = futures_util::stream::iter(self.due());
        let tried = due.map(|marker| async move { self.replace(&marker).await });
        tried.buffer_unordered(CONCURRENT_WRITES).collect().await
    }

    /// The markers that are due, and the turn of this daemon with them.
    fn due(&self) -> Vec<DueMarker> {
        let mut due = self.store.due_markers(millis(self.age));
        let peers = self.beacons.peers();
        due.retain(|marker| {
            marker.late_ms >= delay_ms(peers.rank(&marker.subject, RankFilter::Alive), STEP_MS)
        });
        due
    }

    async fn replace(&self, marker: &DueMarker) -> Result<(), BucketError> {
        let context = &self.store.context;
        let stored = context.bucket.last(&marker.subject).await?;
        if stored.seq != marker.seq {
            return Ok(());
        }
        let headers = match marker.next {
            Kind::Last => wire::last_marker(&stored, LAST_TTL.min(self.age)),
            Kind::Lasting | Kind::Unsafe => wire::lasting_marker(context.daemon, &stored),
        };
        context
            .bucket
            .put(context.bucket.key_of(&marker.subject), headers, bytes::Bytes::new())
            .await
    }
}
