//! A daemon that may have missed heartbeats ends no lease until it has listened for a whole one.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{AFTER_A_FAULT, LATEST, LEASE, SHORT, all_offline};
use crate::support::heart::Heart;
use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::{Client, Server, Stage, eventually, within};

/// The reason why a daemon is deaf whose server cut it off as a slow consumer: while it is away,
/// and after.
const CUT_OFF: [&str; 2] = ["it was cut off from NATS", "it has just been connected to NATS again"];

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
    assert!(CUT_OFF.contains(&why.as_str()), "{why}");
    stage.events.silent_for(2 * LEASE).await;
    let last = heart.stop(&client).await;
    all_offline(&mut stage.events, 1, last + LEASE + AFTER_A_FAULT).await;
}

#[tokio::test]
async fn a_flood_of_long_heartbeats_is_thrown_away_rather_than_hoarded() {
    /// Together some 390 MB: what a debug build would hear in ten seconds and more.
    const LISTS: usize = 1500;
    const RUBBISH: usize = 60;
    /// Of these, 32 MiB wait at most. Their buffers are larger, and the client's own queue gets
    /// something while a single one is heard. Hoarded, they would be twice as much.
    const MAX_GROWTH_KIB: u64 = 256 * 1024;
    /// The time that a busy machine may take for it.
    const FLOOD: Duration = Duration::from_secs(60);
    // The server keeps what is not read yet, and cuts nobody off.
    let config = "max_pending: 1073741824\nwrite_deadline: \"60s\"\n".to_owned();
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let settings = [SHORT, &[("METRICS__LISTEN", "127.0.0.1:0")]].concat();
    let mut stage = Stage::on(server, &settings).await;
    let http = Http::of(&mut stage.daemon).await;
    let client = stage.client.clone();
    for user in ["john", "jack"] {
        client.connect_user(user, "c").await;
    }
    assert_eq!(stage.events.arrived().len(), 2);
    let (john, jack) = (Heart::of(&client, "john", "c"), Heart::of(&client, "jack", "c"));
    eventually("it hears", LEASE + LATEST, async || deaf(&client).await.is_none().then_some(()))
        .await;
    let memory = stage.daemon.memory_kib();
    jack.stop(&client).await;

    let list = |length: usize| -> bytes::Bytes {
        let each = |n| json!({"user_id": format!("nobody-{n}"), "connection_id": "c"});
        json!({"connections": (0..length).map(each).collect::<Vec<_>>()}).to_string().into()
    };
    // The second is far too long for a list, and comes from a user's own client.
    let floods = [
        ("heartbeat", list(1000), LISTS),
        ("heartbeat", list(1000), LISTS),
        ("heartbeat", list(1000), LISTS),
        ("heartbeat", list(1000), LISTS),
        ("heartbeat.nobody-1", list(20_000), RUBBISH),
        ("heartbeat.nobody-2", list(20_000), RUBBISH),
    ];
    let mut flooders = JoinSet::new();
    for (operation, body, count) in floods {
        let (nats, subject) = (stage.server.connect().await, client.subject(operation));
        flooders.spawn(async move {
            for _ in 0..count {
                nats.publish(subject.clone(), body.clone()).await.unwrap();
            }
            nats.flush().await.unwrap();
        });
    }
    within("the flood", FLOOD, flooders.join_all()).await;
    eventually("what was sent behind it is answered", FLOOD, async || {
        client.attempt("explain", json!({"user_id": "john"}), Duration::from_secs(5)).await
    })
    .await
    .unwrap();
    let ended = Instant::now();
    let grown = stage.daemon.peak_memory_kib().saturating_sub(memory);
    assert!(grown < MAX_GROWTH_KIB, "the daemon grew by {grown} KiB");
    assert!(http.metric("presence_heartbeats_dropped_total").await > 0.0);
    // It hears again, and knows who has died meanwhile.
    let gone = all_offline(&mut stage.events, 1, ended + LEASE + AFTER_A_FAULT).await;
    assert_eq!(gone[0].0.id, "jack");
    stage.events.silent_for(LEASE).await;
    let last = john.stop(&client).await;
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
