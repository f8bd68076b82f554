//! The subscription of one user.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use crate::id::Id;

/// The events of one user, until the sender of `stopped` is dropped.
pub struct Feed {
    pub id: Id,
    pub subscriber: Subscriber,
    pub stopped: oneshot::Receiver<()>,
}

impl Stream for Feed {
    type Item = (Id, Message);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if Pin::new(&mut self.stopped).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let id = self.id.clone();
        self.subscriber.poll_next_unpin(context).map(|message| message.map(|message| (id, message)))
    }
}
