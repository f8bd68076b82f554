//! `users.forget_after`: users who are offline and were not touched for long are deleted.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{Client, Daemon, Events, Server, Stage, eventually};

const FORGET: crate::support::Settings<'static> =
    &[("LIVENESS__OFFLINE_GRACE", "0s"), ("USERS__FORGET_AFTER", "2s")];

const AFTER: Duration = Duration::from_secs(2);

/// The time, a tenth of it, two looks of each of two daemons, and a busy machine.
const FORGOTTEN: Duration = Duration::from_secs(8);

/// The time for which an answer is waited for before the query is repeated.
const ANSWER: Duration = Duration::from_secs(1);

async fn is_forgotten(client: &Client, user: &str) {
    let query = json!({"filter": {"id": user}, "presence": true});
    eventually(&format!("{user} is forgotten"), FORGOTTEN, async || {
        // A daemon that was just killed may have taken the request.
        let answer = client.attempt("query_users", query.clone(), ANSWER).await?.ok()?;
        (answer["users"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_does_not_return_is_deleted_once_and_others_stay() {
    let server = Server::start().await;
    let daemons = [Daemon::spawn(&server, FORGET).await, Daemon::spawn(&server, FORGET).await];
    let client = Client::connect(&server).await;
    client.connect_user("online", "c").await;
    let mut events = Events::of_all(&client).await;
    let left = Instant::now();
    for n in 0..20 {
        client.upsert(json!({"id": format!("guest{n}"), "status": "hi"})).await;
    }
    client.upsert(json!({"id": "quiet", "name": "Q"})).await;
    client.connect_user("back", "c").await;
    client.disconnect("back", "c").await;
    events.arrived();
    is_forgotten(&client, "quiet").await;
    for n in 0..20 {
        is_forgotten(&client, &format!("guest{n}")).await;
    }
    assert!(left.elapsed() >= AFTER, "no earlier");
    let last = events.arrived();
    let guests = last.iter().filter(|event| event.id.starts_with("guest"));
    assert_eq!(guests.clone().count(), 20, "one event each: {last:?}");
    for event in guests {
        assert_eq!((event.online, &event.user["status"]), (false, &Value::Null));
        assert!(event.user.get("created_at").is_none(), "the last event");
    }
    assert!(client.see("online").await.is_some());
    client.disconnect("online", "c").await;
    is_forgotten(&client, "online").await;
    drop(daemons);
}

#[tokio::test]
async fn a_touch_postpones_it() {
    let stage = Stage::start(FORGET).await;
    stage.client.upsert(json!({"id": "ann"})).await;
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < AFTER + AFTER {
        n += 1;
        stage.client.upsert(json!({"id": "ann", "n": n})).await;
        assert!(stage.client.see("ann").await.is_some(), "after {:?}", start.elapsed());
        tokio::time::sleep(AFTER / 20).await;
    }
    is_forgotten(&stage.client, "ann").await;
}

#[tokio::test]
async fn an_invisible_user_counts_as_it_truly_is_and_ends_as_any_other() {
    let mut stage = Stage::start(FORGET).await;
    let client = &stage.client;
    for user in ["hides", "leaves"] {
        let connect = json!({"user": {"id": user, "status": "s"}, "connection_id": "c"});
        client.get("connect", connect).await;
    }
    client.upsert(json!({"id": "hides", "invisible": true})).await;
    client.disconnect("leaves", "c").await;
    stage.events.arrived();
    is_forgotten(client, "leaves").await;
    let left = stage.events.only().user;
    assert!(client.see("hides").await.is_some(), "it is connected");
    client.disconnect("hides", "c").await;
    let gone = Instant::now();
    is_forgotten(client, "hides").await;
    assert!(gone.elapsed() + Duration::from_millis(100) >= AFTER, "as if it had left when it did");
    let mut hid = stage.events.only().user;
    assert!(hid["version"].as_u64() > left["version"].as_u64());
    (hid["id"], hid["version"]) = (left["id"].clone(), left["version"].clone());
    assert_eq!(hid, left, "its last event is that of any other");
}

#[tokio::test]
async fn the_daemon_that_is_left_forgets_for_the_one_that_died_and_counts_it() {
    let server = Server::start().await;
    let mut first = Daemon::spawn(&server, FORGET).await;
    let settings = [FORGET, &[("METRICS__LISTEN", "127.0.0.1:0")]].concat();
    let mut second = Daemon::spawn(&server, &settings).await;
    let http = Http::of(&mut second).await;
    let client = Client::connect(&server).await;
    for n in 0..10 {
        client.upsert(json!({"id": format!("u{n}")})).await;
    }
    first.kill();
    for n in 0..10 {
        is_forgotten(&client, &format!("u{n}")).await;
    }
    let page = http.get("/metrics").await.body;
    assert!(page.contains("presence_forgotten_users_total 10\n"), "{page}");
}

#[tokio::test]
async fn a_changed_setting_is_a_touch_and_moves_no_time_that_others_see() {
    let stage = Stage::start(FORGET).await;
    stage.client.upsert(json!({"id": "ann", "status": "s"})).await;
    let before = stage.client.see("ann").await.unwrap();
    let start = Instant::now();
    let mut hides = false;
    while start.elapsed() < AFTER + AFTER {
        hides = !hides;
        stage.client.upsert(json!({"id": "ann", "hide_last_active": hides})).await;
        let seen = stage.client.see("ann").await;
        assert_eq!(seen.as_ref(), Some(&before), "after {:?}", start.elapsed());
        tokio::time::sleep(AFTER / 20).await;
    }
    is_forgotten(&stage.client, "ann").await;
}
