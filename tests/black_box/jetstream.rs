//! The location of JetStream, and the limits of its account.

use std::time::Duration;

use async_nats::ConnectOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nats_changes::{HEALED, agree};
use crate::support::http::Http;
use crate::support::server::{Options, free_port, stream};
use crate::support::{Client, Daemon, Server, eventually};

#[tokio::test]
async fn a_daemon_at_a_leaf_without_jetstream_uses_that_of_the_hub() {
    let port = free_port();
    let hub = Domain::start("hub", &hub_config(port)).await;
    let config = leaf_config(port);
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

/// A server of a domain of JetStream.
struct Domain {
    server: Server,
    _store: TempDir,
}

impl Domain {
    async fn start(name: &str, config: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let jetstream = format!("jetstream {{ domain: {name}, store_dir: {:?} }}\n", store.path());
        let config = jetstream + config;
        let options = Options { jetstream: false, config, ..Options::default() };
        Self { server: Server::start_with(options).await, _store: store }
    }

    /// A hub, and a leaf node with a domain of its own.
    async fn hub_and_edge() -> [Self; 2] {
        let port = free_port();
        let hub = Self::start("hub", &hub_config(port)).await;
        [hub, Self::start("edge", &leaf_config(port)).await]
    }
}

fn hub_config(port: u16) -> String {
    format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}\n")
}

fn leaf_config(port: u16) -> String {
    format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}\n")
}

#[tokio::test]
async fn a_daemon_at_a_leaf_with_jetstream_uses_that_of_the_hub_if_it_is_told_to() {
    let [hub, edge] = Domain::hub_and_edge().await;
    let _at_hub = Daemon::spawn(&hub.server, &[]).await;
    let _at_edge = Daemon::spawn(&edge.server, &[("NATS__JS_DOMAIN", "hub")]).await;
    let client = Client::connect(&edge.server).await;
    client.connect_user("john", "c").await;
    let stored = stream(&hub.server.connect().await, "presence").await;
    assert_eq!(stored["state"]["num_subjects"], json!(1), "{stored}");
    let own = stream(&client.nats, "presence").await;
    assert_eq!(own["error"]["err_code"], json!(10_059), "no stream of its own: {own}");
    agree(&client, "john", HEALED, |john| john.is_some_and(|john| john["online"] == true)).await;
}

#[tokio::test]
async fn of_two_daemons_with_the_jetstream_of_hub_and_leaf_only_the_older_serves() {
    let [hub, edge] = Domain::hub_and_edge().await;
    let mut at_hub = Daemon::spawn(&hub.server, &[]).await;
    let client = Client::connect(&hub.server).await;
    client.connect_user("john", "c").await;
    // Daemons that start within a second count as equally old.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let settings = [("METRICS__LISTEN", "127.0.0.1:0")];
    let mut at_edge = Daemon::spawn(&edge.server, &settings).await;
    let http = Http::of(&mut at_edge).await;
    eventually("the one at the leaf is not ready", HEALED, async || {
        let page = http.get("/readyz").await;
        (page.status == 503 && page.body.contains("cell")).then_some(())
    })
    .await;
    at_hub.logs("keep their records in two streams").await;
    for client in [client, Client::connect(&edge.server).await] {
        let is_right = |john: Option<&Value>| john.is_some_and(|john| john["online"] == true);
        agree(&client, "john", HEALED, is_right).await;
    }
}

/// An account that holds the bucket, and one of the daemons that imports its JetStream.
const IMPORTED: &str = r#"
accounts {
    HOLDER {
        jetstream: enabled
        users: [ { user: holder, password: holder } ]
        exports: [
            { service: "$JS.API.>" }
            { service: "$KV.presence.>" }
            { service: "$JS.FC.>" }
            { stream: "_INBOX.>" }
        ]
    }
    DAEMONS {
        users: [ { user: daemon, password: daemon } ]
        imports: [
            { service: { account: HOLDER, subject: "$JS.API.>" }, to: "JS.holder.API.>" }
            { service: { account: HOLDER, subject: "$KV.presence.>" }, to: "JS.holder.API.$KV.presence.>" }
            { service: { account: HOLDER, subject: "$JS.FC.>" } }
            { stream: { account: HOLDER, subject: "_INBOX.>" } }
        ]
    }
}
no_auth_user: daemon
"#;

#[tokio::test]
async fn a_daemon_uses_jetstream_that_is_imported_from_another_account() {
    let options = Options { config: IMPORTED.to_owned(), ..Options::default() };
    let server = Server::start_with(options).await;
    let settings = [("NATS__JS_API_PREFIX", "JS.holder.API")];
    let _daemons =
        [Daemon::spawn(&server, &settings).await, Daemon::spawn(&server, &settings).await];
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    agree(&client, "john", HEALED, |john| john.is_some_and(|john| john["online"] == true)).await;
    let login = ConnectOptions::with_user_and_password("holder".to_owned(), "holder".to_owned());
    let stored = stream(&login.connect(server.url()).await.unwrap(), "presence").await;
    assert_eq!(stored["state"]["num_subjects"], json!(1), "{stored}");
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
