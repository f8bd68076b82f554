//! The floor of the bucket: the sequence below which no record is live.
//!
//! A server that is killed may bring back any older message of a key whose newest ones are gone.
//! Daemons write every record that stands below a marker once more before they let it go, and
//! store that they did. So a record below the floor is one that was deleted, and is never shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, BucketError};

/// The key of the bucket.
pub const KEY: &str = "floor";

/// The schema number of the stored floor.
const SCHEMA: u32 = 1;

/// The time for which a floor stands before a marker below it may go, in milliseconds. A power cut
/// that loses the floor loses the removal of the marker as well: servers sync every two minutes.
const SETTLED_MS: u64 = 300_000;

/// The content of the key.
#[derive(Debug, Serialize, Deserialize)]
struct StoredFloor {
    v: u32,
    /// The creation time of the stream whose sequences are meant: a copy has others.
    created: String,
    seq: u64,
}

/// The floor, as the bucket has it.
#[derive(Debug, Default)]
pub struct Floor {
    seq: AtomicU64,
    position: Mutex<Position>,
}

/// The position of the floor in the bucket.
#[derive(Debug, Default)]
struct Position {
    /// The creation time of the stream; empty while that is not known.
    created: String,
    /// The revision of the key; 0 if it is not in the stream.
    rev: u64,
    /// The time at which it was stored, in milliseconds since 1970.
    stored_ms: i64,
}

impl Floor {
    /// The stream that was created at `created` is read from its beginning; empty: not yet.
    pub fn begin(&self, created: &str) {
        *self.position() = Position { created: created.to_owned(), ..Position::default() };
        self.seq.store(0, Ordering::Relaxed);
    }

    /// The key holds `payload` since `stored_ms`.
    pub fn on_stored(&self, rev: u64, stored_ms: i64, payload: &[u8]) {
        let stored = serde_json::from_slice::<StoredFloor>(payload).ok();
        let mut position = self.position();
        if rev < position.rev {
            return;
        }
        // No daemon stores a floor above its own message.
        let floor = stored.filter(|floor| floor.created == position.created && floor.seq <= rev);
        (position.rev, position.stored_ms) = (rev, stored_ms);
        self.seq.store(floor.map_or(0, |floor| floor.seq), Ordering::Relaxed);
    }

    /// The sequence below which no record is live.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Returns whether it has stood for long enough when JetStream's clock shows `stream_ms`, given
    /// how long markers are kept.
    pub fn is_settled(&self, stream_ms: i64, marker_age_ms: u64) -> bool {
        let position = self.position();
        let old_ms = u64::try_from(stream_ms - position.stored_ms).unwrap_or(0);
        position.rev == 0 || old_ms >= SETTLED_MS.min(marker_age_ms)
    }

    /// Stores the floor `seq`, unless another daemon has stored one meanwhile. It counts when the
    /// feed delivers it.
    pub async fn store(&self, bucket: &Bucket, seq: u64) -> Result<(), BucketError> {
        let (text, rev) = {
            let position = self.position();
            (encode(seq, &position.created), position.rev)
        };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, rev.to_string());
        bucket.put(KEY, headers, text.into()).await
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text stored for a floor at `seq` of the stream that was created at `created`.
fn encode(seq: u64, created: &str) -> Vec<u8> {
    let floor = StoredFloor { v: SCHEMA, created: created.to_owned(), seq };
    serde_json::to_vec(&floor).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(rev: u64, seq: u64, created: &str) -> Floor {
        let floor = Floor::default();
        floor.begin(created);
        floor.on_stored(rev, 1000, &encode(seq, "then"));
        floor
    }

    #[test]
    fn a_floor_counts_in_the_stream_that_it_was_stored_in() {
        assert_eq!(stored(9, 7, "then").seq(), 7);
        assert_eq!(stored(9, 7, "later").seq(), 0, "a copy has other sequences");
        assert_eq!(stored(5, 7, "then").seq(), 0, "it would be above itself");
    }

    #[test]
    fn the_newest_floor_counts() {
        let floor = stored(9, 7, "then");
        floor.on_stored(8, 900, &encode(3, "then"));
        assert_eq!(floor.seq(), 7);
        floor.begin("then");
        floor.on_stored(8, 900, &encode(3, "then"));
        assert_eq!(floor.seq(), 3);
    }

    #[test]
    fn a_floor_settles() {
        let floor = stored(9, 7, "then");
        assert!(!floor.is_settled(1500, 1000));
        assert!(floor.is_settled(2000, 1000));
        assert!(!floor.is_settled(2000, 86_400_000));
        assert!(floor.is_settled(301_000, 86_400_000));
        assert!(Floor::default().is_settled(0, 1000));
    }
}
