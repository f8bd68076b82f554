//! `explain` says how things stand with each connection.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{LEASE, SHORT, connect_on};
use crate::support::events::assert_time;
use crate::support::{Client, Events, Pair, eventually};

fn at(time: &Value) -> i64 {
    assert_time(time);
    time.as_str().unwrap().parse::<DateTime<Utc>>().unwrap().timestamp_millis()
}

async fn explain(client: &Client, user: &str) -> Value {
    client.get("explain", json!({"user_id": user})).await
}

#[tokio::test]
async fn it_shows_lease_last_heard_lapse_and_who_acts() {
    let pair = Pair::start(SHORT).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "own").await;
    let on_lease = json!({"user": {"id": "john"}, "connection_id": "shared", "lease": "gw"});
    pair.one.get("connect", on_lease).await;
    connect_on(&pair.one, "gw", 1).await;
    assert_eq!(events.arrived().len(), 2);
    let heard = explain(&pair.one, "john").await;
    let connections = heard["connections"].as_array().unwrap();
    let named: Vec<_> =
        connections.iter().map(|each| (&each["connection_id"], &each["lease"])).collect();
    assert_eq!(named, [(&json!("own"), &Value::Null), (&json!("shared"), &json!("gw"))]);
    let lease_ms = i64::try_from(LEASE.as_millis()).unwrap();
    for each in connections {
        assert_eq!(at(&each["lapses_at"]) - at(&each["last_heard"]), lease_ms, "{each}");
    }
    pair.one.get("heartbeat", json!({"lease": "gw"})).await;
    eventually("the heartbeat is heard", LEASE, async || {
        let now = explain(&pair.one, "john").await;
        let shared = |of: &Value| at(&of["connections"][1]["last_heard"]);
        (shared(&now) > shared(&heard)).then_some(())
    })
    .await;
    assert_ne!(heard["seen_by"], explain(&pair.two, "john").await["seen_by"]);
    // Once they know each other, they agree on who acts.
    eventually("both name the same", 2 * LEASE, async || {
        let (one, two) = (explain(&pair.one, "john").await, explain(&pair.two, "john").await);
        let acts = |of: &Value| -> Vec<Value> {
            of["connections"].as_array().unwrap().iter().map(|each| each["acts"].clone()).collect()
        };
        let known = [&heard["seen_by"], &two["seen_by"]];
        (acts(&one) == acts(&two) && acts(&one).iter().all(|daemon| known.contains(&daemon)))
            .then_some(())
    })
    .await;
    assert_eq!(pair.one.refused("explain", json!({"user_id": "x"})).await.code, "user_not_found");
}

#[tokio::test]
async fn a_daemon_that_is_deaf_is_not_named_while_another_hears() {
    let lease = Duration::from_secs(6);
    let pair =
        Pair::start(&[("LIVENESS__LEASE", "6s"), ("LIVENESS__HEARTBEAT_INTERVAL", "1s")]).await;
    pair.one.upsert(json!({"id": "u0"})).await;
    for client in pair.clients() {
        eventually("it hears", 3 * lease, async || {
            explain(client, "u0").await["deaf"].is_null().then_some(())
        })
        .await;
    }
    pair.daemons[0].pause();
    sleep(Duration::from_millis(2500)).await;
    pair.daemons[0].resume();
    let users: Vec<_> = (0..16).map(|n| format!("u{n}")).collect();
    for user in &users {
        pair.two.connect_user(user, "c").await;
    }
    eventually("the one that hears is named by both", lease, async || {
        for client in pair.clients() {
            for user in &users {
                let of = client.attempt("explain", json!({"user_id": user}), lease).await?.ok()?;
                let hears = explain(&pair.two, user).await["seen_by"].clone();
                if of["connections"][0]["acts"] != hears {
                    return None;
                }
            }
        }
        (!explain(&pair.one, "u0").await["deaf"].is_null()).then_some(())
    })
    .await;
}
