//! A watcher, which holds every event to the protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::task::unconstrained;

use super::client::barrier;
use super::wait::{keys, within};
use super::{Client, token};

/// An event that did not come after so long will not come.
const EVENT_TIMEOUT: Duration = Duration::from_secs(8);

/// A listener to the events of some users.
pub struct Events {
    subscriber: Subscriber,
    /// The newest version of each user, where repeats are dropped.
    newest: Option<BTreeMap<String, u64>>,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub version: u64,
    pub online: bool,
    pub user: Value,
    pub body: Value,
}

impl Events {
    /// Hears the events of all users.
    pub async fn of_all(client: &Client) -> Self {
        Self::on(client, "user.presence.changed.>").await
    }

    pub async fn on(client: &Client, subject: &str) -> Self {
        let events = Self::unsettled(client, subject).await;
        barrier(&client.nats).await;
        events
    }

    /// For those who may not publish to themselves: the server may not know of it yet. Later
    /// requests over the same connection come after the subscription.
    pub async fn unsettled(client: &Client, subject: &str) -> Self {
        let subscriber = client.nats.subscribe(subject.to_owned()).await.unwrap();
        Self { subscriber, newest: None }
    }

    /// Drops events that are not newer than the known one, as a receiver must. Daemons that started
    /// together may each announce a change of the other once more.
    pub fn newer_only(self) -> Self {
        Self { newest: Some(BTreeMap::new()), ..self }
    }

    fn is_repeat(&mut self, event: &Event) -> bool {
        let Some(newest) = &mut self.newest else { return false };
        let known = newest.insert(event.id.clone(), event.version);
        known.is_some_and(|known| {
            newest.insert(event.id.clone(), known.max(event.version));
            known >= event.version
        })
    }

    pub async fn next(&mut self) -> Event {
        self.next_within(EVENT_TIMEOUT).await
    }

    pub async fn next_within(&mut self, bound: Duration) -> Event {
        within("the next event", bound, async {
            loop {
                let event = Event::read(&self.subscriber.next().await.unwrap());
                if !self.is_repeat(&event) {
                    return event;
                }
            }
        })
        .await
    }

    /// All that has arrived. A daemon publishes before it answers, and the server keeps the order
    /// of one daemon towards one connection. After an answer over the connection of this watcher,
    /// all that was to be published before it is here.
    pub fn arrived(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(Some(message)) = unconstrained(self.subscriber.next()).now_or_never() {
            let event = Event::read(&message);
            if !self.is_repeat(&event) {
                events.push(event);
            }
        }
        events
    }

    /// The only one that has arrived.
    pub fn only(&mut self) -> Event {
        let mut events = self.arrived();
        assert_eq!(events.len(), 1, "not one event: {events:?}");
        events.remove(0)
    }

    /// Waits for a while in which nothing may come.
    pub async fn silent_for(&mut self, while_: Duration) {
        if let Ok(event) = tokio::time::timeout(while_, self.next_within(2 * while_)).await {
            panic!("an event that should not be: {event:?}");
        }
    }
}

/// The newest event of each user: what is not newer than another is dropped.
pub fn latest(events: impl IntoIterator<Item = Event>) -> BTreeMap<String, Event> {
    let mut latest: BTreeMap<String, Event> = BTreeMap::new();
    for event in events {
        if latest.get(&event.id).is_none_or(|known| known.version < event.version) {
            latest.insert(event.id.clone(), event);
        }
    }
    latest
}

/// The user without what changes unannounced: when it was last active, and when its status ends.
pub fn announced(user: &Value) -> Value {
    let mut user = user.clone();
    for field in ["last_active", "status_expires_at"] {
        user.as_object_mut().unwrap().remove(field);
    }
    user
}

impl Event {
    fn read(message: &Message) -> Self {
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(keys(&body), ["created_at", "type", "user"].into(), "{body}");
        assert_eq!(body["type"], "user.presence.changed");
        assert_time(&body["created_at"]);
        let user = body["user"].clone();
        let id = user["id"].as_str().unwrap().to_owned();
        assert_eq!(message.subject.as_str(), format!("user.presence.changed.{}", token(&id)));
        assert_eq!(message.reply, None);
        let version = user["version"].as_u64().unwrap();
        let headers = message.headers.as_ref().unwrap();
        assert_eq!(headers.get("Presence-Version").unwrap().as_str(), version.to_string());
        assert!(user.get("invisible").is_none(), "{body}");
        for field in ["online", "status", "last_active"] {
            assert!(user.get(field).is_some(), "no {field}: {body}");
        }
        let online = user["online"].as_bool().unwrap();
        Self { id, version, online, user, body }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn assert_time(time: &Value) {
    let text = time.as_str().unwrap_or_else(|| panic!("no time: {time}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}
