//! Users' own clients: all that they are for, over TCP and from a browser.

use serde_json::json;

use super::guarded::{Guarded, Member, channel};

/// Does all that a client is for, and hears what it may.
async fn live(john: &Member, service: &Member, connection: &str) {
    let mut events = john.hear("user.presence.changed.jack").await;
    let client = &john.client;
    let connected = client.get("connect", json!({"connection_id": connection})).await;
    assert_eq!(connected["me"]["id"], "john");
    let heartbeat = client.get("heartbeat", json!({"connection_id": connection})).await;
    assert_eq!(heartbeat, json!({"unknown": []}));
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
