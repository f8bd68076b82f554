//! The leader check: whether this daemon is on the side of a partition that can write.
//!
//! The leader of the stream answers, and it reports a majority.
//! [`Hearing`](super::hearing::Hearing) decides what a missing or bad answer means.

use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::time::{MissedTickBehavior, interval};

use super::hearing::PROBE_MS;
use super::internal::Beacons;
use crate::clock::Clock;
use crate::store::bucket::Bucket;

/// Asks the leader of the bucket's stream for its state, one question at a time, without end.
pub async fn check_leader(beacons: &Beacons, bucket: &Bucket, clock: Clock) {
    let mut ticks = interval(Duration::from_millis(PROBE_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = std::pin::pin!(OptionFuture::default());
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if beacons.hearing().begin_bucket_query(clock.now().mono_ms) {
                    answer.set(Some(bucket.info()).into());
                }
            }
            Some(answered) = &mut answer => {
                let has_majority = answered.is_ok_and(|info| info.has_majority());
                beacons.hearing().on_bucket_answer(has_majority);
                answer.set(None.into());
            }
        }
    }
}
