//! Where JetStream is, and what its account allows.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::server::{Options, free_port, stream};
use crate::support::{Client, Daemon, Server};

#[tokio::test]
async fn a_daemon_at_a_leaf_without_jetstream_uses_that_of_the_hub() {
    let port = free_port();
    let config = format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}\n");
    let hub = Hub::with(config).await;
    let config =
        format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}\n");
    let leaf = Server::start_with(Options { jetstream: false, config, ..Options::default() }).await;
    let at_hub = Daemon::spawn(&hub.server, &[]).await;
    let at_leaf = Daemon::spawn(&leaf, &[("NATS__JS_DOMAIN", "hub")]).await;
    let client = Client::connect(&leaf).await;
    client.connect_user("john", "c").await;
    let stored = stream(&hub.server.connect().await, "presence").await;
    assert_eq!(stored["state"]["num_subjects"], json!(1), "{stored}");
    at_hub.stop().await;
    at_leaf.stop().await;
}

/// A server whose JetStream has the domain `hub`.
struct Hub {
    server: Server,
    _store: TempDir,
}

impl Hub {
    async fn with(config: String) -> Self {
        let store = tempfile::tempdir().unwrap();
        let jetstream = format!("jetstream {{ domain: hub, store_dir: {:?} }}\n", store.path());
        let options =
            Options { jetstream: false, config: jetstream + &config, ..Options::default() };
        Self { server: Server::start_with(options).await, _store: store }
    }
}

const SIZED: &str = "accounts { A { jetstream: { max_file: 100MB, max_bytes_required: true }, \
    users: [ { user: a, password: a } ] } }\nno_auth_user: a\n";

#[tokio::test]
async fn an_account_that_demands_a_size_is_recognised_and_served_with_one() {
    let server =
        Server::start_with(Options { config: SIZED.to_owned(), ..Options::default() }).await;
    let mut daemon = Daemon::launch(&server.url(), &[]);
    let line = daemon.logs("`store.max_bytes`").await;
    assert!(line.to_string().contains("10113"), "{line}");
    daemon.stop().await;
    let daemon = Daemon::spawn(&server, &[("STORE__MAX_BYTES", "10000000")]).await;
    let stored = stream(&server.connect().await, "presence").await;
    assert_eq!(stored["config"]["max_bytes"], json!(10_000_000));
    assert_eq!(stored["config"]["discard"], json!("new"));
    tokio::time::timeout(Duration::from_secs(20), daemon.stop()).await.unwrap();
}
