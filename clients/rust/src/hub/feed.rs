//! The subscription of one user.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Message, Subscriber};
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use crate::id::Id;

/// The events of one user, until the sender of `stopped` is dropped. `None` comes last when the
/// client of NATS has ended.
pub struct Feed {
    pub id: Id,
    pub subscriber: Subscriber,
    pub stopped: oneshot::Receiver<()>,
    pub ended: bool,
}

impl Stream for Feed {
    type Item = (Id, Option<Message>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if Pin::new(&mut self.stopped).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.subscriber.poll_next_unpin(context));
        self.ended = message.is_none();
        Poll::Ready(Some((self.id.clone(), message)))
    }
}
