//! The signals that async-nats gives only to its event callback: refused subjects and dropped
//! messages.

use std::future::Future;

use async_nats::{ConnectOptions, Event, ServerError};
use tokio::sync::broadcast;

/// Signals that are kept for a hub that is busy; the hub takes a loss for dropped messages.
const CAPACITY: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Signal {
    /// NATS refused to publish to, or to subscribe to, this subject.
    Denied(String),
    /// Messages were dropped, by NATS or on the way to the reader.
    Dropped,
}

/// Events of a connection, tapped on their way to the application's own callback.
///
/// Without it, refusals and dropped messages are found by the audit, minutes later.
#[derive(Debug, Clone)]
pub struct Signals(broadcast::Sender<Signal>);

impl Signals {
    /// Sets the event callback of `options`, which hands each event on to `callback`.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use presenced_client::{Service, Signals};
    /// let options = async_nats::ConnectOptions::new();
    /// let (options, signals) = Signals::tap(options, |event| async move { println!("{event}") });
    /// let nats = options.connect("nats://127.0.0.1:4222").await?;
    /// let presence = Service::builder(nats).signals(signals).build();
    /// # Ok(()) }
    /// ```
    pub fn tap<F, Fut>(options: ConnectOptions, callback: F) -> (ConnectOptions, Self)
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + Sync + 'static,
    {
        let (sender, _) = broadcast::channel(CAPACITY);
        let signals = Self(sender.clone());
        let options = options.event_callback(move |event| {
            if let Some(signal) = signal(&event) {
                // Without a receiver nobody needs it.
                let _ = sender.send(signal);
            }
            callback(event)
        });
        (options, signals)
    }

    pub(crate) fn none() -> Self {
        Self(broadcast::channel(1).0)
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Signal> {
        self.0.subscribe()
    }
}

fn signal(event: &Event) -> Option<Signal> {
    match event {
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            Some(Signal::Dropped)
        }
        Event::ServerError(ServerError::Other(text)) => denied(text).map(Signal::Denied),
        _ => None,
    }
}

/// The subject in `Permissions Violation for Publish to "subject"`; NATS has no other form of it.
fn denied(text: &str) -> Option<String> {
    if !text.to_ascii_lowercase().contains("permissions violation") {
        return None;
    }
    text.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        let text = "Permissions Violation for Subscription to \"user.presence.changed.jill\"";
        let event = Event::ServerError(ServerError::Other(text.to_owned()));
        let subject = "user.presence.changed.jill".to_owned();
        assert_eq!(signal(&event), Some(Signal::Denied(subject)));
        assert_eq!(signal(&Event::ServerError(ServerError::Other("other".to_owned()))), None);
    }
}
