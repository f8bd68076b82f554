//! A server of one replica comes back without its newest acknowledged writes.

use serde_json::json;

use super::{HEALED, agree, answer, noticed};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Events, Server, eventually};

#[tokio::test]
async fn a_stream_that_lost_its_newest_writes_is_replayed() {
    let mut server = Server::start().await;
    let daemons = [Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, NO_GRACE).await];
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;
    client.connect_user("hid", "1").await;
    client.upsert(json!({"id": "gone", "status": "here"})).await;
    let copy = server.copy_store();
    for n in 0..40 {
        client.upsert(json!({"id": "ann", "status": format!("s{n}")})).await;
    }
    let known = client.see("ann").await.unwrap()["version"].as_u64().unwrap();
    client.connect_user("late", "1").await;
    client.upsert(json!({"id": "hid", "invisible": true})).await;
    client.get("delete_users", json!({"ids": ["gone"]})).await;

    // The watcher is back before the daemons are.
    daemons.iter().for_each(Daemon::pause);
    server.vanish();
    server.put_back(&copy);
    server.appear().await;
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    daemons.iter().for_each(Daemon::resume);

    // Others learn what is left, above the versions that they know.
    let mut left = std::collections::BTreeMap::new();
    while !["ann", "late"].iter().all(|user| left.contains_key(*user)) {
        let event = events.next_within(HEALED).await;
        left.insert(event.id.clone(), event);
    }
    let is_right = |id: &str, online| left.get(id).is_none_or(|event| event.online == online);
    assert!(is_right("hid", false) && is_right("gone", false), "{left:?}");
    assert!(left["ann"].online && left["ann"].user["status"].is_null());
    assert!(left["ann"].version > known);
    assert!(!left["late"].online);
    // A user who was made in the lost writes is unknown, and connects again.
    let beat = json!({"user_id": "late", "connection_id": "1"});
    let beaten = answer(&client, "heartbeat", beat.clone(), HEALED).await;
    assert_eq!(beaten["unknown"], json!([beat]));
    // All goes on; nobody who was invisible or deleted is back.
    let body = json!({"users": [{"id": "ann", "status": "again"}]});
    answer(&client, "upsert_users", body, HEALED).await;
    let body = json!({"user": {"id": "late"}, "connection_id": "2"});
    answer(&client, "connect", body, HEALED).await;
    agree(&client, "ann", HEALED, |ann| ann.is_some_and(|ann| ann["status"] == "again")).await;
    agree(&client, "late", HEALED, |late| late.is_some_and(|late| late["online"] == true)).await;
    agree(&client, "hid", HEALED, |hid| hid.is_some_and(|hid| hid["online"] == false)).await;
    agree(&client, "gone", HEALED, |gone| gone.is_none()).await;
    for daemon in &daemons {
        assert_eq!(noticed(daemon).len(), 1, "{:?}", noticed(daemon));
    }
}

/// Two daemons lose the newest writes of `ann` and the connection; another daemon writes on before
/// they are back.
async fn replayed_after(others: &[&str]) {
    let mut server = Server::start().await;
    let daemons = [Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, NO_GRACE).await];
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;
    client.upsert(json!({"id": "bob", "status": "kept"})).await;
    client.upsert(json!({"id": "eve", "status": "kept"})).await;
    let copy = server.copy_store();
    for n in 0..5 {
        client.upsert(json!({"id": "ann", "status": format!("lost {n}")})).await;
    }
    daemons.iter().for_each(Daemon::pause);
    server.vanish();
    server.put_back(&copy);
    server.appear().await;
    let client = Client::connect(&server).await;
    let another = Daemon::spawn(&server, NO_GRACE).await;
    for (n, id) in others.iter().enumerate() {
        let user = json!({"id": id, "status": format!("new {n}")});
        answer(&client, "upsert_users", json!({"users": [user]}), HEALED).await;
    }
    another.stop().await;
    daemons.iter().for_each(Daemon::resume);
    for id in ["ann", "bob"] {
        let newest = others.iter().rposition(|each| *each == id);
        let status = newest.map(|n| json!(format!("new {n}")));
        let is_right = |user: Option<&serde_json::Value>| {
            user.is_some_and(|user| status.as_ref().is_none_or(|status| user["status"] == *status))
        };
        agree(&client, id, HEALED, is_right).await;
    }
    for daemon in &daemons {
        let line = eventually("it is noticed", HEALED, async || noticed(daemon).pop()).await;
        assert!(line.contains("is not the one that was known"), "{line}");
    }
}

#[tokio::test]
async fn a_stream_whose_lost_writes_were_followed_by_others_is_replayed() {
    replayed_after(&["bob", "new", "new", "new", "new", "new", "new"]).await;
}

#[tokio::test]
async fn a_stream_that_was_written_over_by_the_same_users_is_replayed() {
    // What `bob` is now was stored at a sequence that the others had seen with another message;
    // `ann`, whose newest message was lost, has a newer one.
    replayed_after(&["bob", "ann", "ann", "ann", "ann", "ann", "ann", "ann"]).await;
}
