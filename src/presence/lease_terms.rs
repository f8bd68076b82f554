//! The duration of a lease while daemons change it. Pure.
//!
//! A client sends heartbeats as often as it was told. So a shorter lease counts at once only for
//! connections that were told of it; the others have two of their old leases of time to learn it.
//! Daemons come and go meanwhile, so what was told is stored in the bucket, once for all.

use serde::{Deserialize, Serialize};

use super::agenda::RETRY_MS;
use super::heard::Heard;
use super::time::Time;

/// The schema number of the stored terms.
const SCHEMA: u32 = 1;

/// The lease given to clients where nothing is stored, in milliseconds: the default of the setting.
pub const DEFAULT_LEASE_MS: u64 = 60_000;

/// The number of leases within which a client has learned of another one: it asks for an answer at
/// least once per lease.
const LEARNED_AFTER_LEASES: u64 = 2;

/// The time after a change for which an answer may still tell the lease before it, in milliseconds:
/// the answer to a request that was under way, or of a daemon whose replica lags.
const UNDER_WAY_MS: u64 = 5000;

/// The stored terms of the lease of all connections of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    v: u32,
    /// The lease that connects are told, in milliseconds.
    lease_ms: u64,
    /// The longer one that was told before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longer: Option<Longer>,
}

/// A lease that connections may still go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Longer {
    lease_ms: u64,
    /// By JetStream's clock.
    until: Time,
}

/// The leases that count at a moment, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// For connections that connect now: the longest that the answer may have told.
    pub told_ms: u64,
    /// For those of whom it is not known what they were told.
    pub longest_ms: u64,
}

impl Longer {
    /// The time at which a shorter lease took its place.
    fn changed_at(&self) -> Time {
        Time(self.until.0.saturating_sub_unsigned(learning_ms(self.lease_ms)))
    }
}

/// The longest time that clients take to learn of another lease than this one, in milliseconds.
fn learning_ms(lease_ms: u64) -> u64 {
    lease_ms.saturating_mul(LEARNED_AFTER_LEASES)
}

impl LeaseTimes {
    /// One lease for all connections.
    pub fn of_all(lease_ms: u64) -> Self {
        Self { told_ms: lease_ms, longest_ms: lease_ms }
    }

    /// The lease of a connection.
    pub fn lease_ms(self, heard: Heard) -> u64 {
        let told_ms = heard.told_ms.map_or(self.longest_ms, |told| u64::from(told.get()));
        told_ms.clamp(self.told_ms, self.longest_ms.max(self.told_ms))
    }

    /// The time at which a connection that is not heard of again lapses.
    pub fn lapses_ms(self, heard: Heard) -> u64 {
        heard.at_ms.saturating_add(self.lease_ms(heard))
    }

    /// The time at which a daemon takes a connection for silent. The daemon acts `wait_ms` after
    /// the first, and has listened since `listens_from_ms`.
    pub fn silent_ms(self, heard: Heard, listens_from_ms: u64, wait_ms: u64) -> u64 {
        let heard_all_ms = listens_from_ms.saturating_add(self.lease_ms(heard));
        self.lapses_ms(heard).saturating_add(wait_ms).max(heard_all_ms)
    }

    /// The time for which a silent connection rests before it is taken for silent once more.
    pub fn retry_ms(self, heard: Heard) -> u64 {
        RETRY_MS.min(self.lease_ms(heard))
    }
}

impl Default for LeaseTerms {
    /// The terms in force where nothing is stored.
    fn default() -> Self {
        Self { v: SCHEMA, lease_ms: DEFAULT_LEASE_MS, longer: None }
    }
}

impl LeaseTerms {
    /// Reads stored terms; `None` if they cannot be read.
    pub fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The lease that connects are told, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// The leases that count when JetStream's clock shows `stream`.
    pub fn times(&self, stream: Time) -> LeaseTimes {
        let longer = self.longer.as_ref().filter(|longer| longer.until > stream);
        let longest_ms = longer.map_or(0, |longer| longer.lease_ms).max(self.lease_ms);
        let is_under_way = longer.is_some_and(|longer| {
            stream.0 < longer.changed_at().0.saturating_add_unsigned(UNDER_WAY_MS)
        });
        let told_ms = if is_under_way { longest_ms } else { self.lease_ms };
        LeaseTimes { told_ms, longest_ms }
    }

