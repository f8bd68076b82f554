//! The lease that clients are told, as the bucket has it. All daemons follow it through the feed,
//! so that a connect and a change of the lease have one order for all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;

use super::bucket::{Bucket, BucketError};
use crate::presence::lease_terms::{DEFAULT_LEASE_MS, LeaseTerms, LeaseTimes};
use crate::presence::time::{Now, Time};

/// The key of the bucket.
pub const KEY: &str = "liveness";

/// The content of the key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Content {
    #[default]
    Nothing,
    Terms,
    /// Terms of a time before those that were known: the stream was restored from a backup. What
    /// counts instead is to be stored.
    Older,
    /// Something that a newer daemon may have written: it stays as it is.
    Unreadable,
}

/// The known state of the terms in the bucket.
#[derive(Debug, Default)]
pub struct ToldLease(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that were read last; they stay if the stream loses them.
    terms: Option<LeaseTerms>,
    /// The revision of the key; 0 if it is not in the stream.
    rev: u64,
    content: Content,
    /// A reading of JetStream's clock, and of the monotonic one.
    clock: Option<(Time, u64)>,
}

impl State {
    /// The time of JetStream's clock.
    fn stream_time(&self, now: Now) -> Time {
        self.clock.map_or(now.wall, |(stream, at_ms)| {
            Time(stream.0.saturating_add_unsigned(now.mono_ms.saturating_sub(at_ms)))
        })
    }
}

impl ToldLease {
    /// JetStream's clock shows `stream`.
    pub fn on_stream_time(&self, stream: Time, now: Now) {
        self.state().clock = Some((stream, now.mono_ms));
    }

    /// The time of JetStream's clock, once it is known.
    pub fn stream_time(&self, now: Now) -> Option<Time> {
        let state = self.state();
        state.clock.map(|_| state.stream_time(now))
    }

    /// The feed delivered the key.
    pub fn on_fed(&self, rev: u64, payload: &[u8], now: Now) {
        let mut state = self.state();
        state.rev = rev;
        let stream = state.stream_time(now);
        let former = state.terms.take();
        state.content = match LeaseTerms::decode(payload) {
            Some(terms) => {
                let older = former.filter(|former| !terms.follows(former, stream));
                let is_older = older.is_some();
                let changed = |former| LeaseTerms::changed(Some(&former), terms.lease_ms(), stream);
                state.terms = Some(older.map_or_else(|| terms.clone(), changed));
                if is_older { Content::Older } else { Content::Terms }
            }
            None => {
                state.terms = former;
                if payload.is_empty() {
                    Content::Nothing
                } else {
                    tracing::error!(key = KEY, "the lease in the bucket cannot be read");
                    Content::Unreadable
                }
            }
        };
    }

    /// The stream is replayed from its beginning.
    pub fn on_stream_lost(&self) {
        let mut state = self.state();
        (state.rev, state.content) = (0, Content::Nothing);
    }

    /// The lease that connects are told, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.state().terms.as_ref().map_or(DEFAULT_LEASE_MS, LeaseTerms::lease_ms)
    }

    /// The leases that count now.
    pub fn times(&self, now: Now) -> LeaseTimes {
        let state = self.state();
        let stream = state.stream_time(now);
        let terms = state.terms.as_ref();
        terms.map_or_else(|| LeaseTerms::default().times(stream), |terms| terms.times(stream))
    }

    /// Returns whether the bucket says that connects are told `lease_ms`, or cannot be made to.
    pub fn is_stored(&self, lease_ms: u64) -> bool {
        let state = self.state();
        match state.content {
            Content::Nothing => state.terms.is_none() && lease_ms == DEFAULT_LEASE_MS,
            Content::Terms => state.terms.as_ref().is_some_and(|t| t.lease_ms() == lease_ms),
            Content::Older => false,
            Content::Unreadable => true,
        }
    }

    /// Stores that connects are told `lease_ms`, unless another daemon has stored something else
    /// meanwhile. It counts when the feed delivers it. Without `users` nobody was told anything.
    pub async fn store(
        &self,
        bucket: &Bucket,
        lease_ms: u64,
        users: bool,
        now: Now,
    ) -> Result<(), BucketError> {
        let (terms, rev) = {
            let state = self.state();
            let former = state.terms.clone().or_else(|| users.then(LeaseTerms::default));
            (LeaseTerms::changed(former.as_ref(), lease_ms, state.stream_time(now)), state.rev)
        };
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, rev.to_string());
        bucket.put(KEY, headers, terms.encode().into()).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now::local(ms, Time(i64::try_from(ms).unwrap()))
    }

    fn fed(told: &ToldLease, rev: u64, terms: &LeaseTerms, now: Now) {
        told.on_fed(rev, &terms.encode(), now);
    }

    #[test]
    fn an_older_lease_that_is_restored_ends_nobody_and_is_stored_again() {
        let backup = LeaseTerms::changed(None, 6000, Time(0));
        let long = LeaseTerms::changed(Some(&backup), 60_000, Time(1000));
        let told = ToldLease::default();
        fed(&told, 1, &backup, at(0));
        fed(&told, 2, &long, at(1000));
        assert!(told.is_stored(60_000));
        told.on_stream_lost();
        fed(&told, 1, &backup, at(9000));
        assert_eq!((told.lease_ms(), told.times(at(100_000)).longest_ms), (6000, 60_000));
        assert!(!told.is_stored(6000) && !told.is_stored(60_000));
        let again = LeaseTerms::changed(Some(&long), 6000, Time(10_000));
        fed(&told, 2, &again, at(10_000));
        assert!(told.is_stored(6000));
        assert_eq!(told.times(at(129_999)).longest_ms, 60_000);
        assert_eq!(told.times(at(130_000)).longest_ms, 6000);
    }
}
