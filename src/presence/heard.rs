//! The last sign of life of a connection or a shared lease. Pure: times are values of the daemon's
//! own monotonic clock.

use std::num::NonZeroU32;

use super::lease_terms::LeaseTimes;

/// The time at which something was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub at_ms: u64,
    /// Whether it was heard; otherwise it is assumed alive since this daemon began to listen.
    pub confirmed: bool,
    /// The lease that its last connect was told, in milliseconds; `None` if this daemon has not
    /// seen that connect happen.
    pub told_ms: Option<NonZeroU32>,
    /// The time of its last heartbeat. A connect is seen in the bucket as late as the replica is,
    /// by all. Only a heartbeat tells others something that they cannot see themselves.
    pub beat_ms: Option<u64>,
}

impl Heard {
    /// A connect was seen. `times` are the leases at that moment, for a daemon that listens; `None`
    /// if it only replays the bucket.
    pub fn connected(at_ms: u64, times: Option<LeaseTimes>) -> Self {
        let told_ms = times.and_then(|times| u32::try_from(times.told_ms).ok());
        Self {
            at_ms,
            confirmed: times.is_some(),
            told_ms: told_ms.and_then(NonZeroU32::new),
            beat_ms: None,
        }
    }

    /// The connection connected once more.
    pub fn connected_again(self, at_ms: u64, times: Option<LeaseTimes>) -> Self {
        Self { beat_ms: self.beat_ms, ..Self::connected(at_ms, times) }
    }

    /// Another connection of a shared lease connected. Its heartbeats are sent as often as the
    /// longest lease asks that any of its connections was told.
    pub fn joined(self, at_ms: u64, times: Option<LeaseTimes>) -> Self {
        let joined = self.connected_again(at_ms, times);
        let told_ms = self.told_ms.zip(joined.told_ms).map(|(before, now)| before.max(now));
        Self { told_ms, ..joined }
    }

    /// Records a heartbeat sent at `at_ms`.
    pub fn beat(&mut self, at_ms: u64) {
        self.at_ms = self.at_ms.max(at_ms);
        self.beat_ms = self.beat_ms.max(Some(at_ms));
        self.confirmed = true;
    }
}
