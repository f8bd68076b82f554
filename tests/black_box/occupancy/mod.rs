//! `channel.presence.changed`: announced counts of members online.

mod faults;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::Subscriber;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::channels::of;
use crate::support::client::barrier;
use crate::support::events::assert_time;
use crate::support::http::have_met;
use crate::support::stage::NO_GRACE;
use crate::support::wait::keys;
use crate::support::{Client, Pair, Server, token};

const INTERVAL: Duration = Duration::from_millis(500);

const TYPES: &str = "[channel_types.messaging]\noccupancy_interval = \"500ms\"\n";

/// The newest count is announced within this time, also if a daemon dies; two noisy cores.
const BOUND: Duration = Duration::from_millis(500 + 2000 + 1500);

/// Hears the announcements of all channels.
struct Counts {
    subscriber: Subscriber,
    versions: BTreeMap<String, u64>,
}

impl Counts {
    async fn hear(client: &Client) -> Self {
        let subject = "channel.presence.changed.>".to_owned();
        let subscriber = client.nats.subscribe(subject).await.unwrap();
        barrier(&client.nats).await;
        Self { subscriber, versions: BTreeMap::new() }
    }

    async fn next(&mut self) -> Value {
        let message = timeout(BOUND, self.subscriber.next()).await.expect("an announcement");
        self.read(&message.unwrap())
    }

    /// The next announcement, which may be older than one before, as two daemons may be heard in
    /// either order; and when it was made.
    async fn any(&mut self) -> Option<(SystemTime, Value)> {
        let message = timeout(BOUND, self.subscriber.next()).await.ok()??;
        let mut body: Value = serde_json::from_slice(&message.payload).unwrap();
        let at = humantime::parse_rfc3339(body["created_at"].as_str().unwrap()).unwrap();
        Some((at, body["channel"].take()))
    }

    fn read(&mut self, message: &async_nats::Message) -> Value {
        let mut body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(keys(&body), ["channel", "created_at", "type"].into(), "{body}");
        assert_eq!(body["type"], "channel.presence.changed");
        assert_time(&body["created_at"]);
        let channel = body["channel"].take();
        let fields = ["cid", "id", "member_count", "online_count", "type", "version"];
        assert_eq!(keys(&channel), fields.into(), "{channel}");
        let id = channel["id"].as_str().unwrap();
        assert_eq!(channel["cid"], format!("messaging:{id}"));
        let subject = format!("channel.presence.changed.messaging.{}", token(id));
        assert_eq!(message.subject.as_str(), subject);
        let version = channel["version"].as_u64().unwrap();
        let header = message.headers.as_ref().unwrap().get("Presence-Version").unwrap();
        assert_eq!(header.as_str(), version.to_string());
        let before = self.versions.insert(id.to_owned(), version);
        assert!(before.is_none_or(|before| before < version), "{before:?} before {channel}");
        channel
    }

    /// Waits until `channel` is announced with that count.
    async fn until(&mut self, id: &str, online: u64) -> Value {
        loop {
            let channel = self.next().await;
            if channel["id"] == id && channel["online_count"] == online {
                return channel;
            }
        }
    }

    async fn silent_for(&mut self, bound: Duration) {
        if let Ok(message) = timeout(bound, self.subscriber.next()).await {
            panic!("an announcement that should not be: {}", self.read(&message.unwrap()));
        }
    }
}

async fn pair() -> Pair {
    let settings = [NO_GRACE, &[("METRICS__LISTEN", "127.0.0.1:0")]].concat();
    Pair::with_file(Server::start().await, &settings, TYPES).await
}

#[tokio::test]
async fn a_count_is_announced_when_others_see_it_change_and_once() {
    let pair = pair().await;
    let mut counts = Counts::hear(&pair.one).await;
    pair.one.channel("a b", json!({"members": ["ann", "bob"]})).await;
    assert_eq!(counts.until("a b", 0).await["member_count"], 2);
    pair.one.connect_user("ann", "c").await;
    counts.until("a b", 1).await;
    pair.two.connect_user("bob", "c").await;
    counts.until("a b", 2).await;
    pair.two.disconnect("ann", "c").await;
    counts.until("a b", 1).await;
    counts.silent_for(4 * INTERVAL).await;
    pair.one.connect_user("bob", "another").await;
    pair.one.upsert(json!({"id": "bob", "status": "s", "availability": "busy"})).await;
    pair.one.connect_user("stranger", "c").await;
    counts.silent_for(2 * INTERVAL).await;
    pair.one.channel("a b", json!({"add_members": ["stranger"], "remove_members": ["ann"]})).await;
    assert_eq!(counts.until("a b", 2).await["member_count"], 2);
    pair.one.get("delete_users", json!({"ids": ["bob"]})).await;
    counts.until("a b", 1).await;
    pair.one.get("delete_channel", of("a b", json!({}))).await;
    assert_eq!(counts.until("a b", 0).await["member_count"], 0);
}

