//! The queue of heartbeats that wait to be recorded, bounded in bytes.
//!
//! Moving a message here is cheap whatever it contains; recording it may not be.

use std::collections::VecDeque;

use async_nats::{Message, Subject};
use bytes::Bytes;

use super::heartbeat;

/// The bound on the queue, in bytes.
///
/// A release build records that much in less than half a second, a debug build in two, so that a
/// probe behind it is hardly late. It holds several hundred thousand connections in lists, or
/// ninety thousand single ones.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The memory of a message beside its text, in bytes.
const OVERHEAD_BYTES: usize = 256;

/// The bound on a batch, in bytes, unless a single message is longer. It holds some seven hundred
/// connections in a list, less than two milliseconds of a debug build.
const MAX_BATCH_BYTES: usize = 32 * 1024;

/// An unread message without its headers, which mean nothing here.
#[derive(Debug)]
pub struct QueuedHeartbeat {
    /// The index of its subscription.
    pub lane: usize,
    pub subject: Subject,
    pub reply: Option<Subject>,
    pub payload: Bytes,
    /// Its share of the bound, in bytes.
    size: usize,
}

/// Messages in the order of arrival.
#[derive(Debug, Default)]
pub struct HeartbeatQueue {
    queue: VecDeque<QueuedHeartbeat>,
    /// The sum of all sizes.
    bytes: usize,
}

/// The message does not fit, and is dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl HeartbeatQueue {
    /// Appends a message. One that is too long for a heartbeat is dropped without an error.
    pub fn push(&mut self, lane: usize, message: Message) -> Result<(), Full> {
        let Message { subject, reply, payload, length, .. } = message;
        if payload.len() > heartbeat::MAX_BYTES {
            return Ok(());
        }
        // With the headers, as the text of a message is one allocation.
        let size = length + OVERHEAD_BYTES;
        if self.bytes + size > MAX_BYTES {
            return Err(Full);
        }
        self.bytes += size;
        self.queue.push_back(QueuedHeartbeat { lane, subject, reply, payload, size });
        Ok(())
    }

    /// Removes the oldest messages, as many as make one batch.
    pub fn next_batch(&mut self) -> impl Iterator<Item = QueuedHeartbeat> + '_ {
        let mut bytes = 0;
        let fits = |message: &&QueuedHeartbeat| {
            let is_first = bytes == 0;
            bytes += message.size;
            is_first || bytes <= MAX_BATCH_BYTES
        };
        let count = self.queue.iter().take_while(fits).count();
        self.queue.drain(..count).inspect(|message| self.bytes -= message.size)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops all messages and frees their memory. Returns their number.
    pub fn clear(&mut self) -> usize {
        std::mem::take(self).queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, payload: usize) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: vec![b' '; payload].into(),
            headers: None,
            status: None,
            description: None,
            length: subject.len() + payload,
        }
    }

    fn filled(payload: usize) -> (HeartbeatQueue, usize) {
        let (mut queue, mut count) = (HeartbeatQueue::default(), 0);
        while queue.push(0, message("s", payload)).is_ok() {
            count += 1;
        }
        (queue, count)
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_whatever_its_length() {
        for payload in [0, 100, 45_000, 1024 * 1024] {
            let (queue, count) = filled(payload);
            let size = "s".len() + payload + OVERHEAD_BYTES;
            assert_eq!(count, MAX_BYTES / size, "of {payload}");
            assert_eq!(queue.queue.len(), count);
        }
    }

    #[test]
    fn headers_and_subjects_count_too() {
        let mut queue = HeartbeatQueue::default();
        let long = || Message { length: 1024 * 1024, ..message("s", 2) };
        let fit = (0..100).take_while(|_| queue.push(0, long()).is_ok()).count();
        assert_eq!(fit, MAX_BYTES / (1024 * 1024 + OVERHEAD_BYTES));
    }

    #[test]
    fn what_is_too_long_for_a_heartbeat_takes_no_place() {
        let mut queue = HeartbeatQueue::default();
        for _ in 0..100 {
            assert_eq!(queue.push(0, message("s", heartbeat::MAX_BYTES + 1)), Ok(()));
        }
        assert!(queue.is_empty());
        assert_eq!(queue.push(0, message("s", heartbeat::MAX_BYTES)), Ok(()));
        assert!(!queue.is_empty());
    }

    #[test]
    fn batches_are_short_lose_nothing_and_keep_the_order() {
        let mut queue = HeartbeatQueue::default();
        let lengths = [0, 10, 45_000, 2_000_000, 3, 20_000, 20_000, 100];
        let sent: Vec<_> = (0..400).map(|n| (n % 2, n, lengths[n * 7 % lengths.len()])).collect();
        let mut heard = Vec::new();
        for (lane, n, length) in &sent {
            while queue.push(*lane, message(&n.to_string(), *length)).is_err() {
                let batch: Vec<_> = queue.next_batch().collect();
                let bytes: usize = batch.iter().map(|message| message.size).sum();
                assert!(batch.len() == 1 || bytes <= MAX_BATCH_BYTES, "{bytes}");
                heard.extend(batch);
            }
        }
        while !queue.is_empty() {
            heard.extend(queue.next_batch());
        }
        assert_eq!(queue.next_batch().count(), 0);
        assert_eq!(queue.bytes, 0);
        let heard: Vec<_> = heard
            .iter()
            .map(|each| (each.lane, each.subject.parse().unwrap(), each.payload.len()))
            .collect();
        assert_eq!(heard, sent);
    }

    #[test]
    fn dropped_messages_leave_room() {
        let (mut queue, count) = filled(45_000);
        assert_eq!(queue.clear(), count);
        assert!(queue.is_empty());
        let again = (0..).take_while(|_| queue.push(1, message("s", 45_000)).is_ok()).count();
        assert_eq!(again, count);
    }
}
