//! The daemon: all that it does, it is allowed to do.

use std::time::Duration;

use serde_json::{Value, json};

use super::guarded::{Guarded, OTHER_KEY, OTHER_SEED, entry};
use crate::support::heart::Heart;
use crate::support::{Daemon, Settings, eventually};

const BOUND: Duration = Duration::from_secs(20);

/// A short lease, and nobody who leaves is still online.
const SHORT: Settings<'static> = &[
    ("LIVENESS__LEASE", "2s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ("LIVENESS__OFFLINE_GRACE", "0s"),
    ("LIMITS__REQUEST_TIMEOUT", "10s"),
];

#[tokio::test]
async fn serves_every_operation() {
    let (server, daemon, service) = Guarded::served(SHORT).await;
    let service = &service.client;
    service.connect_user("john", "c").await;
    service.get("heartbeat", json!({"user_id": "john", "connection_id": "c"})).await;
    service.upsert(json!({"id": "jack", "status": "hi"})).await;
    assert_eq!(service.see_all(&["john", "jack"]).await.len(), 2);
    let channel = json!({"type": "messaging", "id": "c", "members": ["john", "jack"]});
    service.get("upsert_channel", channel.clone()).await;
    let named = json!({"type": "messaging", "id": "c", "presence": true});
    assert_eq!(service.get("watch_channel", named.clone()).await["channel"]["member_count"], 2);
    let found = service.get("query_channels", json!({"presence": true})).await;
    assert_eq!(found["channels"].as_array().unwrap().len(), 1);
    service.get("explain", json!({"user_id": "john"})).await;
    let ops = json!([{"op": "disconnect", "user_id": "john", "connection_id": "c"}]);
    service.get("batch", json!({"ops": ops})).await;
    assert_eq!(service.disconnect("john", "c").await["disconnected"], 0);
    service.get("delete_users", json!({"ids": ["john"]})).await;
    service.get("delete_channel", json!({"type": "messaging", "id": "c"})).await;
    daemon.stop().await;
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// The ids of the daemons that show what `look` finds when they explain a user.
async fn daemons_that_show(
    service: &crate::support::Client,
    user: &str,
    look: impl Fn(&Value) -> bool,
) -> std::collections::BTreeSet<String> {
    let mut daemons = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let explained = service.get("explain", json!({"user_id": user})).await;
        if look(&explained) {
            daemons.insert(explained["seen_by"].as_str().unwrap().to_owned());
        }
    }
    daemons
}

#[tokio::test]
async fn hears_expires_detects_failures_and_leaves_beside_another() {
    let (server, mut first, service) = Guarded::served(SHORT).await;
    // Enough for the feed of the second one to need flow control.
    let status = "x".repeat(1000);
    for chunk in 0..60 {
        let users = (0..100).map(|n| json!({"id": format!("u{chunk}-{n}"), "status": status}));
        let users = json!({"users": users.collect::<Vec<_>>()});
        service.client.get("upsert_users", users).await;
    }
    let mut second = server.daemon(SHORT, &service).await;
    let client = &service.client;

    let on_lease = json!({"user": {"id": "kept"}, "connection_id": "c", "lease": "gateway"});
    client.get("connect", on_lease).await;
    let heart = Heart::of_lease(client, "gateway");
    client.connect_user("silent", "c").await;
    let heard = |explained: &Value| explained["connections"][0]["last_heard"].is_string();
    eventually("both hear the heartbeats", BOUND, async || {
        (daemons_that_show(client, "kept", heard).await.len() == 2).then_some(())
    })
    .await;
    eventually("who is silent is offline", BOUND, async || {
        (client.see("silent").await?["online"] == false).then_some(())
    })
    .await;
    assert_eq!(client.see("kept").await.unwrap()["online"], true);
    drop(heart);
    eventually("who falls silent is offline", BOUND, async || {
        (client.see("kept").await?["online"] == false).then_some(())
    })
    .await;

    first.kill();
    second.logs("a daemon is gone").await;
    second.stop().await;
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn its_key_does_not_open_the_door_for_browsers() {
    let server = Guarded::start().await;
    assert!(!server.lets_in_browsers(Guarded::daemon_login()).await);
    // The same key is let in elsewhere.
    server.as_daemon().await;
}

#[tokio::test]
async fn may_do_nothing_beyond_its_work() {
    let server = Guarded::start().await;
    let daemon = server.as_daemon().await;
    for subject in [
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.DELETE.KV_presence",
        "$JS.API.STREAM.PURGE.KV_presence",
        "$JS.API.STREAM.CREATE.other",
        "$KV.other.x",
        "presence.v1.connect",
        "presence.v1.heartbeat.john",
        "user.presence",
    ] {
        daemon.may_not_say(subject, json!({})).await;
    }
    daemon.may_not_hear("presence.v1.>").await;
    daemon.may_not_hear("$KV.presence.>").await;
    daemon.may_not_hear(">").await;
    daemon.may_not_join("presence.v1.>", "another").await;
    assert_eq!(daemon.refusals(), Vec::<String>::new());
}

#[tokio::test]
async fn says_what_is_missing_when_it_may_not_answer() {
    let without = |text: String| text.replacen("\"_R_.>\"\n", "", 1);
    let server = Guarded::start_with(without).await;
    let service = server.service().await;
    let (seed, inbox) = Guarded::daemon_login();
    let settings = &[("NATS__NKEY", seed), ("NATS__INBOX_PREFIX", inbox)];
    let mut daemon = Daemon::launch(&server.url(), settings);
    daemon.logs("\"ready\"").await;
    let body = json!({"user": {"id": "john"}, "connection_id": "c"});
    let unanswered = Duration::from_secs(1);
    assert!(service.client.attempt("connect", body, unanswered).await.is_none());
    let line = daemon.logs("_R_.>").await;
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("grant publish on \"_R_.>\""), "{line}");
}

#[tokio::test]
async fn moves_to_another_key_without_a_gap() {
    let (server, first, service) = Guarded::served(SHORT).await;
    service.client.connect_user("john", "c").await;
    let shipped = server.text();
    let (end, user) = entry(&shipped, "$DAEMON_KEY");
    let second_user = user.replace("$DAEMON_KEY", OTHER_KEY);
    let both = format!("{}{second_user}{}", &shipped[..end], &shipped[end..]);
    server.reload(&both).await;
    let second = server.daemon_with(OTHER_SEED, SHORT, &service).await;
    first.stop().await;
    let (_, key) = shipped.split_once("DAEMON_KEY = \"").unwrap();
    let (key, _) = key.split_once('"').unwrap();
    server.reload(&shipped.replace(key, OTHER_KEY)).await;
    assert!(service.client.see("john").await.is_some());
    service.client.connect_user("jack", "c").await;
    let (seed, inbox) = Guarded::daemon_login();
    let old = &[("NATS__NKEY", seed), ("NATS__INBOX_PREFIX", inbox)];
    Daemon::launch(&server.url(), old).logs("refuses the connection").await;
    let lines = second.lines();
    assert!(!lines.iter().any(|line| line.to_string().contains("lost the connection")));
    second.stop().await;
}
