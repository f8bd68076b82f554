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
    assert_eq!(keys(&answer), ["deleted", "more", "rev"].into());
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
    pair.two.connect_user("john", "d").await;
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
    assert_eq!(header("Nats-TTL"), None, "a record would return below one that expires");
    assert!(marker.payload.is_empty());
}

#[tokio::test]
async fn a_filter_deletes_the_first_that_match_and_tells_of_more() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    for n in 0..5 {
        client.upsert(json!({"id": format!("g{n}"), "role": "guest"})).await;
    }
    client.upsert(json!({"id": "a", "role": "staff"})).await;
    let guests = json!({"filter": {"role": "guest"}, "limit": 2});
    for (deleted, more) in [
        (json!(["g0", "g1"]), true),
        (json!(["g2", "g3"]), true),
        (json!(["g4"]), false),
        (json!([]), false),
    ] {
        let answer = client.get("delete_users", guests.clone()).await;
        assert_eq!((&answer["deleted"], &answer["more"]), (&deleted, &json!(more)));
        assert!(answer["rev"].is_u64());
    }
    assert_eq!(client.query(json!({})).await.len(), 1);
    let all = client.get("delete_users", json!({"filter": {}})).await;
    assert_eq!(all["deleted"], json!(["a"]));
    let named = client.get("delete_users", json!({"ids": ["a"]})).await;
    assert_eq!((&named["deleted"], &named["more"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn a_filter_that_deletes_sees_users_as_they_truly_are() {
    let mut stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    for id in ["unseen", "left", "online"] {
        client.get("connect", json!({"user": {"id": id}, "connection_id": "c"})).await;
    }
    client.upsert(json!({"id": "unseen", "invisible": true})).await;
    client.disconnect("left", "c").await;
    stage.events.arrived();
    let offline = client.get("delete_users", json!({"filter": {"online": false}})).await;
    assert_eq!(offline["deleted"], json!(["left"]), "the invisible one is online in truth");
    let invisible = client.get("delete_users", json!({"filter": {"invisible": true}})).await;
    assert_eq!(invisible["deleted"], json!(["unseen"]));
    assert_eq!(stage.events.arrived().len(), 0, "others saw both offline");
}

#[tokio::test]
async fn a_wrong_deletion_names_its_field() {
    let stage = Stage::start(NO_GRACE).await;
    for (body, what) in [
        (json!({}), ("invalid_request", Some("ids"))),
        (json!({"ids": [], "filter": {}}), ("invalid_request", Some("filter"))),
        (json!({"ids": [], "limit": 5}), ("invalid_request", Some("limit"))),
        (json!({"filter": {}, "limit": 101}), ("limit_exceeded", Some("limit"))),
        (json!({"filter": {"online": {"$gt": 1}}}), ("invalid_filter", Some("online.$gt"))),
    ] {
        let refused = stage.client.refused("delete_users", body.clone()).await;
        assert_eq!(refused.what(), what, "{body}");
    }
}
