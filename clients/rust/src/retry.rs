//! When a failed try is repeated. Pure: the waiting is the caller's.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::Error;

/// How long a single try waits for its answer: a little longer than a daemon works on it.
pub const TRY: Duration = Duration::from_millis(2500);
/// How long an operation is tried in all.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long the last disconnect of a connection or a lease is tried. One that is lost lapses.
pub const LAST_DISCONNECT: Duration = Duration::from_secs(2);

const FIRST_WAIT_MS: u64 = 200;
const MAX_WAIT_MS: u64 = 10_000;

/// The waits, in milliseconds, from which one is drawn after `failed` tries, the last with `error`.
pub fn wait_ms(error: &Error, failed: u32) -> RangeInclusive<u64> {
    if matches!(error, Error::NoDaemon { .. }) {
        return 100..=1000;
    }
    let most = FIRST_WAIT_MS.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(MAX_WAIT_MS);
    let least = error.retry_after_ms().min(60_000);
    least..=most.max(least)
}

/// A wait drawn at random from [`wait_ms`].
pub fn wait(error: &Error, failed: u32) -> Duration {
    Duration::from_millis(fastrand::u64(wait_ms(error, failed)))
}
