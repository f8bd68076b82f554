//! The statements of `docs/history.md`: streams over the events, replay, and what a webhook reads.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Pair, eventually, token, within};

const READ: Duration = Duration::from_secs(20);

fn history() -> Config {
    Config {
        name: "PRESENCE_HISTORY".to_owned(),
        subjects: vec!["user.presence.changed.*".to_owned()],
        max_age: Duration::from_secs(30 * 24 * 3600),
        ..Config::default()
    }
}

async fn keep(client: &Client, config: Config) -> Stream {
    jetstream::new(client.nats.clone()).create_stream(config).await.unwrap()
}

async fn reader(stream: &Stream, config: pull::Config) -> PullConsumer {
    stream.create_consumer(config).await.unwrap()
}

/// Reads so many messages, each acknowledged.
async fn read(consumer: &PullConsumer, count: usize) -> Vec<Value> {
    let read = async {
        let mut messages = consumer.messages().await.unwrap();
        let mut events = Vec::new();
        while events.len() < count {
            let message = messages.next().await.unwrap().unwrap();
            message.ack().await.unwrap();
            events.push(event(&message));
        }
        events
    };
    within("all that is kept", READ, read).await
}

fn event(message: &Message) -> Value {
    let event: Value = serde_json::from_slice(&message.payload).unwrap();
    let version = message.headers.as_ref().unwrap().get("Presence-Version").unwrap();
    assert_eq!(event["user"]["version"].to_string(), version.as_str());
    event
}

/// The state of a reader who drops events that are not newer.
fn newest(events: &[Value]) -> BTreeMap<String, Value> {
    let mut newest: BTreeMap<String, Value> = BTreeMap::new();
    for user in events.iter().map(|event| &event["user"]) {
        let known = newest.entry(user["id"].as_str().unwrap().to_owned()).or_default();
        if user["version"].as_u64() > known["version"].as_u64() {
            *known = user.clone();
        }
    }
    newest
}

/// A day of comings and goings through both daemons: how many changes others saw.
async fn day(pair: &Pair, users: usize, hours: usize) -> usize {
    let mut changes = 0;
    for hour in 0..hours {
        for user in 0..users {
            let client = pair.clients()[(user + hour) % 2];
            let (id, connection) = (format!("u{user}"), format!("c{hour}"));
            client.connect_user(&id, &connection).await;
            client.upsert(json!({"id": id, "status": format!("at {hour}")})).await;
            client.disconnect(&id, &connection).await;
            changes += 3;
        }
    }
    changes
}

#[tokio::test]
async fn a_days_changes_are_replayed_in_order_and_end_at_what_is_true() {
    let pair = Pair::start(NO_GRACE).await;
    let stream = keep(&pair.one, history()).await;
    let morning = day(&pair, 10, 12).await;
    let noon = SystemTime::now();
    let evening = day(&pair, 10, 12).await;
    pair.one.get("delete_users", json!({"ids": ["u9"]})).await;

    let all = pull::Config { ack_policy: AckPolicy::Explicit, ..pull::Config::default() };
    let events = read(&reader(&stream, all).await, morning + evening + 1).await;
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for user in events.iter().map(|event| &event["user"]) {
        let (id, version) = (user["id"].as_str().unwrap(), user["version"].as_u64().unwrap());
        // Each request was answered before the next was sent, so the order is that of the versions.
        assert!(last.insert(id, version).is_none_or(|before| before < version), "{user}");
    }
    let newest = newest(&events);
    for n in 0..9 {
        let id = format!("u{n}");
        assert_eq!(Some(&newest[&id]), pair.two.see(&id).await.as_ref());
    }
    assert_eq!(pair.two.see("u9").await, None);
    assert!(newest["u9"].get("created_at").is_none(), "the end of a user");

    let start_time = noon.into();
    let since_noon = pull::Config {
        deliver_policy: DeliverPolicy::ByStartTime { start_time },
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = reader(&stream, since_noon).await;
    let replayed = read(&consumer, evening + 1).await;
    assert_eq!(replayed, events[morning..]);
    pair.one.connect_user("u0", "after").await;
    assert_eq!(read(&consumer, 1).await[0]["user"]["online"], true, "it follows on");
}

#[tokio::test]
async fn the_last_change_of_each_user_is_what_a_query_says() {
    let pair = Pair::start(NO_GRACE).await;
    let name = "PRESENCE_LAST".to_owned();
    let config = Config { name, max_messages_per_subject: 1, max_age: Duration::ZERO, ..history() };
    let mut stream = keep(&pair.one, config).await;
    day(&pair, 5, 3).await;
    pair.one.connect_user("a b", "c").await;
    let unseen = json!({"user": {"id": "u0", "invisible": true}, "connection_id": "unseen"});
    pair.one.get("connect", unseen).await;
    assert_eq!(stream.info().await.unwrap().state.messages, 6, "one of each");
    let cache = pull::Config {
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: "user.presence.changed.*".to_owned(),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let known = newest(&read(&reader(&stream, cache).await, 6).await);
    for (id, user) in &known {
        assert_eq!(Some(user), pair.two.see(id).await.as_ref());
    }
    assert_eq!(known["u0"]["online"], false, "an invisible user is one who left");
    let subject = format!("user.presence.changed.{}", token("a b"));
    stream.purge().filter(subject).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 5, "erased from the history");
}

#[tokio::test]
async fn what_a_webhook_has_not_acknowledged_comes_again() {
    let pair = Pair::start(NO_GRACE).await;
    let mut stream = keep(&pair.one, history()).await;
    pair.one.connect_user("before", "c").await;
    eventually("the event is stored", READ, async || {
        (stream.info().await.unwrap().state.messages == 1).then_some(())
    })
    .await;
    let config = pull::Config {
        durable_name: Some("webhook".to_owned()),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_millis(500),
        ..pull::Config::default()
    };
    let webhook = reader(&stream, config).await;
    pair.two.connect_user("ann", "c").await;
    let again = async {
        let mut messages = webhook.messages().await.unwrap();
        let first = event(&messages.next().await.unwrap().unwrap());
        // The post failed: nothing is acknowledged.
        let second = messages.next().await.unwrap().unwrap();
        second.ack().await.unwrap();
        assert_eq!(first, event(&second));
        first
    };
    let event = within("the same change again", READ, again).await;
    assert_eq!(event["user"]["id"], "ann", "what was before the webhook is not posted");
    pair.two.disconnect("ann", "c").await;
    assert_eq!(read(&webhook, 1).await[0]["user"]["online"], false);
}
