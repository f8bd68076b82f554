//! A daemon that may have missed heartbeats ends no lease until it has listened for a whole one.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{AFTER_A_FAULT, LATEST, LEASE, SHORT, all_offline};
use crate::support::heart::Heart;
use crate::support::server::Options;
use crate::support::{Client, Server, Stage, eventually};

async fn deaf(client: &Client) -> Option<String> {
    let explained = client.get("explain", json!({"user_id": "john"})).await;
    explained["deaf"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_new_one_is_deaf_for_a_lease_and_says_why() {
    let stage = Stage::start(SHORT).await;
    let start = Instant::now();
    stage.client.connect_user("john", "c").await;
    let _heart = Heart::of(&stage.client, "john", "c");
    let why = deaf(&stage.client).await;
    assert_eq!(why.as_deref(), Some("it has just started to listen"));
    eventually("it hears", LEASE + LATEST, async || {
        deaf(&stage.client).await.is_none().then_some(())
    })
    .await;
    assert!(start.elapsed() > LEASE / 2);
}

#[tokio::test]
async fn a_slow_consumer_is_deaf_and_shows_nobody_offline() {
    // The server cuts off who leaves so little unread.
    let config = "max_payload: 65536\nmax_pending: 300000\n".to_owned();
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let mut stage = Stage::on(server, SHORT).await;
    let client = stage.client.clone();
    client.connect_user("john", "c").await;
    assert!(stage.events.only().online);
    let heart = Heart::of(&client, "john", "c");
    eventually("it hears", LEASE + LATEST, async || deaf(&client).await.is_none().then_some(()))
        .await;
    let flooder = stage.server.connect().await;
    let body: bytes::Bytes = json!({"lease": "x".repeat(200)}).to_string().into();
    stage.daemon.pause();
    // The buffers of the system take some megabytes before the server's own.
    for n in 0..100_000 {
        flooder.publish("presence.v1.heartbeat", body.clone()).await.unwrap();
        if n % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    sleep(Duration::from_millis(1000)).await;
    stage.daemon.resume();
    let why = eventually("it is deaf", Duration::from_secs(10), async || {
        let body = json!({"user_id": "john"});
        let asked = client.attempt("explain", body, Duration::from_secs(1)).await?.ok()?;
        asked["deaf"].as_str().map(str::to_owned)
    })
    .await;
    assert!(why.contains("cut off") || why.contains("again") || why.contains("faster"), "{why}");
    stage.events.silent_for(2 * LEASE).await;
    let last = heart.stop(&client).await;
    all_offline(&mut stage.events, 1, last + LEASE + AFTER_A_FAULT).await;
}

#[tokio::test]
async fn a_stopped_and_continued_one_shows_nobody_offline() {
    let mut stage = Stage::start(SHORT).await;
    let client = stage.client.clone();
    client.connect_user("john", "c").await;
    let on_lease = json!({"user": {"id": "jack"}, "connection_id": "c", "lease": "gw"});
    client.get("connect", on_lease).await;
    assert_eq!(stage.events.arrived().len(), 2);
    let hearts = [Heart::of(&client, "john", "c"), Heart::of_lease(&client, "gw")];
    sleep(2 * LEASE).await;
    for pause in [LEASE / 4, LEASE + LEASE / 2, 3 * LEASE] {
        stage.daemon.pause();
        sleep(pause).await;
        stage.daemon.resume();
        stage.events.silent_for(2 * LEASE).await;
    }
    let mut last = Instant::now();
    for heart in hearts {
        last = heart.stop(&client).await.min(last);
    }
    all_offline(&mut stage.events, 2, last + LEASE + AFTER_A_FAULT).await;
    let unknown: Value = client.get("heartbeat", json!({"lease": "gw"})).await;
    assert_eq!(unknown["held"], 0);
}
