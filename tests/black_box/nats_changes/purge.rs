//! Messages are purged from the stream behind the daemons' back.

use serde_json::{Value, json};

use super::{NOTICED, agree, noticed};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Events, Server, within};

async fn purge(client: &Client, what: Value) {
    let payload = what.to_string().into_bytes().into();
    let reply = client.nats.request("$JS.API.STREAM.PURGE.KV_presence", payload).await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
}

async fn purged(what: Value, gone: &[&str], left: &[&str]) {
    let server = Server::start().await;
    let daemons = [Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, NO_GRACE).await];
    let client = Client::connect(&server).await;
    for user in gone.iter().chain(left) {
        client.connect_user(user, "1").await;
    }
    client.get("connect", json!({"user": {"id": "hid", "invisible": true}})).await;
    let known = client.see(gone[0]).await.unwrap()["version"].as_u64().unwrap();
    let mut events = Events::of_all(&client).await.newer_only();

    purge(&client, what).await;

    let all_events = async {
        let mut heard = Vec::new();
        while heard.len() < gone.len() {
            let event = events.next().await;
            assert!(!event.online && event.version > known, "{event:?}");
            heard.push(event.id);
        }
        heard.sort_unstable();
        heard
    };
    assert_eq!(within("the events", NOTICED, all_events).await, gone);
    for user in gone {
        agree(&client, user, NOTICED, |user| user.is_none()).await;
    }
    for user in left {
        agree(&client, user, NOTICED, |user| user.is_some_and(|user| user["online"] == true)).await;
    }
    client.connect_user(gone[0], "2").await;
    agree(&client, gone[0], NOTICED, |user| user.is_some_and(|user| user["online"] == true)).await;
    // The writes of the daemon that notices first may look like ordinary changes to the other.
    let lines: Vec<_> = daemons.iter().map(noticed).collect();
    assert!(lines.iter().all(|lines| lines.len() <= 1), "{lines:?}");
    assert!(lines.iter().any(|lines| lines.len() == 1), "{lines:?}");
    assert!(events.arrived().iter().all(|event| event.id == gone[0]), "nothing else is announced");
}

#[tokio::test]
async fn a_bucket_that_is_purged_under_running_daemons_is_replayed() {
    purged(json!({}), &["ann", "bob"], &[]).await;
}

#[tokio::test]
async fn a_key_that_is_purged_under_running_daemons_is_noticed() {
    purged(json!({"filter": "$KV.presence.user.ann"}), &["ann"], &["bob", "cid"]).await;
}
