//! Daemons are started again with another lease, while clients go on by the one they were told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::HEALED;
use crate::support::server::last;
use crate::support::{Client, Daemon, Events, Server, Settings, eventually};

const LONG: Duration = Duration::from_secs(6);

/// The time after a change for which a connect may have been told the lease before it.
const UNDER_WAY: Duration = Duration::from_secs(6);

const LONG_LEASE: Settings<'static> =
    &[("LIVENESS__LEASE", "6s"), ("LIVENESS__HEARTBEAT_INTERVAL", "3s")];

const SHORT_LEASE: Settings<'static> =
    &[("LIVENESS__LEASE", "1s"), ("LIVENESS__HEARTBEAT_INTERVAL", "300ms")];

/// A client that beats as often as it was told, and asks for an answer once in each long lease.
async fn go_by_what_is_told(client: Client, body: Value) {
    let mut period = Duration::from_secs(3);
    let mut asked = Instant::now();
    loop {
        sleep(period).await;
        if asked.elapsed() + period < LONG {
            let subject = client.subject("heartbeat");
            let _ = client.nats.publish(subject, body.to_string().into()).await;
            continue;
        }
        let wait = Duration::from_secs(2);
        if let Some(Ok(answer)) = client.attempt("heartbeat", body.clone(), wait).await {
            asked = Instant::now();
            period = Duration::from_millis(answer["heartbeat"]["interval_ms"].as_u64().unwrap());
        }
    }
}

/// The heartbeat of the connection of [`old_client`].
fn own_lease() -> Value {
    json!({"user_id": "ann", "connection_id": "old"})
}

async fn told(client: &Client) -> Value {
    let beat = json!({"user_id": "nobody", "connection_id": "1"});
    super::answer(client, "heartbeat", beat, HEALED).await["heartbeat"].take()
}

/// Connects a client by the long lease. Returns its watcher.
async fn old_client(client: &Client) -> Events {
    let mut events = Events::of_all(client).await.newer_only();
    client.connect_user("ann", "old").await;
    assert!(events.next().await.online);
    events
}

/// Waits for `silent` to go offline, and for nothing else; how long after `since` that was.
async fn only(events: &mut Events, silent: &str, since: Instant, within: Duration) -> Duration {
    let until = since + within;
    let event = events.next_within(until.saturating_duration_since(Instant::now())).await;
    assert_eq!((event.id.as_str(), event.online), (silent, false));
    since.elapsed()
}

/// The daemon serves with the short lease. A user who connects now goes by it at once, and `old`
/// goes on by the long one until it has learned. Then the short one counts for all.
async fn the_short_lease_is_learned(
    client: &Client,
    mut events: Events,
    beats: tokio::task::JoinHandle<()>,
) {
    eventually("clients are told the shorter lease", HEALED, async || {
        (told(client).await == json!({"interval_ms": 300, "lease_ms": 1000})).then_some(())
    })
    .await;
    let changed = Instant::now();
    // Answers that were under way may have told the longer one.
    sleep_until(changed + UNDER_WAY).await;
    super::answer(client, "connect", json!({"user": {"id": "new"}}), HEALED).await;
    assert_eq!(events.next().await.id, "new");
    let gone = only(&mut events, "new", Instant::now(), LONG).await;
    assert!(gone < LONG / 2, "the lease that it was told counts: {gone:?}");
    sleep_until(changed + 2 * LONG + Duration::from_secs(1)).await;
    assert!(events.arrived().is_empty(), "who beats as it was told stays online");
    beats.abort();
    let gone = only(&mut events, "ann", Instant::now(), LONG).await;
    assert!(gone < LONG / 2, "the shorter lease counts for all: {gone:?}");
}

#[tokio::test]
async fn a_shorter_lease_after_a_stop_of_all_daemons_ends_nobody_who_was_told_the_longer_one() {
    let server = Server::start().await;
    let daemon = Daemon::spawn(&server, LONG_LEASE).await;
    let client = Client::connect(&server).await;
    let events = old_client(&client).await;
    let beats = tokio::spawn(go_by_what_is_told(client.clone(), own_lease()));
    daemon.stop().await;
    let _daemon = Daemon::spawn(&server, SHORT_LEASE).await;
    the_short_lease_is_learned(&client, events, beats).await;
}

