//! Durability of an acknowledgement.

use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;
use crate::support::server::Options;
use crate::support::stage::{NO_GRACE, PATIENT};
use crate::support::{Client, Daemon, Server, eventually};

const USERS: usize = 200;

/// Makes users, each with a status that says who it is.
async fn make(client: &Client) {
    for chunk in (0..USERS).collect::<Vec<_>>().chunks(100) {
        let users: Vec<_> = chunk
            .iter()
            .map(|n| json!({"id": format!("u{n}"), "status": format!("s{n}")}))
            .collect();
        client.get("upsert_users", json!({"users": users})).await;
    }
}

/// Checks that all are there as they were acknowledged.
async fn all_there(client: &Client) {
    for n in 0..USERS {
        let user = client.see(&format!("u{n}")).await.expect("a user that was acknowledged");
        assert_eq!(user["status"], format!("s{n}"));
    }
}

#[tokio::test]
async fn a_killed_daemon_and_a_killed_server_lose_nothing_that_was_acknowledged() {
    let mut server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    make(&client).await;
    daemon.kill();
    server.vanish();
    server.appear().await;
    let _next = Daemon::spawn(&server, NO_GRACE).await;
    all_there(&Client::connect(&server).await).await;
}

#[tokio::test]
async fn with_three_replicas_one_node_may_be_lost_for_good() {
    let mut cluster = Cluster::start(3).await;
    let settings = [("STORE__REPLICAS", "3"), ("LIMITS__REQUEST_TIMEOUT", "5s")];
    let mut daemon = Daemon::launch(&cluster.urls(), &settings);
    daemon.logs("\"ready\"").await;
    let client = Client::trusted(cluster.connect().await, "presence");
    make(&client).await;
    let leader = cluster.leader(&client.nats).await;
    cluster.kill(leader);
    eventually("requests are served again", Duration::from_secs(60), async || {
        let bound = Duration::from_secs(6);
        let body = json!({"users": [{"id": "after", "status": "written"}]});
        client.attempt("upsert_users", body, bound).await?.ok()
    })
    .await;
    all_there(&client).await;
}

#[tokio::test]
async fn a_server_that_syncs_every_write_serves_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("jetstream {{ store_dir: {:?}, sync_interval: always }}\n", folder.path());
    let server =
        Server::start_with(Options { jetstream: false, config, ..Options::default() }).await;
    let _daemon = Daemon::spawn(&server, PATIENT).await;
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    assert_eq!(client.see("john").await.unwrap()["online"], true);
}
