//! The reasons for which the feed compares the bucket with what it knows, out of turn.

use crate::store::context::StoreContext;

/// A sign that the stream may not be what it was.
#[derive(Debug)]
pub(super) enum Doubt {
    /// A query of the last sequence met another bucket, or fewer messages.
    Replaced,
    /// A write met an older state of its key.
    Older,
    /// A connection was lost and made again.
    Reconnected,
}

/// Waits for the next doubt.
pub(super) async fn doubt(context: &StoreContext) -> Doubt {
    tokio::select! {
        () = context.barrier.replaced.notified() => Doubt::Replaced,
        () = context.suspicion.notified() => Doubt::Older,
        () = context.reconnected.notified() => Doubt::Reconnected,
    }
}