#[tokio::test]
async fn a_shorter_lease_ends_no_shared_lease_whose_gateway_was_told_the_longer_one() {
    let server = Server::start().await;
    let daemon = Daemon::spawn(&server, LONG_LEASE).await;
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let body = json!({"user": {"id": "ann"}, "connection_id": "old", "lease": "gateway"});
    client.get("connect", body).await;
    assert!(events.next().await.online);
    let beats = tokio::spawn(go_by_what_is_told(client.clone(), json!({"lease": "gateway"})));
    daemon.stop().await;
    let _daemon = Daemon::spawn(&server, SHORT_LEASE).await;
    the_short_lease_is_learned(&client, events, beats).await;
}

#[tokio::test]
async fn a_shorter_lease_by_a_rolling_restart_ends_nobody_who_was_told_the_longer_one() {
    let server = Server::start().await;
    let first = Daemon::spawn(&server, LONG_LEASE).await;
    let second = Daemon::spawn(&server, LONG_LEASE).await;
    let client = Client::connect(&server).await;
    let mut events = old_client(&client).await;
    let beats = tokio::spawn(go_by_what_is_told(client.clone(), own_lease()));
    first.stop().await;
    let _first = Daemon::spawn(&server, SHORT_LEASE).await;
    let mut checks = interval(Duration::from_millis(200));
    for _ in 0..25 {
        checks.tick().await;
        assert_eq!(told(&client).await["lease_ms"], 6000, "the longest one of those alive");
    }
    second.stop().await;
    let _second = Daemon::spawn(&server, SHORT_LEASE).await;
    assert!(events.arrived().is_empty(), "who beats as it was told stays online");
    the_short_lease_is_learned(&client, events, beats).await;
}

#[tokio::test]
async fn a_longer_lease_counts_at_once_for_all() {
    let server = Server::start().await;
    let _short = Daemon::spawn(&server, SHORT_LEASE).await;
    let client = Client::connect(&server).await;
    let _long = Daemon::spawn(&server, LONG_LEASE).await;
    assert_eq!(told(&client).await["lease_ms"], 6000);
    let mut events = Events::of_all(&client).await.newer_only();
    client.connect_user("ann", "1").await;
    assert!(events.next().await.online);
    let gone = only(&mut events, "ann", Instant::now(), 2 * LONG).await;
    assert!(gone >= LONG - Duration::from_millis(200), "{gone:?}");
}

/// The lease that the bucket says clients are told.
async fn stored(client: &Client) -> Value {
    let message = last(&client.nats, "liveness").await.unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn an_older_lease_that_is_restored_ends_nobody_and_does_not_stay() {
    let server = Server::start().await;
    let _daemon = Daemon::spawn(&server, LONG_LEASE).await;
    let client = Client::connect(&server).await;
    let mut events = old_client(&client).await;
    let backup = json!({"v": 1, "lease_ms": 1000});
    client.nats.request("$KV.presence.liveness", backup.to_string().into()).await.unwrap();
    eventually("the lease of the settings is stored again", HEALED, async || {
        (stored(&client).await["lease_ms"] == 6000).then_some(())
    })
    .await;
    let gone = only(&mut events, "ann", Instant::now(), 2 * LONG).await;
    assert!(gone > LONG / 2, "{gone:?}");
}

#[tokio::test]
async fn while_a_daemon_does_not_tell_its_lease_the_default_one_counts() {
    let server = Server::start().await;
    let _daemon = Daemon::spawn(&server, SHORT_LEASE).await;
    let client = Client::connect(&server).await;
    assert_eq!(told(&client).await["lease_ms"], 1000);
    let nats = client.nats.clone();
    let older = tokio::spawn(async move {
        let mut beacons = interval(Duration::from_secs(1));
        loop {
            beacons.tick().await;
            for daemon in ["0123456789abcdef", "fedcba9876543210"] {
                let beacon = json!({"daemon": daemon, "grace_ms": 0}).to_string();
                nats.publish("presence.internal.v1.presence.beacon", beacon.into()).await.unwrap();
            }
        }
    });
    eventually("clients are told the default lease", HEALED, async || {
        (told(&client).await["lease_ms"] == 60_000).then_some(())
    })
    .await;
    older.abort();
    eventually("clients are told the lease of the settings", HEALED, async || {
        (told(&client).await["lease_ms"] == 1000).then_some(())
    })
    .await;
}
