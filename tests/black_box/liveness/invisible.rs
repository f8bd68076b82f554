//! Of what an invisible user does and what becomes of it, nobody else sees anything.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{LEASE, SHORT};
use crate::support::heart::Heart;
use crate::support::{Client, Events, Stage, eventually};

/// All that others can be answered, to the byte.
async fn public(client: &Client) -> Vec<Vec<u8>> {
    let bodies = [
        ("query_users", json!({"presence": true})),
        ("query_users", json!({"presence": true, "as": "jack", "sort": {"last_active": -1}})),
        ("query_users", json!({"presence": true, "filter": {"online": true}})),
        ("query_users", json!({"presence": true, "sort": [{"updated_at": 1}, {"status": -1}]})),
        (
            "watch_channel",
            json!({"type": "messaging", "id": "room", "data": {"members": ["jack", "john"]},
                   "presence": true}),
        ),
        ("query_channels", json!({"presence": true, "as": "jack"})),
    ];
    let mut answers = Vec::new();
    for (operation, body) in bodies {
        let answer = client.raw(client.subject(operation), body.to_string().into_bytes()).await;
        answers.push(answer.payload.to_vec());
    }
    answers
}

async fn connections(client: &Client) -> usize {
    let explained = client.get("explain", json!({"user_id": "john"})).await;
    explained["connections"].as_array().unwrap().len()
}

/// `jack` stays online all the time; `john` becomes invisible while connected.
async fn make_invisible(stage: &mut Stage) -> Heart {
    let client = &stage.client;
    client.connect_user("jack", "c").await;
    let heart = Heart::of(client, "jack", "c");
    let body = json!({"user": {"id": "john", "status": "s"}, "connection_id": "c"});
    client.get("connect", body).await;
    client.upsert(json!({"id": "john", "invisible": true})).await;
    assert_eq!(stage.events.arrived().len(), 3);
    heart
}

async fn lapses(client: &Client) {
    eventually("the connections of john lapse", 3 * LEASE, async || {
        (connections(client).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn not_that_it_lapses() {
    let mut stage = Stage::start(SHORT).await;
    let _jack = make_invisible(&mut stage).await;
    let before = public(&stage.client).await;
    lapses(&stage.client).await;
    assert_eq!(public(&stage.client).await, before);
    stage.events.silent_for(LEASE).await;
}

#[tokio::test]
async fn not_that_it_comes_beats_and_leaves_again() {
    let mut stage = Stage::start(SHORT).await;
    let _jack = make_invisible(&mut stage).await;
    let before = public(&stage.client).await;
    lapses(&stage.client).await;
    let client = &stage.client;
    client.connect_user("john", "again").await;
    let on_lease = json!({"user": {"id": "john"}, "connection_id": "shared", "lease": "gw"});
    client.get("connect", on_lease).await;
    assert_eq!(public(client).await, before);
    let heart = Heart::of(client, "john", "again");
    sleep(LEASE).await;
    assert_eq!(public(client).await, before);
    heart.stop(client).await;
    client.disconnect("john", "again").await;
    client.get("disconnect", json!({"lease": "gw"})).await;
    assert_eq!(connections(client).await, 0);
    assert_eq!(public(client).await, before);
    stage.events.silent_for(LEASE).await;
}

#[tokio::test]
async fn not_that_its_last_active_is_refreshed_which_it_sees_itself() {
    let settings = [SHORT, &[("LIVENESS__LAST_ACTIVE_REFRESH", "1s")]].concat();
    let stage = Stage::start(&settings).await;
    let client = &stage.client;
    let mut events = Events::on(client, "user.presence.changed.john").await;
    client.connect_user("john", "c").await;
    client.upsert(json!({"id": "john", "invisible": true})).await;
    assert_eq!(events.arrived().len(), 2);
    let _heart = Heart::of(client, "john", "c");
    let before = public(client).await;
    let own = |user: &serde_json::Value| user["last_active"].as_str().unwrap().to_owned();
    let mut seen = vec![own(&client.see_as("john", "john").await.unwrap())];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(public(client).await, before);
        seen.push(own(&client.see_as("john", "john").await.unwrap()));
        sleep(Duration::from_millis(200)).await;
    }
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    assert!(seen.len() > 3, "refreshed again and again: {seen:?}");
    assert_eq!(events.arrived().len(), 0);
}
