//! A daemon that is told to leave finishes what it has taken, and nobody goes offline by it.

use std::time::Duration;

use serde_json::json;

use crate::support::daemon::LEAVE;
use crate::support::events::latest;
use crate::support::load::Load;
use crate::support::stage::{NO_GRACE, PATIENT};
use crate::support::{Client, Daemon, Events, Server};

const CLIENTS: usize = 32;

/// The number of messages that may get lost if the machine itself stalls while the subscription
/// ends. The client library forgets the subscription before the server does.
const IN_TRANSIT: u64 = 2;

#[tokio::test]
async fn one_of_two_leaves_under_load_and_answers_what_it_has_taken() {
    let server = Server::start().await;
    let mut leaving = Daemon::spawn(&server, PATIENT).await;
    let _staying = Daemon::spawn(&server, PATIENT).await;
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    load.goes_on().await;
    leaving.terminate();
    let status = leaving.end(LEAVE).await;
    assert_eq!(status.code(), Some(0));
    load.goes_on().await;
    let tallies = load.stop().await;
    client.settle().await;
    let latest = latest(events.arrived().into_iter().inspect(|event| assert!(event.online)));
    let mut lost = 0;
    for (id, tally) in &tallies {
        assert_eq!(tally.refused, 0, "{id}: {tally:?}");
        lost += tally.unanswered;
        let user = client.see(id).await.unwrap();
        tally.check(&user);
        assert_eq!(latest[id].user, user);
    }
    assert!(lost <= IN_TRANSIT, "{lost} requests were not answered");
}

#[tokio::test]
async fn the_last_one_leaves_under_load_and_all_that_was_answered_took_effect() {
    let server = Server::start().await;
    let mut leaving = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    load.goes_on().await;
    leaving.terminate();
    assert_eq!(leaving.end(LEAVE).await.code(), Some(0));
    let tallies = load.stop().await;
    client.settle().await;
    let latest = latest(events.arrived().into_iter().inspect(|event| assert!(event.online)));
    let _next = Daemon::spawn(&server, NO_GRACE).await;
    for (id, tally) in &tallies {
        let user = client.see(id).await.unwrap();
        tally.check(&user);
        assert_eq!(user["online"], true);
        assert_eq!(latest[id].user, user, "its event was published");
    }
}

#[tokio::test]
async fn an_idle_daemon_leaves_at_once_and_stops_answering() {
    let server = Server::start().await;
    let daemon = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    let start = tokio::time::Instant::now();
    daemon.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let bound = Duration::from_secs(1);
    assert!(client.attempt("query_users", json!({}), bound).await.is_none());
    let ping = client.nats.request("$SRV.PING.presence", Vec::new().into()).await;
    assert!(ping.is_err(), "nobody is there");
}

#[tokio::test]
async fn a_grace_that_runs_when_a_daemon_leaves_is_ended_by_another() {
    let server = Server::start().await;
    let settings = &[("LIVENESS__OFFLINE_GRACE", "1s")];
    let leaving = Daemon::spawn(&server, settings).await;
    let client = Client::connect(&server).await;
    for n in 0..10 {
        client.connect_user(&format!("u{n}"), "c").await;
    }
    let _staying = Daemon::spawn(&server, settings).await;
    let mut events = Events::of_all(&client).await;
    for n in 0..10 {
        client.disconnect(&format!("u{n}"), "c").await;
    }
    leaving.stop().await;
    for _ in 0..10 {
        assert!(!events.next().await.online);
    }
}
