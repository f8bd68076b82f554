//! Records that this version cannot read, or does not know all of.

use async_nats::jetstream;
use serde_json::{Value, json};

use crate::support::server::last;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Refused, Stage};

async fn put(client: &Client, key: &str, value: &str) -> u64 {
    let js = jetstream::new(client.nats.clone());
    let stored = js.publish(format!("$KV.presence.{key}"), value.to_owned().into()).await.unwrap();
    stored.await.unwrap().sequence
}

async fn stored(client: &Client, key: &str) -> Value {
    serde_json::from_slice(&last(&client.nats, key).await.unwrap().payload).unwrap()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_unavailable_and_never_overwritten() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.connect_user("john", "c").await;
    let newer = json!({"v": 2, "created_at": "a form of the future"}).to_string();
    for (id, text) in [("x", "hello"), ("y", newer.as_str()), ("z", "")] {
        let rev = put(client, &format!("user.{id}"), text).await;
        client.see("john").await;
        let connection = json!({"user_id": id, "connection_id": "c"});
        for (operation, body) in [
            ("connect", json!({"user": {"id": id}, "connection_id": "c"})),
            ("disconnect", connection),
            ("upsert_users", json!({"users": [{"id": id, "status": "s"}]})),
            ("delete_users", json!({"ids": [id]})),
            ("explain", json!({"user_id": id})),
            ("query_users", json!({"filter": {"id": {"$in": ["john", id]}}})),
        ] {
            let refused = client.refused(operation, body).await;
            assert_eq!(refused.code, "unavailable", "{operation} {text}: {refused:?}");
        }
        let ops = json!({"ops": [
            {"op": "connect", "user": {"id": id}},
            {"op": "upsert_users", "users": [{"id": "john", "status": id}]}
        ]});
        let results = client.get("batch", ops).await["results"].clone();
        assert_eq!(Refused::read(&results[0]["error"]).code, "unavailable");
        let message = last(&client.nats, &format!("user.{id}")).await.unwrap();
        assert_eq!((message.sequence, &message.payload[..]), (rev, text.as_bytes()));
        assert_eq!(client.see("john").await.unwrap()["status"], id, "others are served");
    }
    let told = stage.daemon.lines().iter().filter(|line| line["level"] == "ERROR").count();
    assert_eq!(told, 3, "each is told once");
    assert_eq!(client.query(json!({})).await.len(), 1, "a query that names none of them is served");
}

#[tokio::test]
async fn a_record_that_is_repaired_is_served_again() {
    let mut stage = Stage::start(NO_GRACE).await;
    let client = stage.client.clone();
    client.connect_user("john", "c").await;
    let good = last(&client.nats, "user.john").await.unwrap().payload;
    put(&client, "user.john", "hello").await;
    client.see("nobody").await;
    client.refused("upsert_users", json!({"users": [{"id": "john", "status": "s"}]})).await;
    put(&client, "user.john", std::str::from_utf8(&good).unwrap()).await;
    client.see("john").await;
    client.upsert(json!({"id": "john", "status": "s"})).await;
    assert_eq!(stage.events.arrived().last().unwrap().user["status"], "s");
}

#[tokio::test]
async fn fields_that_this_version_does_not_know_are_kept_when_it_writes() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.connect_user("john", "c").await;
    let mut record = stored(client, "user.john").await;
    assert_eq!(record["v"], 1);
    record["mood"] = json!({"b": [1, 2.5, null], "a": "é"});
    record["connections"][0]["via"] = json!("tls");
    put(client, "user.john", &record.to_string()).await;
    client.see("john").await;
    client.upsert(json!({"id": "john", "status": "s", "name": "J"})).await;
    client.connect_user("john", "c").await;
    client.connect_user("john", "c2").await;
    let kept = stored(client, "user.john").await;
    assert_eq!(kept["status"], "s");
    assert_eq!(kept["mood"], record["mood"]);
    assert_eq!(kept["connections"][0]["via"], "tls");
    assert!(client.see("john").await.unwrap().get("mood").is_none());
}

#[tokio::test]
async fn every_write_names_the_daemon_that_made_it() {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("john", "c").await;
    let explained = stage.client.get("explain", json!({"user_id": "john"})).await;
    let message = last(&stage.client.nats, "user.john").await.unwrap();
    assert_eq!(explained["seen_by"], message.headers.get("Presence-Writer").unwrap().as_str());
    assert_eq!(explained["record"]["v"], 1);
}

#[tokio::test]
async fn a_change_by_another_between_two_of_ours_is_not_lost() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.upsert(json!({"id": "john", "a": 1})).await;
    let mut record = stored(client, "user.john").await;
    record["custom"]["b"] = json!(2);
    put(client, "user.john", &record.to_string()).await;
    client.upsert(json!({"id": "john", "c": 3})).await;
    let john = client.see("john").await.unwrap();
    assert_eq!((&john["a"], &john["b"], &john["c"]), (&json!(1), &json!(2), &json!(3)));
}
