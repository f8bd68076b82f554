//! The state of the stream as a daemon knows it, to be compared with the stream as it is. Pure.
//!
//! A stream may come back from a power cut or a backup without its newest messages, or be purged
//! while daemons run. Neither shows in the stream's creation time, nor in the feed. So the feed
//! remembers its newest messages, and counts the messages that the stream must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The number of messages remembered to recognise the stream by.
const WITNESSES: usize = 32;

/// The longest time after its expiry for which a message may still be there, in milliseconds of the
/// stream's clock.
const EXPIRY_MARGIN_MS: i64 = 300_000;

/// The longest time before its expiry for which a message may be gone. A larger margin would take a
/// purge for messages that expired.
const EARLY_EXPIRY_MS: i64 = 5000;

/// The time after its end for which the replica may know an expired message.
const FORGOTTEN_MS: i64 = 26 * 3_600_000;

/// The number of comparisons in a row that must find another number of messages.
const MISCOUNTS: u32 = 2;

/// The way in which the known stream was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    #[error("it was deleted and created again")]
    Replaced,
    #[error("it ends at sequence {last}, and {known} was known: its newest messages are lost")]
    Shorter { known: u64, last: u64 },
    #[error("message {seq} is not the one that was known: the newest messages were lost")]
    Other { seq: u64 },
    #[error("it holds {found} messages instead of {expected}: it was purged, or restored")]
    Miscounted { expected: u64, found: u64 },
    #[error("its leader holds older revisions of records than those that were known")]
    Older,
}

/// A message by which the stream is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    pub seq: u64,
    /// The time at which the stream stored it, in nanoseconds since 1970.
    pub time_ns: i64,
    pub subject: String,
    /// The time at which it expires, in milliseconds since 1970; `None` if never.
    pub expires_ms: Option<i64>,
}

/// The knowledge that the feed has of the stream.
#[derive(Debug)]
pub struct KnownStream {
    /// The newest messages that are the last of their subject, in order.
    witnesses: VecDeque<Witness>,
    /// The number of subjects with a message.
    messages: u64,
    /// Those among them that expire: when, in milliseconds since 1970, and their sequence.
    expiring: BTreeSet<(i64, u64)>,
    /// The time at which each of these expires.
    expiries: BTreeMap<u64, i64>,
    /// Those that have expired and do not count any more.
    expired: BTreeMap<u64, i64>,
    /// The stream's last sequence and number of messages, until the feed has come to that sequence.
    awaited: Option<(u64, u64)>,
    /// The number of messages by which the stream may differ: reading it again does not explain
    /// them. `None` if the next comparison is to find that out.
    unexplained: Option<i64>,
    miscounts: u32,
}

impl KnownStream {
    /// Nothing is known yet. If the stream is read again for its number of messages, the number
    /// that is found then is taken for right.
    pub fn new(loss: Option<&Loss>) -> Self {
        let is_miscounted = matches!(loss, Some(Loss::Miscounted { .. }));
        Self {
            witnesses: VecDeque::new(),
            messages: 0,
            expiring: BTreeSet::new(),
            expiries: BTreeMap::new(),
            expired: BTreeMap::new(),
            awaited: None,
            unexplained: (!is_miscounted).then_some(0),
            miscounts: 0,
        }
    }

    /// The feed delivered a message; `before` is the revision of its subject that it delivered
    /// before, or 0.
    pub fn on_message(&mut self, message: Witness, before: u64) {
        if before == 0 || self.expired.remove(&before).is_some() {
            self.messages += 1;
        } else {
            if let Some(at) = self.expiries.remove(&before) {
                self.expiring.remove(&(at, before));
            }
            self.witnesses.retain(|witness| witness.seq != before);
        }
        if let Some(at) = message.expires_ms {
            self.expiries.insert(message.seq, at);
            self.expiring.insert((at, message.seq));
        }
        if self.witnesses.len() == WITNESSES {
            self.witnesses.pop_front();
        }
        self.witnesses.push_back(message);
    }

    /// The messages by which the stream is recognised, the newest first.
    pub fn witnesses(&self) -> impl Iterator<Item = &Witness> {
        self.witnesses.iter().rev()
    }

    /// The stream held `messages` messages up to `last_seq`.
    pub fn on_info(&mut self, last_seq: u64, messages: u64) {
        self.awaited = Some((last_seq, messages));
    }

