//! Raises the [floor](crate::store::floor) of the bucket for markers that are to go: writes each
//! record that stands below them once more, as it is, and then stores that none does.

use std::time::Duration;

use futures_util::StreamExt;

use super::internal::Beacons;
use super::peers::{RankFilter, delay_ms};
use super::upkeep::Upkeep;
use crate::clock::millis;
use crate::store::Store;
use crate::store::bucket::BucketError;
use crate::store::floor::KEY;
use crate::store::wire;

/// The delay by which the next daemon in rendezvous order raises the floor, in milliseconds.
const STEP_MS: u64 = 60_000;

/// The number of records written in each interval: a million takes an hour and a half.
const MAX_COPIES: usize = 200;

/// The number of records written at a time.
const CONCURRENT_WRITES: usize = 16;

/// The work of one daemon for the floor.
#[derive(Debug)]
pub struct FloorRaise {
    store: Store,
    beacons: Beacons,
    /// The time for which a marker is kept.
    age: Duration,
    pass: Option<Pass>,
}

/// A pass over all records.
#[derive(Debug)]
struct Pass {
    floor: u64,
    /// No record of the stripes before this one stands below the floor.
    stripe: usize,
}

impl FloorRaise {
    pub fn new(store: Store, beacons: Beacons, age: Duration) -> Self {
        Self { store, beacons, age, pass: None }
    }

    /// Runs without end.
    pub async fn run(mut self) {
        let mut upkeep = Upkeep::new("the removal of markers of deletions");
        loop {
            upkeep.until_able(&self.store).await;
            upkeep.on_tried(self.advance().await);
        }
    }

    /// Does the next part of a pass, if one is due and it is this daemon's turn.
    async fn advance(&mut self) -> Vec<Result<(), BucketError>> {
        let due = self.store.floor_due(millis(self.age));
        let turn_ms = delay_ms(self.beacons.peers().rank(KEY, RankFilter::Alive), STEP_MS);
        let Some((floor, _)) = due.filter(|(_, late_ms)| *late_ms >= turn_ms) else {
            self.pass = None;
            return Vec::new();
        };
        let mut pass = self.pass.take().unwrap_or(Pass { floor, stripe: 0 });
        let context = &self.store.context;
        let below = self.find_below(&mut pass).await;
        if below.is_empty() {
            return vec![context.floor.store(&context.bucket, pass.floor).await];
        }
        let (this, floor) = (&*self, pass.floor);
        let copies = futures_util::stream::iter(below);
        let copies = copies.map(|subject| async move { this.copy(&subject, floor).await });
        let copied = copies.buffer_unordered(CONCURRENT_WRITES).collect().await;
        self.pass = Some(pass);
        copied
    }

    /// The subjects of the next records below the floor of a pass; none is left if there is none.
    async fn find_below(&self, pass: &mut Pass) -> Vec<String> {
        let mut below = Vec::new();
        let mut stripe = pass.stripe;
        while below.len() < MAX_COPIES {
            let limit = MAX_COPIES - below.len();
            let Some(found) = self.store.below(stripe, pass.floor, limit) else { break };
            below.extend(found);
            stripe += 1;
            if below.is_empty() {
                pass.stripe = stripe;
            }
            tokio::task::yield_now().await;
        }
        below
    }

    /// Writes a record once more, as it is, if it still stands below `floor`.
    async fn copy(&self, subject: &str, floor: u64) -> Result<(), BucketError> {
        let bucket = &self.store.context.bucket;
        let stored = bucket.last(subject).await?;
        if stored.seq >= floor {
            return Ok(());
        }
        bucket.put(bucket.key_of(subject), wire::copy(&stored), stored.payload).await
    }
}
