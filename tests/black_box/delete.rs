//! Deleting users, and making them again.

use serde_json::json;

use crate::support::server::{self};
use crate::support::stage::NO_GRACE;
use crate::support::{Events, Pair, Stage, keys};

#[tokio::test]
async fn a_delete_is_announced_once_without_custom_fields() {
    let mut stage = Stage::start(NO_GRACE).await;
    let user = json!({"user": {"id": "john", "status": "s", "name": "J"}, "connection_id": "c"});
    stage.client.get("connect", user).await;
    let before = stage.events.only();
    let answer = stage.client.get("delete_users", json!({"ids": ["john", "nobody"]})).await;
    assert_eq!(keys(&answer), ["deleted", "rev"].into());
    assert_eq!(answer["deleted"], json!(["john"]));
    let last = stage.events.only();
    assert!(last.version > before.version);
    let expected = json!({
        "id": "john", "online": false, "status": null, "last_active": null,
        "offline_since": null, "availability": "offline", "version": last.version
    });
    assert_eq!(last.user, expected);
    assert_eq!(stage.client.see("john").await, None);

    let again = stage.client.get("delete_users", json!({"ids": ["john"]})).await;
    assert_eq!(again["deleted"], json!([]));
    assert_eq!(stage.events.arrived().len(), 0);
}

#[tokio::test]
async fn a_user_who_showed_nothing_is_deleted_without_an_event() {
    let mut stage = Stage::start(NO_GRACE).await;
    stage.client.upsert(json!({"id": "john", "name": "J"})).await;
    let invisible = json!({"user": {"id": "jack", "invisible": true}, "connection_id": "c"});
    stage.client.get("connect", invisible).await;
    let answer = stage.client.get("delete_users", json!({"ids": ["john", "jack"]})).await;
    assert_eq!(answer["deleted"], json!(["john", "jack"]));
    assert_eq!(stage.events.arrived().len(), 0);
    // A status that others saw is announced as gone, invisible or not.
    stage.client.upsert(json!({"id": "jane", "invisible": true, "status": "s"})).await;
    assert_eq!(stage.events.only().id, "jane");
    stage.client.get("delete_users", json!({"ids": ["jane"]})).await;
    assert_eq!(stage.events.only().user["status"], json!(null));
}

#[tokio::test]
async fn the_version_keeps_growing_over_a_delete_on_each_daemon() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    let mut versions = Vec::new();
    for _ in 0..20 {
        pair.one.connect_user("john", "c").await;
        pair.two.get("delete_users", json!({"ids": ["john"]})).await;
    }
    versions.extend(events.arrived().into_iter().map(|event| event.version));
    assert_eq!(versions.len(), 40);
    versions.sort_unstable();
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
}

#[tokio::test]
async fn a_client_that_is_still_connected_is_unknown_and_connects_as_a_new_visible_user() {
    let pair = Pair::start(NO_GRACE).await;
    let invisible =
        json!({"user": {"id": "john", "invisible": true, "name": "J"}, "connection_id": "c"});
    pair.one.get("connect", invisible).await;
    pair.one.get("delete_users", json!({"ids": ["john"]})).await;
    let connection = json!({"user_id": "john", "connection_id": "c"});
    for client in pair.clients() {
        let answer = client.get("heartbeat", connection.clone()).await;
        assert_eq!(answer["unknown"], json!([connection]));
    }
    assert_eq!(pair.two.disconnect("john", "c").await["disconnected"], 0);
    pair.two.connect_user("john", "c").await;
    let john = pair.one.see("john").await.unwrap();
    assert_eq!((&john["online"], john.get("name")), (&json!(true), None));
}

#[tokio::test]
async fn a_delete_leaves_a_marker_that_names_version_and_writer() {
    let mut stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("john", "c").await;
    stage.client.get("delete_users", json!({"ids": ["john"]})).await;
    let version = stage.events.arrived().last().unwrap().version.to_string();
    let marker = server::last(&stage.client.nats, "user.john").await.unwrap();
    let header = |name: &str| marker.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(header("KV-Operation").as_deref(), Some("PURGE"));
    assert_eq!(header("Presence-Version"), Some(version));
    assert!(header("Presence-Writer").is_some());
    assert!(header("Nats-TTL").is_some());
    assert!(marker.payload.is_empty());
}