#[tokio::test]
async fn a_new_channel_is_announced_by_one_daemon_only() {
    let mut pair = pair().await;
    have_met(&mut pair.daemons).await;
    let mut counts = Counts::hear(&pair.one).await;
    for n in 0..10 {
        pair.two.channel(&format!("c{n}"), json!({"members": ["ann", "bob"]})).await;
    }
    for _ in 0..10 {
        assert_eq!(counts.next().await["online_count"], 0);
    }
    // Longer than the next daemon waits for the first.
    counts.silent_for(Duration::from_millis(2500)).await;
}

#[tokio::test]
async fn a_forged_count_is_not_taken_for_an_announcement() {
    let pair = pair().await;
    let mut counts = Counts::hear(&pair.one).await;
    pair.one.channel("c", json!({"members": ["ann"]})).await;
    counts.until("c", 0).await;
    let forged = |kind: &str, version: u64| {
        let channel = json!({"type": "messaging", "id": "c", "cid": "messaging:c",
            "online_count": 1, "member_count": 1, "version": version});
        json!({"type": kind, "created_at": "2026-01-01T00:00:00.000Z", "channel": channel})
    };
    let nats = &pair.one.nats;
    for (last, body) in [
        ("messaging.c", forged("channel.presence.changed", u64::MAX)),
        ("a.b", forged("channel.presence.changed", 4_000_000_000_000)),
        ("messaging.c", forged("another", 1)),
    ] {
        let subject = format!("channel.presence.changed.{last}");
        nats.publish(subject, body.to_string().into()).await.unwrap();
    }
    barrier(nats).await;
    for _ in 0..3 {
        counts.subscriber.next().await.unwrap();
    }
    pair.one.connect_user("ann", "c").await;
    counts.until("c", 1).await;
    counts.silent_for(4 * INTERVAL).await;
}

#[tokio::test]
async fn invisible_members_are_offline_to_a_count() {
    let pair = pair().await;
    let mut counts = Counts::hear(&pair.one).await;
    pair.one.channel("c", json!({"members": ["ann", "bob"]})).await;
    counts.until("c", 0).await;
    let unseen = json!({"user": {"id": "ann", "invisible": true}, "connection_id": "c"});
    pair.two.get("connect", unseen).await;
    pair.two.disconnect("ann", "c").await;
    pair.two.connect_user("ann", "d").await;
    counts.silent_for(2 * INTERVAL).await;
    pair.one.connect_user("bob", "c").await;
    counts.until("c", 1).await;
    pair.one.upsert(json!({"id": "bob", "invisible": true})).await;
    counts.until("c", 0).await;
    pair.one.upsert(json!({"id": "ann", "invisible": false})).await;
    counts.until("c", 1).await;
}

#[tokio::test]
async fn a_thousand_changes_cost_one_announcement_per_interval() {
    let pair = pair().await;
    let mut counts = Counts::hear(&pair.one).await;
    let ids: Vec<_> = (0..100).map(|n| format!("u{n}")).collect();
    pair.one.channel("c", json!({"members": ids})).await;
    counts.until("c", 0).await;
    let (start, mut changes) = (Instant::now(), 0);
    while start.elapsed() < 4 * INTERVAL {
        for op in ["connect", "disconnect"] {
            let ops = ids.iter().map(|id| match op {
                "connect" => {
                    json!({"op": op, "user": {"id": id}, "connection_id": format!("c{changes}")})
                }
                _ => json!({"op": op, "user_id": id, "connection_id": format!("c{changes}")}),
            });
            let ops: Vec<_> = ops.collect();
            pair.two.get("batch", json!({"ops": ops})).await;
        }
        changes += 1;
    }
    let spent = start.elapsed();
    pair.one.connect_user("u7", "last").await;
    let mut announced = 0;
    loop {
        announced += 1;
        let channel = counts.next().await;
        let last = pair.one.get("watch_channel", of("c", json!({"online_count": true}))).await;
        if channel["online_count"] == 1 && last["channel"]["online_count"] == 1 {
            break;
        }
    }
    counts.silent_for(4 * INTERVAL).await;
    let intervals = spent.as_millis() / INTERVAL.as_millis();
    assert!(changes > 2 && announced <= intervals + 3, "{announced} in {spent:?}, {changes}");
}

