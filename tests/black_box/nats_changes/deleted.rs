//! A server that is killed may bring back what stands below a message that has expired. Nothing of
//! a user who was deleted is among it.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::json;

use super::{HEALED, agree};
use crate::support::server::{Options, last, last_seq, stream};
use crate::support::{Client, Daemon, Server, Settings, eventually};

const SETTINGS: Settings<'static> =
    &[("STORE__MARKER_AGE", "1s"), ("LIVENESS__OFFLINE_GRACE", "0s")];

/// The time in which a server that syncs every second has compacted its files.
const COMPACTED: Duration = Duration::from_secs(4);

/// A user, as it is stored.
const RECORD: &str =
    r#"{"v":1,"created_at":1700000000000,"updated_at":1700000000000,"version":1700000000000}"#;

/// The value under the key of the user.
#[derive(Debug, PartialEq, Eq)]
enum Stored {
    Nothing,
    Marker,
    LastMarker,
    Record,
}

async fn stored(client: &Client) -> Stored {
    match last(&client.nats, "user.john").await {
        None => Stored::Nothing,
        Some(message) if message.headers.get("Presence-Last-Marker").is_some() => {
            Stored::LastMarker
        }
        Some(message) if message.headers.get("KV-Operation").is_some() => Stored::Marker,
        Some(_) => Stored::Record,
    }
}

async fn becomes(client: &Client, wanted: Stored) {
    eventually(&format!("the key holds {wanted:?}"), HEALED, async || {
        (stored(client).await == wanted).then_some(())
    })
    .await;
}

/// Kills the server when the key of a deleted user holds `step`, and once more later.
async fn stays_deleted(step: Stored) {
    let mut server = Server::start().await;
    let _daemon = Daemon::spawn(&server, SETTINGS).await;
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;
    for status in ["one", "two"] {
        client.upsert(json!({"id": "john", "status": status, "name": "John"})).await;
    }
    client.get("delete_users", json!({"ids": ["john"]})).await;
    becomes(&client, step).await;
    for _ in 0..2 {
        server.vanish();
        server.appear().await;
        let client = Client::connect(&server).await;
        assert_ne!(stored(&client).await, Stored::Record);
        let _new = Daemon::spawn(&server, SETTINGS).await;
        agree(&client, "john", HEALED, |john| john.is_none()).await;
        agree(&client, "ann", HEALED, |ann| ann.is_some()).await;
        becomes(&client, Stored::Nothing).await;
    }
}

#[tokio::test]
async fn a_deleted_user_stays_deleted_if_the_server_is_killed_while_the_marker_stands() {
    stays_deleted(Stored::Marker).await;
}

#[tokio::test]
async fn a_deleted_user_stays_deleted_if_the_server_is_killed_while_the_last_marker_stands() {
    stays_deleted(Stored::LastMarker).await;
}

#[tokio::test]
async fn a_deleted_user_stays_deleted_if_the_server_is_killed_when_all_markers_are_gone() {
    stays_deleted(Stored::Nothing).await;
}

/// Writes `count` users of almost the largest size.
async fn write_large(client: &Client, name: &str, count: usize) {
    let ids: Vec<_> = (0..count).map(|n| format!("{name}{n}")).collect();
    for ids in ids.chunks(100) {
        let users = ids.iter().map(|id| json!({"id": id, "text": random_text(4500)}));
        client.get("upsert_users", json!({"users": users.collect::<Vec<_>>()})).await;
    }
}

fn random_text(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

/// Fills more than a file of the server, 4 MB, with what is obsolete.
async fn churn(client: &Client) {
    for _ in 0..12 {
        write_large(client, "busy", 100).await;
    }
}

#[tokio::test]
async fn a_deleted_user_stays_deleted_if_the_server_has_removed_the_markers_from_its_files() {
    let options = Options { sync_interval: "1s", ..Options::default() };
    let mut server = Server::start_with(options).await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let client = Client::connect(&server).await;
    // The file with the user is full of what is not obsolete.
    write_large(&client, "idle", 300).await;
    client.upsert(json!({"id": "john", "name": "John"})).await;
    write_large(&client, "still", 300).await;
    churn(&client).await;
    client.get("delete_users", json!({"ids": ["john"]})).await;
    churn(&client).await;
    becomes(&client, Stored::Nothing).await;
    tokio::time::sleep(COMPACTED).await;

    for _ in 0..2 {
        daemon.kill();
        server.vanish();
        server.appear().await;
        daemon = Daemon::spawn(&server, SETTINGS).await;
        let client = Client::connect(&server).await;
        agree(&client, "john", HEALED, |john| john.is_none()).await;
        let all = client.get("count_users", json!({"filter": {"id": {"$gte": "a"}}})).await;
        assert_eq!(all["count"], 700);
        becomes(&client, Stored::Nothing).await;
    }
}

#[tokio::test]
async fn a_record_that_a_server_brings_back_from_below_the_floor_is_not_shown() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let client = Client::connect(&server).await;
    client.upsert(json!({"id": "john", "name": "John"})).await;
    let channel = json!({"type": "team", "id": "x", "members": ["john", "ann"]});
    client.get("upsert_channel", channel).await;
    daemon.kill();
    let stream = stream(&client.nats, "presence").await;
    let (created, seq) = (&stream["created"], last_seq(&client.nats).await + 1);
    let floor = json!({"v": 1, "created": created, "seq": seq}).to_string();
    client.nats.request("$KV.presence.floor", floor.into()).await.unwrap();
    client.nats.request("$KV.presence.user.ann", RECORD.into()).await.unwrap();

    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    agree(&client, "john", HEALED, |john| john.is_none()).await;
    agree(&client, "ann", HEALED, |ann| ann.is_some()).await;
    let channels = client.get("query_channels", json!({"filter": {"type": "team"}})).await;
    assert_eq!(channels["channels"], json!([]));
    becomes(&client, Stored::Nothing).await;
    let made = client.get("connect", json!({"user": {"id": "john"}})).await;
    assert_eq!(made["created"], true);
    assert!(made["me"].get("name").is_none());
    daemon.kill();
}

#[tokio::test]
async fn a_marker_that_would_expire_above_a_record_is_replaced() {
    let server = Server::start().await;
    let _daemon = Daemon::spawn(&server, &[]).await;
    let client = Client::connect(&server).await;
    client.upsert(json!({"id": "john", "status": "here"})).await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("KV-Operation", "PURGE"),
        ("Nats-Rollup", "sub"),
        ("Nats-TTL", "24h"),
        ("Presence-Version", "5000000000000"),
    ] {
        headers.insert(name, value);
    }
    let subject = "$KV.presence.user.john";
    client.nats.request_with_headers(subject, headers, "".into()).await.unwrap();
    let by_hand = last_seq(&client.nats).await;
    let lasting = eventually("the marker is replaced", HEALED, async || {
        last(&client.nats, "user.john").await.filter(|marker| marker.sequence > by_hand)
    })
    .await;
    let header = |name: &str| lasting.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(header("KV-Operation").as_deref(), Some("PURGE"));
    assert_eq!(header("Nats-TTL"), None);
    assert_eq!(header("Presence-Version").as_deref(), Some("5000000000000"));
}
