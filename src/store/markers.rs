//! The markers of deletions in the bucket, and what becomes of them. Pure.
//!
//! A server that is killed may bring back any older message of a key whose newest one has expired
//! or was purged. So a marker does not expire itself. When it has done its service and stands below
//! the [floor](super::floor), where a record that returns is not taken for one, a second marker is
//! written over it, and that one expires.

use std::collections::BTreeMap;

/// The number of markers handled at a time.
const MAX_DUE: usize = 1000;

/// The kinds of markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A marker that stands above a record, and stays.
    Lasting,
    /// A marker that expires, and stands above a record: older versions wrote such. Or a record
    /// that was deleted, and that a killed server brought back.
    Unsafe,
    /// A marker that expires, and stands above another marker.
    Last,
}

/// A marker that is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueMarker {
    pub seq: u64,
    pub subject: String,
    /// The kind of the marker by which it is to be replaced.
    pub next: Kind,
    /// The time for which it has been due, in milliseconds.
    pub late_ms: u64,
}

#[derive(Debug)]
struct Marker {
    subject: String,
    stored_ms: i64,
}

/// The markers of a bucket that are to be replaced some day, by their sequence.
#[derive(Debug, Default)]
pub struct Markers {
    lasting: BTreeMap<u64, Marker>,
    above_records: BTreeMap<u64, Marker>,
}

impl Markers {
    /// The feed delivered a message, which is a marker of that kind or none. It replaces the one
    /// at `before`.
    pub fn on_message(
        &mut self,
        seq: u64,
        subject: &str,
        stored_ms: i64,
        kind: Option<Kind>,
        before: u64,
    ) {
        self.lasting.remove(&before);
        self.above_records.remove(&before);
        let markers = match kind {
            Some(Kind::Lasting) => &mut self.lasting,
            Some(Kind::Unsafe) => &mut self.above_records,
            Some(Kind::Last) | None => return,
        };
        markers.insert(seq, Marker { subject: subject.to_owned(), stored_ms });
    }

    /// The stream is read from its beginning.
    pub fn clear(&mut self) {
        self.lasting.clear();
        self.above_records.clear();
    }

    /// The oldest markers that are to be replaced when JetStream's clock shows `stream_ms`: unsafe
    /// ones at once, others at `age_ms` if they stand below `floor`.
    pub fn due(&self, stream_ms: i64, age_ms: u64, floor: u64) -> Vec<DueMarker> {
        let old_ms = |marker: &Marker| u64::try_from(stream_ms - marker.stored_ms).unwrap_or(0);
        let due = |(seq, marker): (&u64, &Marker), next, late_ms| DueMarker {
            seq: *seq,
            subject: marker.subject.clone(),
            next,
            late_ms,
        };
        let above_records = self.above_records.iter();
        let above_records = above_records.map(|each| due(each, Kind::Lasting, old_ms(each.1)));
        // The oldest come first.
        let lasting = self.lasting.range(..floor).map_while(|each| {
            let late_ms = old_ms(each.1).checked_sub(age_ms)?;
            Some(due(each, Kind::Last, late_ms))
        });
        above_records.chain(lasting).take(MAX_DUE).collect()
    }

    /// The height that the floor needs for all markers of that age to be replaced. With it comes
    /// the time for which the oldest one that waits for it has been due, in milliseconds. `None` if
    /// none waits.
    pub fn floor_due(&self, stream_ms: i64, age_ms: u64, floor: u64) -> Option<(u64, u64)> {
        let late_ms = |marker: &Marker| {
            u64::try_from(stream_ms - marker.stored_ms).unwrap_or(0).checked_sub(age_ms)
        };
        let due = |(seq, marker): (&u64, &Marker)| Some((*seq, late_ms(marker)?));
        let mut waiting = self.lasting.range(floor..).map_while(due);
        let (first, late_ms) = waiting.next()?;
        let newest = waiting.last().map_or(first, |(seq, _)| seq);
        Some((newest + 1, late_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_followed_by_its_last_one_at_its_age() {
        let mut markers = Markers::default();
        markers.on_message(5, "a", 1000, Some(Kind::Lasting), 4);
        assert_eq!(markers.due(1999, 1000, 6), []);
        let last =
            |late_ms| DueMarker { seq: 5, subject: "a".to_owned(), next: Kind::Last, late_ms };
        assert_eq!(markers.due(2005, 1000, 6), [last(5)]);
        markers.on_message(6, "a", 2010, Some(Kind::Last), 5);
        assert_eq!(markers.due(9000, 1000, 9), []);
    }

    #[test]
    fn a_marker_that_is_old_enough_waits_for_the_floor() {
        let mut markers = Markers::default();
        for (seq, stored_ms) in [(5, 1000), (7, 1100), (9, 1900)] {
            markers.on_message(seq, "a", stored_ms, Some(Kind::Lasting), seq - 1);
        }
        assert_eq!(markers.floor_due(1999, 1000, 0), None);
        assert_eq!(markers.due(2150, 1000, 0), []);
        assert_eq!(markers.floor_due(2150, 1000, 0), Some((8, 150)));
        assert_eq!(markers.due(2150, 1000, 8).len(), 2);
        assert_eq!(markers.floor_due(2150, 1000, 8), None);
        assert_eq!(markers.floor_due(3000, 1000, 8), Some((10, 100)));
    }

    #[test]
    fn a_marker_that_would_expire_above_a_record_is_replaced_at_once() {
        let mut markers = Markers::default();
        markers.on_message(5, "a", 1000, Some(Kind::Unsafe), 4);
        assert_eq!(markers.due(1000, 9000, 0)[0].next, Kind::Lasting);
        markers.on_message(6, "a", 1010, Some(Kind::Lasting), 5);
        assert_eq!(markers.due(1010, 9000, 9), []);
    }

    #[test]
    fn a_record_that_is_made_again_has_no_marker() {
        let mut markers = Markers::default();
        markers.on_message(5, "a", 1000, Some(Kind::Lasting), 4);
        markers.on_message(6, "a", 1010, None, 5);
        assert_eq!(markers.due(i64::MAX, 0, 9), []);
    }
}
