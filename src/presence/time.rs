//! Time as a value. The core never reads a clock: the caller hands it [`Now`].

use std::fmt;

use serde::{Deserialize, Serialize};

use chrono::{DateTime, Datelike, Timelike};

/// One reading of the clocks that a daemon knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on the daemon's own monotonic clock, from an arbitrary origin. All waiting is
    /// measured on it.
    pub mono_ms: u64,
    /// Milliseconds since 1970 on the wall clock. It may jump; it only ever becomes a time that
    /// people read.
    pub wall: Time,
    /// Milliseconds since 1970 on JetStream's clock, which all daemons share: what they must agree
    /// on goes by it.
    pub stream: Time,
}

impl Now {
    /// A reading by a daemon that knows nothing of JetStream's clock.
    pub fn local(mono_ms: u64, wall: Time) -> Self {
        Self { mono_ms, wall, stream: wall }
    }

    /// The later of the wall clock and `previous`: no time of a record moves backwards. A
    /// `previous` more than an hour ahead of JetStream's clock came from a broken clock, and counts
    /// as absent (`docs/protocol.md`, *Basics*).
    pub fn latest(self, previous: Option<Time>) -> Time {
        previous
            .filter(|previous| previous.counts_at(self.stream))
            .map_or(self.wall, |previous| previous.max(self.wall))
    }

    /// Returns whether the wall clock is more than an hour away from JetStream's.
    pub fn is_wrong(self) -> bool {
        self.wall.0.abs_diff(self.stream.0) > MAX_AHEAD_MS.unsigned_abs()
    }
}

/// The maximum lead over now of a time that counts, in milliseconds.
pub const MAX_AHEAD_MS: i64 = 3_600_000;

/// A wall-clock time in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub i64);

impl Time {
    /// The first and the last time that has four digits for its year. Others are moved into that
    /// range, so that a broken clock cannot make an answer that is no RFC 3339.
    const RANGE: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

    /// Reads any RFC 3339 time; finer digits than milliseconds are cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        Some(Self(time.timestamp_millis()))
    }

    /// Returns whether the time is no more than an hour ahead of `now`.
    pub fn counts_at(self, now: Self) -> bool {
        self.0 <= now.0.saturating_add(MAX_AHEAD_MS)
    }

    /// Appends the time as RFC 3339 in UTC with milliseconds (`2019-01-07T13:17:42.375Z`).
    pub fn push(self, out: &mut Vec<u8>) {
        let ms = self.0.clamp(Self::RANGE.0, Self::RANGE.1);
        // Every time within the range is one of chrono's.
        let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
        let mut text = *b"0000-00-00T00:00:00.000Z";
        // Digit by digit: chrono's own formatting costs more than the rest of an event.
        put_digits(&mut text[0..4], time.year().unsigned_abs());
        put_digits(&mut text[5..7], time.month());
        put_digits(&mut text[8..10], time.day());
        put_digits(&mut text[11..13], time.hour());
        put_digits(&mut text[14..16], time.minute());
        put_digits(&mut text[17..19], time.second());
        put_digits(&mut text[20..23], time.timestamp_subsec_millis());
        out.extend_from_slice(&text);
    }
}

/// Writes the last decimal digits of `number`, as many as fit.
fn put_digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(24);
        self.push(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_reads_as_in_the_protocol() {
        let time = Time::parse("2019-01-07T14:17:42.375999+01:00").unwrap();
        assert_eq!(time.to_string(), "2019-01-07T13:17:42.375Z");
    }

    #[test]
    fn a_clock_is_wrong_beyond_an_hour_either_way() {
        let now = |wall, stream| Now { mono_ms: 0, wall: Time(wall), stream: Time(stream) };
        assert!(!now(3_600_000, 0).is_wrong() && !now(0, 3_600_000).is_wrong());
        assert!(now(3_600_001, 0).is_wrong() && now(0, 3_600_001).is_wrong());
    }

    #[test]
    fn a_time_stays_unless_it_is_more_than_an_hour_ahead() {
        let latest = |previous, now| Now::local(0, Time(now)).latest(Some(Time(previous))).0;
        assert_eq!(latest(5, 7), 7);
        assert_eq!(latest(7, 5), 7);
        assert_eq!(latest(3_600_005, 5), 3_600_005);
        assert_eq!(latest(3_600_006, 5), 5);
        assert_eq!(Now::local(0, Time(5)).latest(None), Time(5));
        // A daemon that is half an hour behind does not take the time of one ahead for absent.
        let behind = Now { mono_ms: 0, wall: Time(0), stream: Time(1_800_000) };
        assert_eq!(behind.latest(Some(Time(4_200_000))), Time(4_200_000));
    }

    proptest! {
        #[test]
        fn writing_agrees_with_chrono(ms in Time::RANGE.0..=Time::RANGE.1) {
            let expected = chrono::DateTime::from_timestamp_millis(ms)
                .unwrap()
                .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            prop_assert_eq!(Time(ms).to_string(), expected);
        }
    }
}
