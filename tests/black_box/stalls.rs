//! A daemon that was stopped in the middle of its work applies nothing late.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::http::{Http, have_met};
use crate::support::server::last;
use crate::support::stage::NO_GRACE;
use crate::support::wait::wall_ms;
use crate::support::{Client, Daemon, Events, Pair, Server, Settings, Stage, eventually};

const TIMEOUT_MS: u64 = 1000;
const SHORT_TIMEOUT: Settings<'static> =
    &[("LIVENESS__OFFLINE_GRACE", "0s"), ("LIMITS__REQUEST_TIMEOUT", "1s")];

/// The time after its deadline until which a write may be stored: the way to the server.
const ON_THE_WAY_MS: u64 = 100;

/// Longer than a silent daemon is taken for alive.
const LISTENS: Duration = Duration::from_millis(4500);

#[tokio::test]
async fn what_was_sent_before_and_during_a_stall_is_applied_in_time_or_never() {
    let stage = Stage::start(SHORT_TIMEOUT).await;
    let client = &stage.client;
    let mut sent = Vec::new();
    let start = Instant::now();
    let mut paused = None;
    // The daemon is stopped under load, which goes on for a second and a half.
    while start.elapsed() < Duration::from_millis(2000) {
        if paused.is_none() && start.elapsed() > Duration::from_millis(500) {
            stage.daemon.pause();
            paused = Some(sent.len());
        }
        let id = format!("u{}", sent.len());
        let body = json!({"users": [{"id": id, "status": "s"}]}).to_string().into();
        sent.push(wall_ms());
        let subject = client.subject("upsert_users");
        client.nats.publish_with_reply(subject, "nobody.listens", body).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    // The stall itself; all that was sent is too old by now.
    sleep(Duration::from_millis(2 * TIMEOUT_MS)).await;
    stage.daemon.resume();
    serves_later_requests(client).await;
    client.settle().await;
    let paused = paused.unwrap();
    let (mut applied, mut late) = (0, Vec::new());
    for (n, sent_ms) in sent.iter().enumerate() {
        let Some(message) = last(&client.nats, &format!("user.u{n}")).await else { continue };
        applied += 1;
        let stored_ms = (message.time.unix_timestamp_nanos() / 1_000_000) as u64;
        let age_ms = stored_ms.saturating_sub(*sent_ms);
        if age_ms > TIMEOUT_MS + ON_THE_WAY_MS {
            late.push((n, age_ms));
        }
    }
    // Only what was in the midst of the client's connection at that moment cannot be called back.
    assert!(late.len() <= 1, "applied late, of {paused} before the stall: {late:?}");
    assert!((paused / 2..=paused).contains(&applied), "{applied} of {paused} before the stall");
}

/// Repeats a request as a client does, until what was sent before it is out of the way.
async fn serves_later_requests(client: &Client) {
    eventually("later requests are served", Duration::from_secs(5), async || {
        let body = json!({"users": [{"id": "later", "status": "s"}]});
        client.attempt("upsert_users", body, Duration::from_secs(1)).await?.ok()
    })
    .await;
}

#[tokio::test]
async fn who_is_asked_during_a_stall_is_told_after_it_that_nothing_was_done() {
    let mut stage = Stage::start(SHORT_TIMEOUT).await;
    let client = stage.client.clone();
    stage.daemon.pause();
    let asked = tokio::spawn(async move {
        let bodies = (0..20).map(|n| json!({"users": [{"id": format!("u{n}"), "status": "s"}]}));
        let asked = bodies.map(|body| client.ask("upsert_users", body));
        futures_util::future::join_all(asked).await
    });
    sleep(Duration::from_millis(3 * TIMEOUT_MS)).await;
    stage.daemon.resume();
    for answer in asked.await.unwrap() {
        assert_eq!(answer.unwrap_err().code, "unavailable");
    }
    assert_eq!(stage.events.arrived().len(), 0);
    serves_later_requests(&stage.client).await;
    assert_eq!(stage.client.query(json!({"presence": true})).await.len(), 1);
}

#[tokio::test]
async fn a_stalled_daemon_undoes_nothing_that_the_other_did_meanwhile() {
    let pair = Pair::start(SHORT_TIMEOUT).await;
    pair.one.connect_user("john", "c").await;
    pair.daemons[0].pause();
    let stale = json!({"user_id": "john", "connection_id": "c"}).to_string().into();
    pair.one.nats.publish(pair.one.subject("disconnect"), stale).await.unwrap();
    pair.two.upsert(json!({"id": "john", "status": "meanwhile"})).await;
    sleep(Duration::from_millis(2 * TIMEOUT_MS)).await;
    pair.daemons[0].resume();
    let served = eventually("it serves again", Duration::from_secs(5), async || {
        let body = json!({"filter": {"id": "john"}, "presence": true});
        pair.one.attempt("query_users", body, Duration::from_secs(1)).await?.ok()
    })
    .await;
    let john = &served["users"][0];
    assert_eq!((&john["online"], &john["status"]), (&json!(true), &json!("meanwhile")));
    assert_eq!(pair.two.see("john").await.as_ref(), Some(john));
}

#[tokio::test]
async fn a_pause_shorter_than_a_request_lives_loses_nothing() {
    let stage = Stage::start(NO_GRACE).await;
    let client = stage.client.clone();
    let load = tokio::spawn(async move {
        for n in 0..200 {
            client.upsert(json!({"id": "john", "status": n.to_string()})).await;
        }
    });
    for _ in 0..3 {
        stage.daemon.pause();
        sleep(Duration::from_millis(100)).await;
        stage.daemon.resume();
        sleep(Duration::from_millis(20)).await;
    }
    load.await.unwrap();
    assert_eq!(stage.client.see("john").await.unwrap()["status"], "199");
}

/// Settings of daemons whose metrics tell how many daemons they take for alive.
const MEASURED: Settings<'static> =
    &[("LIVENESS__OFFLINE_GRACE", "0s"), ("METRICS__LISTEN", "127.0.0.1:0")];

/// After `period` no daemon has taken another one for failed.
async fn no_daemon_failed(pages: &[Http], period: Duration) {
    sleep(period).await;
    for page in pages {
        assert_eq!(page.metric("presence_daemon_failures_total").await, 0.0);
        assert_eq!(page.metric("presence_daemons").await, 2.0);
    }
}

#[tokio::test]
async fn a_daemon_that_was_stalled_takes_nobody_for_dead_and_announces_nothing_old() {
    let mut pair = Pair::start(MEASURED).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.two.connect_user("john", "c").await;
    eventually("the first daemon sees him", LISTENS, async || {
        pair.one.see("john").await.filter(|john| john["online"] == true)
    })
    .await;
    let [stalled, _] = have_met(&mut pair.daemons).await;
    pair.daemons[0].pause();
    pair.two.disconnect("john", "c").await;
    sleep(LISTENS).await;
    assert_eq!(events.arrived().len(), 2);
    pair.daemons[0].resume();
    no_daemon_failed(&[stalled], LISTENS).await;
    assert_eq!(events.arrived().len(), 0, "nothing old is announced");
}

#[tokio::test]
async fn daemons_that_lose_nats_take_nobody_for_dead() {
    let mut server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, MEASURED).await, Daemon::spawn(&server, MEASURED).await];
    let pages = have_met(&mut daemons).await;
    server.vanish();
    no_daemon_failed(&pages, LISTENS + Duration::from_secs(1)).await;
    server.appear().await;
    no_daemon_failed(&pages, LISTENS).await;
}