    /// Returns whether these follow on `former` by a change. Older ones, as a backup has them, do
    /// not know of a longer lease that clients go by.
    pub fn follows(&self, former: &Self, stream: Time) -> bool {
        self.times(stream).longest_ms >= former.times(stream).longest_ms
    }

    /// The terms that follow on `former` when connects are told `lease_ms` from `stream` on.
    pub fn changed(former: Option<&Self>, lease_ms: u64, stream: Time) -> Self {
        let longest_ms = former.map_or(0, |former| former.times(stream).longest_ms);
        let longer = (longest_ms > lease_ms).then(|| {
            let until = Time(stream.0.saturating_add_unsigned(learning_ms(longest_ms)));
            Longer { lease_ms: longest_ms, until }
        });
        Self { v: SCHEMA, lease_ms, longer }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn told(lease_ms: Option<u32>) -> Heard {
        Heard { told_ms: lease_ms.and_then(NonZeroU32::new), ..Heard::connected(0, None) }
    }

    #[test]
    fn a_shorter_lease_counts_at_once_for_those_who_were_told_and_later_for_the_others() {
        let long = LeaseTerms::changed(None, 60_000, Time(0));
        assert_eq!(long.times(Time(0)), LeaseTimes::of_all(60_000));
        let short = LeaseTerms::changed(Some(&long), 6000, Time(1000));
        let times = short.times(Time(120_999));
        assert_eq!(times.lease_ms(told(Some(60_000))), 60_000);
        assert_eq!(times.lease_ms(told(None)), 60_000);
        assert_eq!(times.lease_ms(told(Some(6000))), 6000);
        let times = short.times(Time(121_000));
        assert_eq!(times.lease_ms(told(Some(60_000))), 6000);
        assert_eq!(times.lease_ms(told(None)), 6000);
    }

    #[test]
    fn a_connect_that_was_under_way_when_the_lease_changed_may_have_been_told_the_longer_one() {
        let long = LeaseTerms::changed(None, 60_000, Time(0));
        let short = LeaseTerms::changed(Some(&long), 6000, Time(1000));
        let seen = |stream| told(u32::try_from(short.times(Time(stream)).told_ms).ok());
        let later = short.times(Time(100_000));
        assert_eq!(later.lease_ms(seen(5999)), 60_000);
        assert_eq!(later.lease_ms(seen(6000)), 6000);
    }

    #[test]
    fn terms_of_a_backup_do_not_follow_on_those_that_clients_were_told() {
        let backup = LeaseTerms::changed(None, 6000, Time(0));
        let long = LeaseTerms::changed(Some(&backup), 60_000, Time(1000));
        let short = LeaseTerms::changed(Some(&long), 6000, Time(2000));
        assert!(long.follows(&backup, Time(3000)) && short.follows(&long, Time(3000)));
        assert!(!backup.follows(&long, Time(3000)) && !backup.follows(&short, Time(3000)));
        assert!(backup.follows(&short, Time(122_000)), "all have learned it");
    }

    #[test]
    fn a_longer_lease_counts_at_once_for_all() {
        let short = LeaseTerms::changed(None, 6000, Time(0));
        let long = LeaseTerms::changed(Some(&short), 60_000, Time(0));
        assert_eq!(long.times(Time(0)).lease_ms(told(Some(6000))), 60_000);
    }

    #[test]
    fn a_second_change_does_not_end_the_time_to_learn_the_first() {
        let long = LeaseTerms::changed(None, 60_000, Time(0));
        let short = LeaseTerms::changed(Some(&long), 6000, Time(0));
        let middle = LeaseTerms::changed(Some(&short), 20_000, Time(100_000));
        assert_eq!(middle.times(Time(219_999)).longest_ms, 60_000);
        assert_eq!(middle.times(Time(220_000)).longest_ms, 20_000);
    }

    #[test]
    fn terms_are_read_as_they_were_written() {
        let long = LeaseTerms::changed(None, 60_000, Time(0));
        let short = LeaseTerms::changed(Some(&long), 6000, Time(5));
        for terms in [long, short] {
            assert_eq!(LeaseTerms::decode(&terms.encode()), Some(terms));
        }
        assert_eq!(LeaseTerms::decode(b"x"), None);
    }
}
