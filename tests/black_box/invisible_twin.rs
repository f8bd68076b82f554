//! The same history twice, once without what invisible users did: nobody else can tell the two
//! apart but by the times.

use std::collections::BTreeSet;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::wait::a_later_millisecond;
use crate::support::{Client, Stage};

const SEED: u64 = 7;
const USERS: usize = 8;
const STEPS: usize = 250;

/// One step, and whether it is hidden from others if its user is invisible.
struct Step {
    operation: &'static str,
    body: Value,
    hidden: bool,
}

fn step(rng: &mut Rng) -> (usize, Step) {
    let user = rng.usize(..USERS);
    let (id, connection) = (format!("u{user}"), format!("c{}", rng.usize(..3)));
    let named = json!({"user_id": id, "connection_id": connection});
    let (operation, body, hidden) = match rng.usize(..10) {
        0..4 => ("connect", json!({"user": {"id": id}, "connection_id": connection}), true),
        4..7 => ("disconnect", named, true),
        7 => ("heartbeat", named, true),
        8 => {
            let status = format!("s{}", rng.usize(..3));
            ("upsert_users", json!({"users": [{"id": id, "status": status}]}), false)
        }
        _ => ("upsert_users", json!({"users": [{"id": id, "mood": rng.u8(..3)}]}), false),
    };
    (user, Step { operation, body, hidden })
}

#[tokio::test]
async fn nobody_can_tell_a_history_from_the_same_without_hidden_deeds() {
    let (mut full, mut twin) = tokio::join!(Stage::start(NO_GRACE), Stage::start(NO_GRACE));
    let mut rng = Rng::with_seed(SEED);
    let mut invisible = BTreeSet::new();
    for n in 0..STEPS {
        let (user, step) = step(&mut rng);
        a_later_millisecond().await;
        full.client.get(step.operation, step.body.clone()).await;
        if !(step.hidden && invisible.contains(&user)) {
            twin.client.get(step.operation, step.body).await;
        }
        // Over time ever more users hide, and stay so.
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

/// What someone who is none of the users gets to see.
async fn views(client: &Client) -> Vec<Value> {
    let mut views = Vec::new();
    for query in [
        json!({}),
        json!({"filter": {"online": true}}),
        json!({"filter": {"online": false}, "sort": {"id": -1}, "limit": 3}),
        json!({"filter": {"last_active": {"$exists": true}}, "sort": {"last_active": -1}}),
        json!({"sort": [{"online": -1}, {"updated_at": 1}]}),
        json!({"sort": {"last_active": 1}, "limit": 2, "offset": 2}),
        json!({"filter": {"invisible": true}}),
        json!({"filter": {"invisible": {"$ne": true}}}),
        json!({"filter": {"status": {"$in": ["s0", "s1"]}}}),
    ] {
        for viewer in [None, Some("onlooker")] {
            let mut query = query.clone();
            query["presence"] = json!(true);
            if let Some(viewer) = viewer {
                query["as"] = json!(viewer);
            }
            views.push(without_times(client.get("query_users", query).await));
        }
    }
    views
}

/// Times and versions say only whether there is one.
fn without_times(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_times).collect(),
        Value::Object(members) => {
            let plain = |(name, value): (String, Value)| match name.as_str() {
                "created_at" | "updated_at" | "last_active" if !value.is_null() => {
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
