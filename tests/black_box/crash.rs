//! Daemons are killed under load: what was acknowledged stays, and the newest state is announced.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::Settings;
use crate::support::events::latest;
use crate::support::http::have_met;
use crate::support::load::{Load, Tally};
use crate::support::server::last;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Event, Events, Pair, Server, Stage, eventually, within};

const CLIENTS: usize = 48;

/// The time that the survivors may take to find out who died, and to announce what it had not
/// published.
const ANNOUNCED: Duration = Duration::from_secs(10);

/// The newest event of each user comes to equal what a query says of it.
async fn settles(client: &Client, events: &mut Events, tallies: &BTreeMap<String, Tally>) {
    let mut heard: BTreeMap<String, Event> = BTreeMap::new();
    for (id, tally) in tallies {
        let user = client.see(id).await.unwrap();
        tally.check(&user);
        eventually(&format!("the newest event of {id} shows {user}"), ANNOUNCED, async || {
            heard = latest(std::mem::take(&mut heard).into_values().chain(events.arrived()));
            heard.get(id).filter(|event| event.user == user).map(|_| ())
        })
        .await;
    }
}

#[tokio::test]
async fn one_of_two_is_killed_and_the_other_announces_what_it_had_not_published() {
    let server = Server::start().await;
    let settings = [NO_GRACE, &[("METRICS__LISTEN", "127.0.0.1:0")]].concat();
    let mut daemons =
        [Daemon::spawn(&server, &settings).await, Daemon::spawn(&server, &settings).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    let [_, survivor] = have_met(&mut daemons).await;
    let [mut victim, _survivor] = daemons;
    victim.kill();
    let tallies = load.stop().await;
    settles(&client, &mut events, &tallies).await;
    assert_eq!(survivor.metric("presence_daemon_failures_total").await, 1.0);
    assert!(tallies.values().all(|tally| tally.acknowledged > 0));
}

#[tokio::test]
async fn all_are_killed_and_the_next_one_announces_the_newest_changes() {
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, NO_GRACE).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    load.goes_on().await;
    daemons.iter_mut().for_each(Daemon::kill);
    // The load has ended before the next one serves: no later change hides what was not published.
    let (tallies, _next) = tokio::join!(load.stop(), Daemon::spawn(&server, NO_GRACE));
    settles(&client, &mut events, &tallies).await;
}

#[tokio::test]
async fn a_change_whose_maker_died_before_it_was_announced_is_announced_by_the_other() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c").await;
    let announced = events.only();
    // The second one must know of the first to miss it.
    let first = pair.one.get("explain", json!({"user_id": "john"})).await["seen_by"].clone();
    let mut beacons =
        pair.one.nats.subscribe("presence.internal.v1.presence.beacon").await.unwrap();
    let heard = async {
        loop {
            let beacon = beacons.next().await.unwrap().payload;
            if serde_json::from_slice::<Value>(&beacon).unwrap()["daemon"] == first {
                break;
            }
        }
    };
    within("a beacon of the first daemon", ANNOUNCED, heard).await;
    // The first daemon stores a change, and gets no further.
    pair.daemons[0].pause();
    write_without_event(&pair.two, "john").await;
    events.silent_for(Duration::from_millis(500)).await;
    let [mut first, _second] = pair.daemons;
    first.kill();
    let event = events.next_within(ANNOUNCED).await;
    assert!(event.version > announced.version);
    assert_eq!(Some(event.user), pair.two.see("john").await);
}

#[tokio::test]
async fn a_change_that_nobody_lived_to_announce_is_announced_by_the_next_one() {
    let Stage { server, daemon, client, mut events } = Stage::start(NO_GRACE).await;
    client.connect_user("john", "c").await;
    let announced = events.only();
    daemon.stop().await;
    write_without_event(&client, "john").await;
    let _next = Daemon::spawn(&server, NO_GRACE).await;
    let event = events.next_within(ANNOUNCED).await;
    assert!(event.version > announced.version);
    assert_eq!(Some(event.user), client.see("john").await);
}

/// Stores a visible change of a user as the daemon that made the last one would, and no event.
async fn write_without_event(client: &Client, id: &str) {
    let stored = last(&client.nats, &format!("user.{id}")).await.unwrap();
    let mut record: Value = serde_json::from_slice(&stored.payload).unwrap();
    let version = record["version"].as_u64().unwrap() + 1;
    record["version"] = version.into();
    record["status"] = "unpublished".into();
    let mut headers = HeaderMap::new();
    headers.insert("Presence-Writer", stored.headers.get("Presence-Writer").unwrap().as_str());
    headers.insert("Presence-Version", version.to_string().as_str());
    let subject = format!("$KV.presence.user.{id}");
    let js = jetstream::new(client.nats.clone());
    let put = js.publish_with_headers(subject, headers, record.to_string().into());
    put.await.unwrap().await.unwrap();
}

const OTHER_LEASE: Settings = &[("LIVENESS__OFFLINE_GRACE", "0s"), ("LIVENESS__LEASE", "61s")];

#[tokio::test]
async fn the_log_names_other_daemons_by_id_host_and_version() {
    let server = Server::start().await;
    let mut staying = Daemon::spawn(&server, NO_GRACE).await;
    let (mut killed, left) =
        (Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, OTHER_LEASE).await);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let ids = [&killed, &left].map(|daemon| {
        let ready = daemon.lines().into_iter().find(|line| line["message"] == "ready");
        ready.unwrap()["daemon"].clone()
    });
    let named = async |staying: &Daemon, text: &str, id: &Value| {
        eventually(&format!("{text}: {id}"), ANNOUNCED, async || {
            let lines = staying.lines().into_iter();
            let mut found = lines.filter(|line| line["message"].to_string().contains(text));
            let version = env!("CARGO_PKG_VERSION");
            found.find(|line| {
                line["daemon"] == *id && line["host"] == host && line["version"] == version
            })
        })
        .await;
    };
    for id in &ids {
        named(&staying, "another daemon is there", id).await;
    }
    named(&staying, "the longest counts", &ids[1]).await;
    let text = format!(
        "daemon {}, version {} on {host}",
        ids[1].as_str().unwrap(),
        env!("CARGO_PKG_VERSION")
    );
    let line = staying.logs("different settings").await;
    assert!(line["message"].as_str().unwrap().contains(&text), "{line}");
    killed.kill();
    left.stop().await;
    named(&staying, "another daemon leaves", &ids[1]).await;
    named(&staying, "a daemon is gone", &ids[0]).await;
    assert!(staying.ended().is_none());
}
