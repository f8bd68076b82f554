//! The same history twice, once without the actions of invisible users. The actions use all of rich
//! presence: devices, idleness, choices, statuses that end, early disconnects, defaults, counts and
//! erasing by a filter.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::invisible_twin::without_times;
use crate::support::channels::of;
use crate::support::client::barrier;
use crate::support::wait::a_later_millisecond;
use crate::support::{Client, Daemon, Events, Server, Settings, eventually};

const SETTINGS: Settings<'static> =
    &[("LIVENESS__OFFLINE_GRACE", "300ms"), ("USERS__ANNOUNCED_FIELDS", "mood")];

const TYPES: &str = "[channel_types.messaging]\noccupancy_interval = \"200ms\"\n";

const VISIBLE: [&str; 3] = ["ann", "bob", "cid"];
const INVISIBLE: [&str; 3] = ["x", "y", "z"];
const ROUNDS: usize = 6;

/// Graces and statuses end, and counts are announced.
const SETTLED: Duration = Duration::from_secs(8);

/// An announcement that did not come after five intervals will not come.
const NO_MORE_COUNTS: Duration = Duration::from_secs(1);

/// One of the two cells.
struct Side {
    client: Client,
    events: Events,
    counts: Subscriber,
    _daemon: Daemon,
    _server: Server,
}

impl Side {
    async fn start() -> Self {
        let server = Server::start().await;
        let mut daemon = Daemon::launch_with_file(&server.url(), SETTINGS, TYPES);
        daemon.ready(&server).await;
        let client = Client::connect(&server).await;
        let events = Events::of_all(&client).await;
        let counts = client.nats.subscribe("channel.presence.changed.>").await.unwrap();
        barrier(&client.nats).await;
        for user in [VISIBLE, INVISIBLE].concat() {
            let device = json!("desktop");
            let user = json!({"id": user, "mood": 0});
            let connect = json!({"user": user, "connection_id": "first", "device": device});
            client.get("connect", connect).await;
        }
        for user in INVISIBLE {
            client.upsert(json!({"id": user, "invisible": true})).await;
        }
        let members = [VISIBLE, INVISIBLE].concat();
        client.channel("all", json!({"members": members})).await;
        client.channel("unseen", json!({"members": INVISIBLE})).await;
        Self { client, events, counts, _daemon: daemon, _server: server }
    }

    /// The actions common to both histories: visible changes, and settings of invisible users.
    async fn visible_actions(&self, round: usize) {
        let client = &self.client;
        let (user, connection) = (VISIBLE[round % 3], format!("c{round}"));
        let device = ["mobile", "web"][round % 2];
        let connect = json!({"user": {"id": user}, "connection_id": connection, "device": device});
        client.get("connect", connect).await;
        let idle =
            json!({"user_id": user, "connection_id": "first", "idle": round.is_multiple_of(2)});
        client.get("update_connection", idle).await;
        let choice = ["busy", "away", "auto"][round / 2];
        client.upsert(json!({"id": user, "availability": choice})).await;
        client.disconnect(user, &connection).await;
        for user in INVISIBLE {
            a_later_millisecond().await;
            let choice = ["away", "busy"][round % 2];
            client.upsert(json!({"id": user, "availability": choice})).await;
            client.upsert(json!({"id": user, "hide_last_active": round.is_multiple_of(3)})).await;
            client.upsert(json!({"id": user, "mood": round})).await;
            let end = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
                + chrono::TimeDelta::seconds(1);
            let status =
                json!({"id": user, "status": "brb", "status_expires_at": end.to_rfc3339()});
            client.upsert(status).await;
        }
    }

    /// The actions of invisible users. Nobody else can tell.
    async fn invisible_actions(&self, round: usize) {
        let client = &self.client;
        for user in INVISIBLE {
            let id = |n: usize| json!(format!("h{round}-{n}"));
            let early = json!({"user_id": user, "connection_id": id(0)});
            client.get("disconnect", early).await;
            let defaults = json!({"mood": 99, "status": "never"});
            let connect = |n: usize, device: &str| {
                json!({"user": {"id": user}, "defaults": defaults, "connection_id": id(n),
                       "device": device, "idle": n == 1})
            };
            client.get("connect", connect(0, "watch")).await;
            client.get("connect", connect(1, "mobile")).await;
            client.get("connect", connect(2, "tv")).await;
            let idle = json!({"user_id": user, "connection_id": id(2), "idle": true});
            client.get("update_connection", idle).await;
            let leaves = json!({"user_id": user, "connection_id": id(1), "grace_ms": 400});
            client.get("disconnect", leaves).await;
            let beat = json!({"user_id": user, "connection_id": id(2)});
            client.get("heartbeat", beat.clone()).await;
            if round.is_multiple_of(2) {
                client.get("disconnect", beat).await;
            }
        }
    }

