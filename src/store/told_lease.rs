//! The lease that clients are told, as the bucket has it. All daemons follow it through the feed,
//! so that a connect and a change of the lease have one order for all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;

use super::bucket::{Bucket, BucketError};
use crate::presence::lease_terms::{DEFAULT_LEASE_MS, LeaseTerms, LeaseTimes};
use crate::presence::time::{Now, Time};

/// The key of the bucket.
pub const KEY: &str = "liveness";

/// What stands under the key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Content {
    #[default]
    Nothing,
    Terms,
    /// Something that a newer daemon may have written: it stays as it is.
    Unreadable,
}

/// What is known of the terms in the bucket.
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
    pub fn on_fed(&self, rev: u64, payload: &[u8]) {
        let mut state = self.state();
        state.rev = rev;
        state.content = match LeaseTerms::decode(payload) {
            Some(terms) => {
                state.terms = Some(terms);
                Content::Terms
            }
            None if payload.is_empty() => Content::Nothing,
            None => {
                tracing::error!(key = KEY, "the lease in the bucket cannot be read");
                Content::Unreadable
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

    /// Whether the bucket says that connects are told `lease_ms`, or cannot be made to.
    pub fn is_stored(&self, lease_ms: u64) -> bool {
        let state = self.state();
        match state.content {
            Content::Nothing => state.terms.is_none() && lease_ms == DEFAULT_LEASE_MS,
            Content::Terms => state.terms.as_ref().is_some_and(|t| t.lease_ms() == lease_ms),
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
