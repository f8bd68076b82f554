//! The same history twice, once without what invisible users did: nobody else can tell the two
//! apart but by the times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::heart::Heart;
use crate::support::stage::NO_GRACE;
use crate::support::wait::a_later_millisecond;
use crate::support::{Client, Settings, Stage, eventually};

const SEED: u64 = 7;
const USERS: usize = 8;
const STEPS: usize = 250;

/// One step, and whether it is invisible from others if its user is invisible.
struct Step {
    operation: &'static str,
    body: Value,
    invisible: bool,
}

/// The ids of three connections of each user: one that has ended is not used again.
#[derive(Default)]
struct Connections(BTreeMap<(usize, usize), usize>);

impl Connections {
    fn id(&self, user: usize, slot: usize) -> String {
        format!("c{slot}-{}", self.0.get(&(user, slot)).unwrap_or(&0))
    }

    fn end(&mut self, user: usize, slot: usize) {
        *self.0.entry((user, slot)).or_default() += 1;
    }
}

fn step(rng: &mut Rng, connections: &mut Connections) -> (usize, Step) {
    let (user, slot) = (rng.usize(..USERS), rng.usize(..3));
    let (id, connection) = (format!("u{user}"), connections.id(user, slot));
    let named = json!({"user_id": id, "connection_id": connection});
    let (operation, body, invisible) = match rng.usize(..10) {
        0..4 => ("connect", json!({"user": {"id": id}, "connection_id": connection}), true),
        4..7 => {
            connections.end(user, slot);
            ("disconnect", named, true)
        }
        7 => ("heartbeat", named, true),
        8 => {
            let status = format!("s{}", rng.usize(..3));
            ("upsert_users", json!({"users": [{"id": id, "status": status}]}), false)
        }
        _ => ("upsert_users", json!({"users": [{"id": id, "mood": rng.u8(..3)}]}), false),
    };
    (user, Step { operation, body, invisible })
}

#[tokio::test]
async fn nobody_can_tell_a_history_from_the_same_without_invisible_actions() {
    let (mut full, mut twin) = tokio::join!(Stage::start(NO_GRACE), Stage::start(NO_GRACE));
    let mut rng = Rng::with_seed(SEED);
    let (mut invisible, mut connections) = (BTreeSet::new(), Connections::default());
    for n in 0..STEPS {
        let (user, step) = step(&mut rng, &mut connections);
        a_later_millisecond().await;
        full.client.get(step.operation, step.body.clone()).await;
        if !(step.invisible && invisible.contains(&user)) {
            twin.client.get(step.operation, step.body).await;
        }
        // Over time ever more users become invisible, and stay so.
        if n % 30 == 29 {
            let user = n / 30 % USERS;
            invisible.insert(user);
            let hide = json!({"users": [{"id": format!("u{user}"), "invisible": true}]});
            full.client.get("upsert_users", hide.clone()).await;
            twin.client.get("upsert_users", hide).await;
        }
        if n % 25 == 24 {
            assert_eq!(views(&full.client).await, views(&twin.client).await, "after step {n}");
        }
    }
    assert_eq!(invisible.len(), USERS);
    let events = |stage: &mut Stage| {
        let events: Vec<_> = stage.events.arrived().into_iter().map(|event| event.body).collect();
        assert!(events.len() > USERS);
        without_times(json!(events))
    };
    assert_eq!(events(&mut full), events(&mut twin), "seed {SEED}");
}

/// Silence lapses soon, and `last_active` is refreshed all the time.
const HASTY: Settings<'static> = &[
    ("LIVENESS__LEASE", "2s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ("LIVENESS__LAST_ACTIVE_REFRESH", "1s"),
    ("LIVENESS__OFFLINE_GRACE", "0s"),
];

/// Users who become invisible; the others are kept alive by their own heartbeats or by a gateway's.
const INVISIBLE: [&str; 4] = ["u4", "u5", "u6", "u7"];

/// The time for which they act while invisible: long enough for abandoned connections to lapse
/// several times.
const INVISIBLE_TIME: Duration = Duration::from_secs(8);

/// Connects all users, and makes those users invisible.
async fn begin(stage: &Stage) -> Vec<Heart> {
    let client = &stage.client;
    for (user, lease) in (0..USERS).map(|n| (format!("u{n}"), n % 2 == 1)) {
        let lease = if lease { json!("gateway") } else { Value::Null };
        let mut body = json!({"user": {"id": user, "status": "here"}, "connection_id": "c"});
        if !lease.is_null() {
            body["lease"] = lease;
        }
        client.get("connect", body).await;
    }
    for user in INVISIBLE {
        client.upsert(json!({"id": user, "invisible": true})).await;
    }
    let own = ["u0", "u2"].map(|user| Heart::of(client, user, "c"));
    own.into_iter().chain([Heart::of_lease(client, "gateway")]).collect()
}

/// Something while invisible: whatever connects here beats no more, or lapses with a lease that
/// nobody keeps alive, unless it beats once more or ends.
async fn invisible_action(client: &Client, rng: &mut Rng, connections: &mut Connections) {
    let (number, slot) = (rng.usize(..INVISIBLE.len()), rng.usize(..3));
    let (user, connection) = (INVISIBLE[number], connections.id(number, slot));
    let named = json!({"user_id": user, "connection_id": connection});
    let mut connect = json!({"user": {"id": user}, "connection_id": named["connection_id"]});
    match rng.usize(..10) {
        0..3 => client.get("connect", connect).await,
        3..6 => {
            connect["lease"] = json!(["gateway", "dead"][rng.usize(..2)]);
            client.get("connect", connect).await
        }
        6 => client.get("heartbeat", named).await,
        7 => {
            let mut update = named;
            update["idle"] = json!(rng.bool());
            update["device"] = json!(["desktop", "mobile"][rng.usize(..2)]);
            client.get("update_connection", update).await
        }
        _ => {
            connections.end(number, slot);
            client.get("disconnect", named).await
        }
    };
}

