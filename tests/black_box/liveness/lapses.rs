//! A lease that is not heard of lapses, between its time and a little more, and without a grace.

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{LATEST, LEASE, SHORT, all_offline, connect_on};
use crate::support::heart::Heart;
use crate::support::{Events, Pair, Settings, Stage};

#[tokio::test]
async fn a_connection_of_its_own_lapses_a_lease_after_its_last_heartbeat() {
    let mut stage = Stage::start(SHORT).await;
    stage.client.connect_user("john", "c").await;
    assert!(stage.events.only().online);
    let heart = Heart::of(&stage.client, "john", "c");
    stage.events.silent_for(3 * LEASE).await;
    let last = heart.stop(&stage.client).await;
    let gone = all_offline(&mut stage.events, 1, last + LEASE + LATEST).await;
    assert!(gone[0].1 >= last + LEASE, "{:?} after its last heartbeat", gone[0].1 - last);
    assert_eq!(stage.client.see("john").await.unwrap(), gone[0].0.user);
    stage.events.silent_for(LEASE).await;
}

#[tokio::test]
async fn one_heartbeat_keeps_all_users_of_a_gateway_and_they_lapse_together() {
    const USERS: usize = 200;
    let mut stage = Stage::start(SHORT).await;
    connect_on(&stage.client, "gw", USERS).await;
    assert_eq!(stage.events.arrived().len(), USERS);
    let heart = Heart::of_lease(&stage.client, "gw");
    stage.events.silent_for(3 * LEASE).await;
    let last = heart.stop(&stage.client).await;
    let gone = all_offline(&mut stage.events, USERS, last + LEASE + LATEST).await;
    assert!(gone[0].1 >= last + LEASE, "{:?} after its last heartbeat", gone[0].1 - last);
    let answer = stage.client.get("heartbeat", json!({"lease": "gw"})).await;
    assert_eq!((&answer["unknown"], &answer["held"]), (&json!(["gw"]), &json!(0)));
}

#[tokio::test]
async fn a_user_is_online_while_one_of_its_connections_is_kept() {
    let mut stage = Stage::start(SHORT).await;
    stage.client.connect_user("john", "kept").await;
    stage.client.connect_user("john", "silent").await;
    let shared = json!({"user": {"id": "john"}, "connection_id": "shared", "lease": "gw"});
    stage.client.get("connect", shared).await;
    assert!(stage.events.only().online);
    let heart = Heart::of(&stage.client, "john", "kept");
    stage.events.silent_for(LEASE + LATEST).await;
    let explained = stage.client.get("explain", json!({"user_id": "john"})).await;
    let connections = explained["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1, "{explained}");
    assert_eq!(connections[0]["connection_id"], "kept");
    let last = heart.stop(&stage.client).await;
    all_offline(&mut stage.events, 1, last + LEASE + LATEST).await;
}

#[tokio::test]
async fn others_connect_while_a_large_lease_lapses() {
    const USERS: usize = 4000;
    let mut stage = Stage::start(SHORT).await;
    connect_on(&stage.client, "gw", 1).await;
    let heart = Heart::of_lease(&stage.client, "gw");
    connect_on(&stage.client, "gw", USERS).await;
    heart.stop(&stage.client).await;
    drop(stage.events.arrived());
    let others: Vec<_> = (0..8)
        .map(|k| {
            let client = stage.client.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    client.connect_user(&format!("other-{k}-{n}"), "c").await;
                }
            })
        })
        .collect();
    let (mut gone, mut came, mut between) = (0, 0, 0);
    while gone < USERS {
        let event = stage.events.next().await;
        if event.online {
            came += 1;
        } else if event.id.starts_with("user-") {
            // Those who came since the first one went.
            between += if gone > 0 { came } else { 0 };
            (gone, came) = (gone + 1, 0);
        }
    }
    assert!(others.iter().all(|other| !other.is_finished()), "a connect was refused");
    others.iter().for_each(JoinHandle::abort);
    // Each of them more than once: none waits until the lease is done.
    assert!(between > 2 * others.len(), "{between} came online while {USERS} went offline");
}

#[tokio::test]
async fn two_daemons_end_a_lease_once_and_in_time() {
    const USERS: usize = 50;
    let pair = Pair::start(SHORT).await;
    let mut events = Events::of_all(&pair.one).await.newer_only();
    connect_on(&pair.one, "gw", USERS).await;
    for n in 0..USERS {
        pair.two.connect_user(&format!("own-{n}"), "c").await;
    }
    let own: Vec<_> =
        (0..USERS).map(|n| json!({"user_id": format!("own-{n}"), "connection_id": "c"})).collect();
    // Each daemon has a prefix of its own here, so each is told.
    let hearts = [&pair.one, &pair.two].map(|client| {
        [Heart::of_lease(client, "gw"), Heart::beat(client, json!({"connections": own}))]
    });
    sleep(LEASE).await;
    assert_eq!(events.arrived().len(), 2 * USERS);
    events.silent_for(LEASE).await;
    let mut last = Instant::now();
    for heart in hearts.into_iter().flatten() {
        last = heart.stop(&pair.one).await.min(last);
    }
    let gone = all_offline(&mut events, 2 * USERS, last + LEASE + LATEST).await;
    assert!(gone[0].1 >= last + LEASE);
    events.silent_for(LEASE).await;
}

#[tokio::test]
async fn a_page_reload_is_no_event() {
    let settings: Settings<'_> = &[("LIVENESS__OFFLINE_GRACE", "1s")];
    let pair = Pair::start(settings).await;
    let mut events = Events::of_all(&pair.one).await.newer_only();
    pair.one.connect_user("john", "page-0").await;
    assert!(events.only().online);
    for n in 1..6 {
        let (left, met) = if n % 2 == 0 { (&pair.one, &pair.two) } else { (&pair.two, &pair.one) };
        left.disconnect("john", &format!("page-{}", n - 1)).await;
        met.connect_user("john", &format!("page-{n}")).await;
    }
    // Longer than the grace, and the second daemon's turn after it.
    events.silent_for(3 * LEASE / 2).await;
    assert_eq!(pair.one.see("john").await.unwrap()["online"], true);
}
