//! Limits of JetStream. Each failure is one line of the log and a state in `/readyz`, and heals by
//! itself when the cause is gone.

use async_nats::jetstream::stream::RetentionPolicy;
use serde_json::json;

use super::refused::{SETTINGS, edit, errors, readyz_says};
use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::{Client, Daemon, Server};

/// A server with one account, whose JetStream has these limits.
async fn limited(limits: &str) -> Server {
    Server::start_with(Options { config: account(limits), ..Options::default() }).await
}

fn account(limits: &str) -> String {
    format!(
        "accounts {{ A {{ jetstream: {{ {limits} }}, users: [{{user: a, password: a}}] }} }}\n\
         no_auth_user: a\n"
    )
}

/// Writes users until one is refused. Returns the refusal's message.
async fn write_until_refused(client: &Client) -> String {
    let status = "x".repeat(900);
    for n in 0..200 {
        let body = json!({"users": [{"id": format!("u{n}"), "status": status}]});
        if let Err(refused) = client.ask("upsert_users", body).await {
            assert_eq!(refused.code, "unavailable");
            return refused.message;
        }
    }
    panic!("every write was stored");
}

#[tokio::test]
async fn an_account_without_storage_left_is_reported_and_heals_when_it_has_more() {
    let mut server = limited("max_file: 60KB").await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    let message = write_until_refused(&client).await;
    assert!(message.contains("exceeded"), "{message}");
    readyz_says(&http, 503, "writes: they are not stored").await;
    write_until_refused(&client).await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    server.reload(account("max_file: 10MB")).await;
    client.get("upsert_users", json!({"users": [{"id": "ann"}]})).await;
    readyz_says(&http, 200, "serving").await;
}

#[tokio::test]
async fn a_sealed_stream_is_reported() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    client.upsert(json!({"id": "ann"})).await;
    edit(&client, |config| {
        (config.sealed, config.deny_delete, config.deny_purge) = (true, true, true);
        config.allow_rollup = false;
    })
    .await;
    readyz_says(&http, 503, "is sealed").await;
    let refused = client.refused("upsert_users", json!({"users": [{"id": "bob"}]})).await;
    assert_eq!(refused.code, "unavailable");
    assert!(client.see("ann").await.is_some(), "queries are answered");
    readyz_says(&http, 503, "is sealed").await;
    assert!(errors(&daemon).len() <= 2, "{:?}", errors(&daemon));
}

#[tokio::test]
async fn a_stream_of_another_retention_is_reported_until_that_is_undone() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    edit(&client, |config| config.retention = RetentionPolicy::Interest).await;
    readyz_says(&http, 503, "drops old entries by itself").await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    edit(&client, |config| config.retention = RetentionPolicy::Limits).await;
    readyz_says(&http, 200, "serving").await;
}

#[tokio::test]
async fn a_limit_of_consumers_is_reported_and_heals_when_it_is_raised() {
    let mut server = limited("max_consumers: 1").await;
    let _first = Daemon::spawn(&server, SETTINGS).await;
    let mut second = Daemon::launch(&server.url(), SETTINGS);
    let http = Http::of(&mut second).await;
    readyz_says(&http, 503, "maximum consumers limit reached").await;
    server.reload(account("max_consumers: 10")).await;
    readyz_says(&http, 200, "serving").await;
}

#[tokio::test]
async fn replicas_that_cannot_be_placed_are_reported_until_there_is_a_bucket() {
    let server = Server::start().await;
    let settings = [SETTINGS, &[("STORE__REPLICAS", "3")]].concat();
    let mut daemon = Daemon::launch(&server.url(), &settings);
    let http = Http::of(&mut daemon).await;
    readyz_says(&http, 503, "replicas > 1 not supported").await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    let _other = Daemon::spawn(&server, &[]).await;
    readyz_says(&http, 200, "serving").await;
}
