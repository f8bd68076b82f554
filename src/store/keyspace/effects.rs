//! The effects of the stripes on NATS, and the outcomes of their writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Keyspace, STRIPES, Ticket};
use crate::presence::entity::Entity;
use crate::store::bucket::BucketError;
use crate::store::context::StoreContext;
use crate::store::outbox::Message;
use crate::store::stripe::{Effect, Failure, Found};
use crate::store::wire;

/// The time-out of a verification, in milliseconds: longer than any command lives.
const VERIFY_TIMEOUT_MS: u64 = 60_000;

/// The outcome of a write, by its acknowledgement.
#[derive(Debug)]
pub(in crate::store) enum WriteOutcome {
    Stored(u64),
    Conflict,
    Failed(Failure),
}

impl<E: Entity> Keyspace<E> {
    /// Carries out one effect of a stripe.
    pub(super) fn carry_out(self: &Arc<Self>, stripe: usize, effect: Effect<E, Ticket<E>>) {
        match effect {
            Effect::Write { key, write, expected, content, visible, not_after_ms } => {
                let daemon = self.context.daemon.to_string();
                let (headers, payload) = wire::write(&daemon, expected, content, visible);
                self.context.writes.send(Message {
                    subject: format!(
                        "{}{}",
                        self.context.bucket.write_prefix(),
                        Self::tokens(&key)
                    ),
                    reply: Some(format!("{}.{}.{stripe}.{write}", self.context.ack_inbox, E::KIND)),
                    headers: Some(headers),
                    payload,
                    not_after_ms: Some(not_after_ms),
                });
            }
            Effect::Read { key, read } => {
                let this = Arc::clone(self);
                self.context.tracker.spawn(async move { this.read(stripe, key, read).await });
            }
            Effect::Verify { key, verify } => {
                let this = Arc::clone(self);
                // The commands that wait for it carry their own deadlines.
                let deadline_ms = self.context.now().mono_ms + VERIFY_TIMEOUT_MS;
                let all_stored = self.context.barrier.all_stored(deadline_ms);
                self.context.tracker.spawn(async move {
                    if all_stored.await.is_ok() {
                        this.drive(stripe, |stripe, now| stripe.on_verified(&key, verify, now));
                    }
                });
            }
            Effect::ChangeShared(change) => {
                E::apply(&mut self.shared(), &change, self.context.now());
            }
            Effect::Announce(event) => self.publish(event),
            // The receiver is gone only when its request is.
            Effect::Answer { ticket, result } => drop(ticket.send(result)),
            Effect::Lost { key, lost } => self.note_lost(key, lost),
            Effect::Suspect => self.context.suspicion.notify_one(),
            Effect::RemoteChange { key, by } => self.note_remote_change(key, by),
        }
    }

    async fn read(self: Arc<Self>, stripe: usize, key: E::Key, read: u64) {
        let found = match self.context.bucket.last(&self.subject(&key)).await {
            Ok(raw) => Found::Entry(self.entry(raw.seq, Some(&raw.headers), &raw.payload)),
            Err(BucketError::NoKey) => Found::Nothing,
            Err(error) => {
                tracing::debug!(%error, "a record could not be read");
                Found::Failed
            }
        };
        self.drive(stripe, |stripe, now| stripe.on_found(&key, read, found, now));
    }

    pub(super) fn subject(&self, key: &E::Key) -> String {
        format!("{}{}", self.context.bucket.prefix(), Self::tokens(key))
    }

    fn tokens(key: &E::Key) -> String {
        format!("{}.{}", E::KIND, E::tokens(key))
    }
}

/// Hands the outcome of a write to its stripe.
pub(in crate::store) fn settle<E: Entity>(
    keyspace: &Arc<Keyspace<E>>,
    stripe: usize,
    write: u64,
    outcome: WriteOutcome,
) {
    if stripe >= STRIPES {
        return;
    }
    let StoreContext { metrics, write_health, .. } = &*keyspace.context;
    match &outcome {
        WriteOutcome::Stored(rev) => {
            keyspace.context.acked.fetch_max(*rev, Ordering::Relaxed);
            write_health.on_stored();
            metrics.committed(E::KIND);
        }
        WriteOutcome::Conflict => {
            write_health.on_answered();
            metrics.conflicted(E::KIND);
        }
        WriteOutcome::Failed(Failure::Retry(reason)) => {
            if let Some(reason) = reason {
                write_health.on_refused(reason, keyspace.context.now());
            }
            metrics.retried(E::KIND);
        }
        WriteOutcome::Failed(Failure::Refused(_)) => write_health.on_answered(),
    }
    keyspace.drive(stripe, |stripe, now| match outcome {
        WriteOutcome::Stored(rev) => stripe.on_acked(write, rev, now),
        WriteOutcome::Conflict => stripe.on_conflicted(write, now),
        WriteOutcome::Failed(failure) => stripe.on_failed(write, &failure, now),
    });
}