    /// The views of an outsider, who is none of the users.
    async fn views(&self) -> Value {
        let filters = [
            json!({}),
            json!({"online": true}),
            json!({"online": false}),
            json!({"availability": "offline"}),
            json!({"availability": {"$in": ["away", "busy"]}}),
            json!({"devices": {"$in": ["desktop", "mobile", "tv", "watch"]}}),
            json!({"devices": {"$exists": false}}),
            json!({"last_active": {"$exists": true}}),
            json!({"offline_since": {"$exists": true}}),
            json!({"status": {"$exists": true}}),
            json!({"mood": {"$gte": 1}}),
            json!({"invisible": true}),
            json!({"invisible": {"$ne": true}}),
        ];
        let mut views = Vec::new();
        for filter in filters {
            let count = json!({"filter": filter, "presence": true});
            views.push(self.client.get("count_users", count).await);
            let sort = json!([{"availability": 1}, {"offline_since": -1}, {"last_active": -1}]);
            let query = json!({"filter": filter, "sort": sort, "presence": true});
            views.push(self.client.get("query_users", query).await);
        }
        for channel in ["all", "unseen"] {
            let watch = of(channel, json!({"online_count": true, "presence": true}));
            views.push(self.client.get("watch_channel", watch).await);
        }
        let channels = json!({"online_count": true, "presence": true, "sort": {"cid": 1}});
        views.push(self.client.get("query_channels", channels).await);
        without_times(json!(views))
    }

    /// The counts that were announced of the channel of invisible users, and the last of the other,
    /// when no more come.
    async fn announced(&mut self) -> (Vec<Value>, Value) {
        let (mut unseen, mut all) = (Vec::new(), Value::Null);
        while let Ok(Some(message)) = timeout(NO_MORE_COUNTS, self.counts.next()).await {
            let mut body: Value = serde_json::from_slice(&message.payload).unwrap();
            let channel = without_times(body["channel"].take());
            match channel["id"].as_str() {
                Some("unseen") => unseen.push(channel),
                _ => all = channel,
            }
        }
        (unseen, all)
    }

    /// The events of each user, in their order.
    fn told(&mut self) -> BTreeMap<String, Vec<Value>> {
        let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for event in self.events.arrived() {
            told.entry(event.id).or_default().push(without_times(event.body));
        }
        told
    }
}

#[tokio::test]
async fn nobody_can_tell_what_invisible_users_do_with_rich_presence() {
    let (mut full, mut twin) = tokio::join!(Side::start(), Side::start());
    for round in 0..ROUNDS {
        full.invisible_actions(round).await;
        tokio::join!(full.visible_actions(round), twin.visible_actions(round));
        full.invisible_actions(round + ROUNDS).await;
        let device = ["mobile", "web"][round % 2];
        for side in [&full, &twin] {
            eventually("statuses and graces have ended", SETTLED, async || {
                let left = json!({"filter": {"$or": [{"status": {"$exists": true}},
                    {"devices": {"$contains": device}}]}, "presence": true});
                (side.client.get("count_users", left).await["count"] == 0).then_some(())
            })
            .await;
        }
        assert_eq!(full.views().await, twin.views().await, "round {round}");
    }
    // One is erased by what others see of it.
    let mood = json!({"filter": {"mood": ROUNDS - 1, "id": "z"}});
    for side in [&full, &twin] {
        assert_eq!(side.client.get("delete_users", mood.clone()).await["deleted"], json!(["z"]));
    }
    let (announced, twins) = tokio::join!(full.announced(), twin.announced());
    assert_eq!(full.views().await, twin.views().await);
    assert_eq!(announced, twins);
    assert!(announced.0.len() <= 2, "one after it was made, one by a start: {announced:?}");
    assert_eq!(full.told(), twin.told());
}
