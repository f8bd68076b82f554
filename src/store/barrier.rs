//! The read barrier: waits until the replica has seen a revision, or all that is stored now.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use super::bucket::{Bucket, BucketError};
use crate::watchdog::WatchdogTap;

/// The pause after a query without a good answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The deadline of a wait passed before the replica had seen its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replica has not caught up in time")]
pub struct NotSeen;

/// A wait that ends when the replica has seen its revision, or at its deadline.
struct Waiter {
    seen: oneshot::Sender<Result<(), NotSeen>>,
    deadline_ms: u64,
}

impl Waiter {
    fn new(deadline_ms: u64) -> (Self, oneshot::Receiver<Result<(), NotSeen>>) {
        let (seen, receiver) = oneshot::channel();
        (Self { seen, deadline_ms }, receiver)
    }

    fn end(self, seen: Result<(), NotSeen>) {
        // The receiver is gone when its request is.
        let _ = self.seen.send(seen);
    }
}

/// The position of the replica, and the waiters for a later one.
#[derive(Default)]
pub struct Barrier {
    inner: Mutex<Inner>,
    wanted: Notify,
    /// Notified when a query finds another bucket than the one that is followed.
    pub replaced: Notify,
}

#[derive(Default)]
struct Inner {
    /// The creation time of the followed bucket.
    bucket: Option<String>,
    /// All revisions up to here are in the replica.
    position: u64,
    /// The last sequence of the stream, as last queried.
    stored: u64,
    /// Waiters that arrived after the last query began.
    unread: Vec<Waiter>,
    /// Waiters by the revision that they wait for.
    at: BTreeMap<u64, Vec<Waiter>>,
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        write!(f, "Barrier {{ position: {}, stored: {} }}", inner.position, inner.stored)
    }
}

impl Barrier {
    /// Waits until the replica has seen all that is stored at the time of the call, which need not
    /// be that of the first poll.
    ///
    /// # Errors
    /// At the deadline.
    pub fn all_stored(
        &self,
        deadline_ms: u64,
    ) -> impl Future<Output = Result<(), NotSeen>> + Send + use<> {
        let (waiter, seen) = Waiter::new(deadline_ms);
        self.lock().unread.push(waiter);
        self.wanted.notify_one();
        async move { seen.await.unwrap_or(Err(NotSeen)) }
    }

    /// Waits until the replica has seen revision `rev`.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn seen(&self, rev: u64, deadline_ms: u64) -> Result<(), NotSeen> {
        let seen = {
            let mut inner = self.lock();
            if inner.position >= rev {
                return Ok(());
            }
            let (waiter, seen) = Waiter::new(deadline_ms);
            inner.at.entry(rev).or_default().push(waiter);
            seen
        };
        seen.await.unwrap_or(Err(NotSeen))
    }

    /// The revision up to which the replica is complete.
    pub fn position(&self) -> u64 {
        self.lock().position
    }

    /// The last sequence of the stream as last queried, if there is a waiter for it.
    pub fn awaited(&self) -> Option<u64> {
        let inner = self.lock();
        let is_awaited = inner.at.range(..=inner.stored).next().is_some();
        (is_awaited && inner.stored > inner.position).then_some(inner.stored)
    }

    /// The replica has seen everything up to `position`.
    pub fn advance(&self, position: u64) {
        let ready = {
            let mut inner = self.lock();
            inner.position = inner.position.max(position);
            let position = inner.position;
            if inner.at.first_key_value().is_none_or(|(rev, _)| *rev > position) {
                return;
            }
            let later = inner.at.split_off(&(position + 1));
            std::mem::replace(&mut inner.at, later)
        };
        for waiter in ready.into_values().flatten() {
            waiter.end(Ok(()));
        }
    }

    /// The replica follows the bucket created at `created`.
    pub fn follow(&self, created: &str) {
        self.lock().bucket = Some(created.to_owned());
    }

    /// The creation time of the followed bucket, if one is followed.
    pub fn followed(&self) -> Option<String> {
        self.lock().bucket.clone()
    }

    /// The stream is replayed from its beginning.
    pub fn begin_again(&self) {
        let mut inner = self.lock();
        (inner.bucket, inner.position, inner.stored) = (None, 0, 0);
    }

    /// Fails waiters whose deadline has passed.
    pub fn expire(&self, now_ms: u64) {
        let mut late = Vec::new();
        {
            let mut inner = self.lock();
            let mut remove_late = |waiters: &mut Vec<Waiter>| {
                late.extend(waiters.extract_if(.., |waiter| waiter.deadline_ms <= now_ms));
                !waiters.is_empty()
            };
            remove_late(&mut inner.unread);
            inner.at.retain(|_, waiters| remove_late(waiters));
        }
        for waiter in late {
            waiter.end(Err(NotSeen));
        }
    }

    /// Queries the stream's last sequence for the waiters. One query at a time serves all that
    /// arrived before it began.
    pub async fn run(&self, bucket: Bucket, mut tap: WatchdogTap) {
        loop {
            tokio::select! {
                ping = tap.next() => {
                    ping.answer();
                    continue;
                }
                () = self.wanted.notified() => {}
            }
            loop {
                let waiters = std::mem::take(&mut self.lock().unread);
                if waiters.is_empty() {
                    break;
                }
                // The query has a time-out of its own.
                let answer = tap.during(|| true, bucket.info()).await;
                if !self
                    .on_last_seq(waiters, answer.map(|info| (info.created, info.state.last_seq)))
                {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Sorts the waiters of a query in by its answer. Returns whether there was a good one; without
    /// one the waiters wait for the next query.
    fn on_last_seq(
        &self,
        waiters: Vec<Waiter>,
        answer: Result<(String, u64), BucketError>,
    ) -> bool {
        let mut inner = self.lock();
        let last = match answer {
            Ok((created, last))
                if inner.bucket.as_ref() == Some(&created) && last >= inner.stored =>
            {
                last
            }
            other => {
                if !matches!(other, Err(BucketError::Timeout(_) | BucketError::Disconnected(_))) {
                    self.replaced.notify_one();
                }
                inner.unread.extend(waiters);
                return false;
            }
        };
        inner.stored = inner.stored.max(last);
        if inner.position < last {
            inner.at.entry(last).or_default().extend(waiters);
            return true;
        }
        drop(inner);
        for waiter in waiters {
            waiter.end(Ok(()));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
