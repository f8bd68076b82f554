//! The server takes smaller messages than it did, or than it says to everybody. No message beyond
//! its limit is sent, and requests that need one are refused with that limit.

use serde_json::{Value, json};

use super::{HEALED, answer};
use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::{Client, Daemon, Refused, Server, eventually};

/// Users of about 4 KiB each.
async fn make_users(client: &Client, count: usize) {
    for n in 0..count {
        let user = json!({"id": format!("u{n}"), "bio": "x".repeat(4000)});
        client.get("upsert_users", json!({"users": [user]})).await;
    }
}

/// A refusal for the size of an answer, or of a record, that names a limit of at most `bytes`.
fn is_limit(refused: &Refused, bytes: u64) {
    assert_eq!(refused.code, "too_large", "{refused:?}");
    let limit = refused.details["limit"].as_u64().unwrap();
    assert!(limit <= bytes && limit > bytes / 2, "{refused:?}");
}

fn lost_connections(daemon: &Daemon) -> usize {
    let lost = |line: &Value| line["message"].as_str().is_some_and(|m| m.contains("lost the conn"));
    daemon.lines().iter().filter(|line| lost(line)).count()
}

/// A server whose account has a limit that it tells only after the login.
async fn limited(bytes: u64) -> Server {
    let config = format!(
        "accounts {{ A {{ jetstream: enabled, users: [{{user: a, password: a}}], \
         limits: {{max_payload: {bytes}}} }} }}\nno_auth_user: a\n"
    );
    Server::start_with(Options { config, ..Options::default() }).await
}

#[tokio::test]
async fn the_limit_of_an_account_counts_for_answers() {
    let server = limited(32 << 10).await;
    let daemon = Daemon::spawn(&server, &[]).await;
    let client = Client::connect(&server).await;
    make_users(&client, 10).await;
    for _ in 0..3 {
        is_limit(&client.refused("query_users", json!({})).await, 32 << 10);
    }
    assert_eq!(client.query(json!({"limit": 5})).await.len(), 5);
    assert_eq!(lost_connections(&daemon), 0);
}

#[tokio::test]
async fn the_limit_of_an_account_counts_for_records() {
    let server = limited(4 << 10).await;
    let mut daemon = Daemon::spawn(&server, &[("METRICS__LISTEN", "127.0.0.1:0")]).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    let user = json!({"id": "u", "bio": "x".repeat(3500)});
    for _ in 0..3 {
        is_limit(&client.refused("upsert_users", json!({"users": [user]})).await, 4 << 10);
    }
    assert_eq!(http.get("/readyz").await.status, 200, "it is the matter of one key");
    client.upsert(json!({"id": "u", "bio": "x".repeat(1500)})).await;
    assert_eq!(lost_connections(&daemon), 0);
}

#[tokio::test]
async fn a_limit_that_is_lowered_or_raised_by_a_reload_counts_soon() {
    let mut server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, &[]).await;
    let client = Client::connect(&server).await;
    make_users(&client, 10).await;
    assert_eq!(client.query(json!({})).await.len(), 10);
    server.reload("max_payload: 32768\n".to_owned()).await;
    daemon.logs("(`max_payload`) has changed").await;
    for _ in 0..3 {
        is_limit(&client.refused("query_users", json!({})).await, 32 << 10);
    }
    assert_eq!(lost_connections(&daemon), 0);
    server.reload(String::new()).await;
    eventually("all are shown again", HEALED, async || {
        let answer = answer(&client, "query_users", json!({"limit": 5}), HEALED).await;
        assert_eq!(answer["users"].as_array().unwrap().len(), 5);
        client.ask("query_users", json!({})).await.ok()
    })
    .await;
}