#[tokio::test]
async fn ten_thousand_members_at_a_thousand_changes_a_second_cost_one_announcement_per_interval() {
    const MEMBERS: usize = 10_000;
    const STEPS: usize = 30;
    /// The first step connects as many members, each later one another more, and it disconnects
    /// those of the step before.
    const FIRST: usize = 35;
    const STEP: Duration = Duration::from_millis(100);
    let pair = pair().await;
    let mut counts = Counts::hear(&pair.one).await;
    let ids: Vec<_> = (0..MEMBERS).map(|n| format!("u{n}")).collect();
    for some in ids.chunks(100) {
        pair.one.channel("c", json!({"add_members": some})).await;
    }
    while counts.any().await.expect("the count of all members").1["member_count"] != MEMBERS {}
    let ids_of = |step: usize| (0..FIRST + step).map(move |n| (step * 197 + n * 31) % MEMBERS);
    let start = Instant::now();
    for step in 0..STEPS {
        let connects = ids_of(step).map(|n| {
            let connection = format!("c{step}");
            json!({"op": "connect", "user": {"id": ids[n]}, "connection_id": connection})
        });
        let before = step.checked_sub(1);
        let disconnects = before.into_iter().flat_map(ids_of).map(|n| {
            let connection = format!("c{}", step - 1);
            json!({"op": "disconnect", "user_id": ids[n], "connection_id": connection})
        });
        let ops: Vec<_> = connects.chain(disconnects).collect();
        pair.clients()[step % 2].get("batch", json!({"ops": ops, "me": false})).await;
        tokio::time::sleep_until(start + STEP * (step as u32 + 1)).await;
    }
    let spent = start.elapsed();
    let watch = of("c", json!({"online_count": true, "presence": true}));
    let counted = pair.two.get("watch_channel", watch).await["channel"]["online_count"].take();
    assert_eq!(counted, FIRST + STEPS - 1);
    let mut announced: Vec<_> = Vec::new();
    while let Some(each) = counts.any().await {
        announced.push(each);
    }
    announced.sort_by_key(|(_, channel)| channel["version"].as_u64());
    let newest = &announced.last().expect("an announcement").1;
    assert_eq!((&newest["online_count"], &newest["member_count"]), (&counted, &json!(MEMBERS)));
    let pauses: Vec<_> = announced
        .windows(2)
        .map(|pair| pair[1].0.duration_since(pair[0].0).unwrap_or_default())
        .collect();
    let changes: usize =
        (0..STEPS).map(|step| 2 * (FIRST + step)).sum::<usize>() - (FIRST + STEPS - 1);
    println!("{changes} changes in {spent:?}: {} announcements", announced.len());
    let (least, most) = (INTERVAL - Duration::from_millis(50), BOUND);
    assert!(pauses.iter().all(|pause| (least..most).contains(pause)), "{pauses:?}");
}

#[tokio::test]
async fn a_presence_block_names_the_subject_of_the_count() {
    let pair = pair().await;
    pair.one.channel("a b", json!({"members": ["ann"]})).await;
    let subject = "channel.presence.changed.messaging.a=20b";
    let watched = pair.one.watch("a b").await;
    assert_eq!(watched["presence"]["occupancy_subject"], subject);
    let found = pair.one.get("query_channels", json!({"presence": true})).await;
    assert_eq!(found["channels"][0]["presence"]["occupancy_subject"], subject);
    assert!(found["presence"].get("occupancy_subject").is_none(), "that is of many channels");
    let other = json!({"type": "team", "id": "x", "presence": true});
    let other = pair.one.get("watch_channel", other).await;
    assert!(other["presence"].get("occupancy_subject").is_none(), "{other}");
}
