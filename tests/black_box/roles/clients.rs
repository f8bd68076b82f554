//! Users' own clients: all that they are for, over TCP and from a browser.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::guarded::{Guarded, Member, OTHER_KEY, OTHER_SEED, channel, entry};

/// Does all that a client is for, and hears what it may.
async fn live(john: &Member, service: &Member, connection: &str) {
    let mut events = john.hear("user.presence.changed.jack").await;
    let client = &john.client;
    let connected = client.get("connect", json!({"connection_id": connection})).await;
    assert_eq!(connected["me"]["id"], "john");
    let heartbeat = client.get("heartbeat", json!({"connection_id": connection})).await;
    assert_eq!(heartbeat["unknown"], json!([]));
    let idle = json!({"connection_id": connection, "idle": true});
    client.get("update_connection", idle).await;
    client.get("upsert_users", json!({"users": [{"status": connection}]})).await;
    assert_eq!(service.client.see("john").await.unwrap()["status"], connection);
    let named = json!({"type": "messaging", "id": "ours", "presence": true});
    let watched = client.get("watch_channel", named).await;
    let subjects = json!(["user.presence.changed.john", "user.presence.changed.jack"]);
    assert_eq!(watched["presence"]["subjects"], subjects);
    let found = client.get("query_channels", json!({"presence": true})).await;
    assert_eq!(found["channels"].as_array().unwrap().len(), 1, "{found}");

    service.client.connect_user("jack", connection).await;
    client.get("disconnect", json!({"connection_id": connection})).await;
    assert_eq!(events.subjects(), ["user.presence.changed.jack"]);
    service.client.disconnect("jack", connection).await;
    assert_eq!(john.refusals(), Vec::<String>::new());
}

#[tokio::test]
async fn live_over_tcp_and_from_a_browser() {
    let (server, daemon, service) = Guarded::served(&[("LIVENESS__OFFLINE_GRACE", "0s")]).await;
    channel(&service, "ours", &["john", "jack"]).await;
    channel(&service, "theirs", &["jack", "anna"]).await;
    live(&server.john().await, &service, "tcp").await;
    live(&server.john_in_a_browser().await, &service, "browser").await;
    daemon.stop().await;
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn are_added_without_a_restart_and_can_do_nothing_without_permissions() {
    let (server, daemon, service) = Guarded::served(&[]).await;
    let john = server.john().await;
    let shipped = server.text();
    let (end, user) = entry(&shipped, "$JOHN_KEY");
    let (before, after) = shipped.split_at(end);

    server.reload(&format!("{before}{{ nkey: {OTHER_KEY} }}\n{after}")).await;
    let anna = server.log_in(OTHER_SEED, "_INBOX_anna").await.own("anna");
    anna.may_not_hear("_INBOX_anna.>").await;
    anna.may_not_hear("user.presence.changed.john").await;
    let connect = anna.client.subject("connect");
    anna.nats().publish(connect.clone(), "{}".into()).await.unwrap();
    anna.is_refused(&format!("Publish to \"{connect}\"")).await;

    let added = user.replace("$JOHN_KEY", OTHER_KEY).replace("john", "anna");
    server.reload(&format!("{before}{added}{after}")).await;
    let anna = server.log_in(OTHER_SEED, "_INBOX_anna").await.own("anna");
    let connected = anna.client.get("connect", json!({"connection_id": "c"})).await;
    assert_eq!(connected["me"]["id"], "anna");
    // The others were not disconnected.
    john.client.get("connect", json!({"connection_id": "c"})).await;
    assert_eq!(john.nats().statistics().connects.load(Ordering::Relaxed), 1);
    assert!(service.client.see("anna").await.is_some());
    daemon.stop().await;
}