    /// All up to `position` was delivered, and nothing later. Compares with what the stream held
    /// there.
    pub fn compare(&mut self, position: u64, stream_ms: i64) -> Option<Loss> {
        let (seq, found) = self.awaited?;
        if position < seq {
            return None;
        }
        self.awaited = None;
        if position > seq {
            return None;
        }
        self.forget_expired(stream_ms);
        let may_be_gone = |at: &i64| *at - EARLY_EXPIRY_MS < stream_ms;
        let optional = self.expiring.iter().take_while(|(at, _)| may_be_gone(at)).count() as u64;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let surplus = signed(found) - signed(self.messages);
        let unexplained = *self.unexplained.get_or_insert(surplus);
        let is_explained = surplus <= unexplained && surplus + signed(optional) >= unexplained;
        self.miscounts = if is_explained { 0 } else { self.miscounts + 1 };
        let is_lost = self.miscounts >= MISCOUNTS;
        is_lost.then_some(Loss::Miscounted { expected: self.messages, found })
    }

    /// Counts no more what has expired.
    fn forget_expired(&mut self, stream_ms: i64) {
        while let Some((at, seq)) = self.expiring.first().copied()
            && at + EXPIRY_MARGIN_MS < stream_ms
        {
            self.expiring.remove(&(at, seq));
            self.expiries.remove(&seq);
            self.expired.insert(seq, at);
            self.messages -= 1;
        }
        while let Some(oldest) = self.expired.first_entry()
            && *oldest.get() + FORGOTTEN_MS < stream_ms
        {
            oldest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;

    fn message(seq: u64, expires: bool) -> Witness {
        let expires_ms = expires.then_some(DAY_MS);
        Witness { seq, time_ns: 0, subject: format!("s{seq}"), expires_ms }
    }

    fn compare(known: &mut KnownStream, seq: u64, messages: u64, stream_ms: i64) -> Option<Loss> {
        (0..MISCOUNTS).fold(None, |_, _| {
            known.on_info(seq, messages);
            known.compare(seq, stream_ms)
        })
    }

    #[test]
    fn a_stream_that_holds_fewer_or_more_messages_is_another() {
        let mut known = KnownStream::new(None);
        (1..=3).for_each(|seq| known.on_message(message(seq, false), 0));
        assert_eq!(compare(&mut known, 3, 3, 0), None);
        known.on_message(message(4, false), 2);
        assert_eq!(compare(&mut known, 4, 3, 0), None);
        let lost = |found| Some(Loss::Miscounted { expected: 3, found });
        assert_eq!(compare(&mut known, 4, 2, 0), lost(2));
        assert_eq!(compare(&mut known, 4, 4, 0), lost(4));
        assert_eq!(compare(&mut known, 4, 3, 0), None);
    }

    #[test]
    fn a_stream_is_compared_where_the_feed_is_exactly_there() {
        let mut known = KnownStream::new(None);
        known.on_message(message(1, false), 0);
        for _ in 0..MISCOUNTS {
            known.on_info(1, 1);
            assert_eq!(known.compare(1, 0), None);
        }
        known.on_info(3, 9);
        assert_eq!(known.compare(2, 0), None, "not there yet");
        assert_eq!(known.compare(4, 0), None, "past it");
        assert_eq!(known.miscounts, 0);
    }

    #[test]
    fn a_message_may_expire_about_when_it_says_and_one_that_says_nothing_never() {
        let mut known = KnownStream::new(None);
        known.on_message(message(1, false), 0);
        known.on_message(message(2, true), 0);
        assert_eq!(compare(&mut known, 2, 2, 0), None);
        assert!(compare(&mut known, 2, 1, 1000).is_some(), "too early");
        assert_eq!(compare(&mut known, 2, 1, DAY_MS), None);
        assert_eq!(compare(&mut known, 2, 2, DAY_MS), None);
        assert_eq!(compare(&mut known, 2, 1, DAY_MS * 2), None);
        assert!(compare(&mut known, 2, 0, DAY_MS * 2).is_some(), "the other one stays");
    }

    #[test]
    fn the_newest_message_of_each_subject_is_a_witness() {
        let mut known = KnownStream::new(None);
        for seq in 1..=40 {
            known.on_message(message(seq, false), 0);
        }
        known.on_message(message(41, false), 40);
        let seqs: Vec<_> = known.witnesses().map(|witness| witness.seq).collect();
        assert_eq!(seqs[..2], [41, 39]);
        assert_eq!(seqs.len(), WITNESSES);
    }
}
