//! A server that is killed may bring back what stands below a message that has expired. Nothing of
//! a user who was deleted is among it.

use async_nats::HeaderMap;
use serde_json::json;

use super::{HEALED, agree};
use crate::support::server::{last, last_seq};
use crate::support::{Client, Daemon, Server, Settings, eventually};

const SETTINGS: Settings<'static> =
    &[("STORE__MARKER_AGE", "1s"), ("LIVENESS__OFFLINE_GRACE", "0s")];

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
