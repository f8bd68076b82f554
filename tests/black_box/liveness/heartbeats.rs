//! Heartbeats and their answers.

use serde_json::{Value, json};

use super::{LATEST, LEASE, SHORT, all_offline, connect_on, unknown};
use crate::support::Stage;
use crate::support::heart::Heart;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn a_list_keeps_whom_it_names_and_nobody_else() {
    const USERS: usize = 30;
    let mut stage = Stage::start(SHORT).await;
    let mut named = Vec::new();
    let start = Instant::now();
    for n in 0..=USERS {
        let id = format!("user-{n}");
        stage.client.connect_user(&id, "c").await;
        named.push(json!({"user_id": id, "connection_id": "c"}));
    }
    assert_eq!(stage.events.arrived().len(), USERS + 1);
    named.pop();
    let _heart = Heart::beat(&stage.client, json!({"connections": named}));
    let gone = all_offline(&mut stage.events, 1, Instant::now() + LEASE + LATEST).await;
    assert_eq!(gone[0].0.id, format!("user-{USERS}"));
    assert!(gone[0].1 >= start + LEASE);
    stage.events.silent_for(2 * LEASE).await;
}

#[tokio::test]
async fn what_is_unknown_comes_back_and_a_lease_tells_what_it_holds() {
    let stage = Stage::start(SHORT).await;
    let client = &stage.client;
    connect_on(client, "gw", 3).await;
    client.connect_user("john", "c").await;
    let john = |connection: &str| json!({"user_id": "john", "connection_id": connection});
    assert_eq!(unknown(client, "john", "c").await, json!([]));
    assert_eq!(unknown(client, "john", "other").await, json!([john("other")]));
    let told = json!({"interval_ms": 1000, "lease_ms": 2000});
    let nobody = json!({"user_id": "nobody", "connection_id": "c"});
    let all = json!({"connections": [john("c"), nobody, john("x"), john("c")]});
    let answer = client.get("heartbeat", all).await;
    assert_eq!(answer, json!({"unknown": [nobody, john("x")], "heartbeat": told}));
    let lease = |name: &str| client.get("heartbeat", json!({"lease": name}));
    assert_eq!(lease("gw").await, json!({"unknown": [], "held": 3, "heartbeat": told}));
    assert_eq!(lease("other").await, json!({"unknown": ["other"], "held": 0, "heartbeat": told}));
    // A connection that changes its lease is held by the new one alone.
    let moved = json!({"user": {"id": "user-0"}, "connection_id": "c", "lease": "other"});
    client.get("connect", moved).await;
    assert_eq!(lease("gw").await, json!({"unknown": [], "held": 2, "heartbeat": told}));
    assert_eq!(lease("other").await, json!({"unknown": [], "held": 1, "heartbeat": told}));
    let ended = client.get("disconnect", json!({"lease": "gw"})).await;
    assert_eq!(ended["disconnected"], 2);
    assert_eq!(lease("gw").await, json!({"unknown": ["gw"], "held": 0, "heartbeat": told}));
}

#[tokio::test]
async fn one_for_a_single_connection_on_a_shared_lease_is_known_and_keeps_nothing() {
    let mut stage = Stage::start(SHORT).await;
    connect_on(&stage.client, "gw", 1).await;
    let connected = Instant::now();
    assert!(stage.events.only().online);
    assert_eq!(unknown(&stage.client, "user-0", "c").await, json!([]));
    let _heart = Heart::of(&stage.client, "user-0", "c");
    all_offline(&mut stage.events, 1, connected + LEASE + LATEST).await;
    let gone = json!([{"user_id": "user-0", "connection_id": "c"}]);
    assert_eq!(unknown(&stage.client, "user-0", "c").await, gone);
}

#[tokio::test]
async fn a_users_own_client_keeps_itself_through_the_second_door() {
    let mut stage = Stage::start(SHORT).await;
    let john = stage.client.of("john@example.com");
    john.get("connect", json!({"connection_id": "c"})).await;
    assert!(stage.events.only().online);
    let body = json!({"connection_id": "c"});
    assert_eq!(john.get("heartbeat", body.clone()).await["unknown"], json!([]));
    let heart = Heart::beat(&john, body);
    stage.events.silent_for(2 * LEASE).await;
    let last = heart.stop(&john).await;
    all_offline(&mut stage.events, 1, last + LEASE + LATEST).await;
}

#[tokio::test]
async fn connecting_again_is_a_sign_of_life_and_other_writes_are_none() {
    let mut stage = Stage::start(SHORT).await;
    for id in ["john", "jack"] {
        stage.client.connect_user(id, "c").await;
    }
    let start = Instant::now();
    assert_eq!(stage.events.arrived().len(), 2);
    let mut n = 0;
    while start.elapsed() < 2 * LEASE {
        n += 1;
        stage.client.connect_user("john", "c").await;
        stage.client.upsert(json!({"id": "jack", "mood": n})).await;
        sleep(LEASE / 10).await;
    }
    let gone = all_offline(&mut stage.events, 1, start + LEASE + LATEST).await;
    assert_eq!(gone[0].0.id, "jack");
}

#[tokio::test]
async fn a_flood_for_unknown_connections_costs_no_memory_and_no_writes() {
    const WARM_UP: usize = 40_000;
    const FLOOD: usize = 160_000;
    /// A trace of each would take more.
    const MOST_KIB: u64 = 8 * 1024;
    let stage = Stage::start(SHORT).await;
    flood(&stage, 0..WARM_UP).await;
    let (written, memory) = (stage.written().await, stage.daemon.memory_kib());
    flood(&stage, WARM_UP..WARM_UP + FLOOD).await;
    let grown = stage.daemon.memory_kib().saturating_sub(memory);
    assert!(grown < MOST_KIB, "the daemon grew by {grown} KiB");
    assert_eq!(stage.written().await, written);
}

/// Sends heartbeats for connections and leases that nobody has, no faster than they are heard.
async fn flood(stage: &Stage, numbers: std::ops::Range<usize>) {
    let client = &stage.client;
    for n in numbers {
        let body = match n % 2 {
            0 => json!({"user_id": format!("nobody-{n}"), "connection_id": format!("c-{n}")}),
            _ => json!({"lease": format!("no-gateway-{n}")}),
        };
        client.nats.publish(client.subject("heartbeat"), body.to_string().into()).await.unwrap();
        if n % 2000 == 0 {
            let unknown: Value = unknown(client, "nobody", "c").await;
            assert_eq!(unknown.as_array().unwrap().len(), 1);
        }
    }
}