/// The number of connections of the invisible users, and their last activity as they see it.
async fn while_invisible(client: &Client) -> (usize, Vec<Value>) {
    let (mut connections, mut active) = (0, Vec::new());
    for user in INVISIBLE {
        let explained = client.get("explain", json!({"user_id": user})).await;
        connections += explained["connections"].as_array().unwrap().len();
        active.push(explained["record"]["last_active"].clone());
    }
    (connections, active)
}

#[tokio::test]
async fn nobody_can_tell_a_history_from_the_same_without_lapses_and_refreshes_of_invisible_users() {
    let (mut full, mut twin) = tokio::join!(Stage::start(HASTY), Stage::start(HASTY));
    let (mut hearts, mut twins_hearts) = tokio::join!(begin(&full), begin(&twin));
    let frozen = full.client.see_all(&INVISIBLE).await;
    let mut connections = Connections::default();
    let mut rng = Rng::with_seed(SEED);
    let (mut lapses, mut refreshes, start) = (0, 0, Instant::now());
    while start.elapsed() < INVISIBLE_TIME {
        for _ in 0..3 {
            invisible_action(&full.client, &mut rng, &mut connections).await;
        }
        let (before, active) = while_invisible(&full.client).await;
        // Those whom all see are there on both sides; what is compared does not depend on when.
        assert_eq!(
            steady_views(&full.client).await,
            steady_views(&twin.client).await,
            "seed {SEED}"
        );
        sleep(Duration::from_millis(300)).await;
        let (after, later) = while_invisible(&full.client).await;
        lapses += usize::from(after < before);
        refreshes += usize::from(later != active);
        assert_eq!(
            full.client.see_all(&INVISIBLE).await,
            frozen,
            "what is invisible moves nothing"
        );
    }
    assert!(lapses > 0 && refreshes > 0, "{lapses} lapses and {refreshes} refreshes were seen");
    // One of those whom all see falls silent on both sides, and lapses.
    hearts.remove(0);
    twins_hearts.remove(0);
    for stage in [&full, &twin] {
        eventually("who is silent lapses", Duration::from_secs(8), async || {
            let seen = stage.client.see_all(&["u0"]).await;
            (seen[0]["online"] == false).then_some(())
        })
        .await;
    }
    assert_eq!(steady_views(&full.client).await, steady_views(&twin.client).await, "seed {SEED}");
    assert_eq!(full.client.see_all(&INVISIBLE).await, frozen);
    let told = |stage: &mut Stage| {
        let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for event in stage.events.arrived() {
            told.entry(event.id).or_default().push(without_times(event.body));
        }
        told
    };
    assert_eq!(told(&mut full), told(&mut twin), "seed {SEED}");
}

/// The views of an outsider, who is none of the users.
async fn views(client: &Client) -> Vec<Value> {
    let by_activity = [
        json!({"filter": {"last_active": {"$exists": true}}, "sort": {"last_active": -1}}),
        json!({"sort": {"last_active": 1}, "limit": 2, "offset": 2}),
    ];
    [steady_views(client).await, answers(client, &by_activity).await].concat()
}

/// The same but for what depends on when those are refreshed whom all see.
async fn steady_views(client: &Client) -> Vec<Value> {
    let queries = [
        json!({}),
        json!({"filter": {"online": true}}),
        json!({"filter": {"online": false}, "sort": {"id": -1}, "limit": 3}),
        json!({"sort": [{"online": -1}, {"updated_at": 1}]}),
        json!({"filter": {"id": {"$in": INVISIBLE}}, "sort": {"last_active": 1}}),
        json!({"filter": {"invisible": true}}),
        json!({"filter": {"invisible": {"$ne": true}}}),
        json!({"filter": {"status": {"$in": ["s0", "s1", "here"]}}}),
    ];
    // A user who has never been made is a member, too.
    let members: Vec<_> = (0..=USERS).map(|n| format!("u{n}")).collect();
    let watch = json!({"type": "messaging", "id": "all", "data": {"members": members}});
    let channels = json!({"filter": {"members": {"$contains": "u0"}}});
    let mut views = answers(client, &queries).await;
    views.extend(seen_by_others(client, "watch_channel", &watch).await);
    views.extend(seen_by_others(client, "query_channels", &channels).await);
    views
}

async fn answers(client: &Client, queries: &[Value]) -> Vec<Value> {
    let mut views = Vec::new();
    for query in queries {
        views.extend(seen_by_others(client, "query_users", query).await);
    }
    views
}

/// The answers to a trusted service, and to someone who is none of the users.
async fn seen_by_others(client: &Client, operation: &str, body: &Value) -> Vec<Value> {
    let mut views = Vec::new();
    for viewer in [None, Some("onlooker")] {
        let mut body = body.clone();
        body["presence"] = json!(true);
        if let Some(viewer) = viewer {
            body["as"] = json!(viewer);
        }
        views.push(without_times(client.get(operation, body).await));
    }
    views
}

/// Times and versions say only whether there is one.
pub fn without_times(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_times).collect(),
        Value::Object(members) => {
            let plain = |(name, value): (String, Value)| match name.as_str() {
                "created_at" | "updated_at" | "last_active" | "offline_since"
                | "status_expires_at"
                    if !value.is_null() =>
                {
                    (name, json!("T"))
                }
                "version" => (name, json!(value != 0)),
                _ => (name, without_times(value)),
            };
            members.into_iter().map(plain).collect()
        }
        other => other,
    }
}
