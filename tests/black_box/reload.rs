//! SIGHUP: what counts at once, what needs a restart, and a file that cannot be used.

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Manager, Server};

const RELOADED_LINE: &str = "read the settings again";

const FIXED: &str = "changed settings that count only after a restart";
const UNUSABLE: &str = "the settings cannot be used; the previous ones stay in force";

fn saying(daemon: &Daemon, message: &str) -> Vec<Value> {
    daemon.lines().into_iter().filter(|line| line["message"] == message).collect()
}

fn debugs(daemon: &Daemon) -> bool {
    daemon.lines().iter().any(|line| line["level"] == "DEBUG")
}

async fn start(file: &str) -> (Server, Daemon, Client, Manager) {
    let server = Server::start().await;
    let manager = Manager::at_a_path();
    let environment = [manager.environment()];
    let daemon = Daemon::launch_under(&server.url(), NO_GRACE, file, &environment);
    manager.ready().await;
    let client = Client::connect(&server).await;
    (server, daemon, client, manager)
}

/// Has the settings read again, and hears what systemd is told. Returns when that began.
async fn reload(daemon: &Daemon, manager: &Manager) -> u64 {
    daemon.hang_up();
    let heard = manager.hear_until("RELOADING", |message| message.has("RELOADING=1")).await;
    let since = heard.last().unwrap().value("MONOTONIC_USEC").unwrap().parse().unwrap();
    let heard = manager.ready().await;
    assert_eq!(heard.last().unwrap().status(), "serving");
    since
}

#[tokio::test]
async fn a_changed_limit_and_log_level_count_once_systemd_hears_ready() {
    let (_server, mut daemon, client, manager) = start("[limits]\n").await;
    client.connect_user("john", "1").await;
    assert!(!debugs(&daemon));
    let limits = "[limits]\nconnections_per_user = 2\ntrusted_fields = [\"role\"]\n";
    daemon.rewrite(&format!("{limits}[log]\nlevel = \"debug,async_nats=trace\"\n"));
    let first = reload(&daemon, &manager).await;

    client.connect_user("john", "2").await;
    let third = json!({"user": {"id": "john"}, "connection_id": "3"});
    let refused = client.refused("connect", third.clone()).await;
    assert_eq!(refused.code, "limit_exceeded");
    assert_eq!(refused.details["limit"], 2);
    let batch = json!({"ops": [{"op": "connect", "user": {"id": "john"}}]});
    let answer = client.get("batch", batch).await;
    assert_eq!(answer["results"][0]["error"]["code"], "limit_exceeded", "{answer}");
    let own = json!({"users": [{"role": "admin"}]});
    let refused = client.of("john").refused("upsert_users", own).await;
    assert_eq!(refused.code, "forbidden_field");
    let message = daemon.logs(RELOADED_LINE).await;
    assert_eq!(message["changed"], "limits.connections_per_user, limits.trusted_fields, log.level");
    daemon.logs("async_nats").await;
    assert!(debugs(&daemon) && saying(&daemon, FIXED).is_empty());

    daemon.rewrite("");
    let second = reload(&daemon, &manager).await;
    assert!(second > first);
    client.get("connect", third).await;
    daemon.stop().await;
}

#[tokio::test]
async fn fewer_pending_requests_are_taken_and_the_time_of_a_request_changes() {
    let (_server, daemon, client, manager) = start("[limits]\n").await;
    client.connect_user("john", "1").await;
    daemon.rewrite("[limits]\npending_requests = 1\nrequest_timeout = \"20s\"\n");
    reload(&daemon, &manager).await;
    let ops =
        json!([{"op": "connect", "user": {"id": "a"}}, {"op": "connect", "user": {"id": "b"}}]);
    let (batch, other) = (json!({"ops": ops}), json!({"user": {"id": "c"}, "connection_id": "1"}));
    // Many at once: one is taken at a time.
    let attempts = (0..50).map(|_| client.ask("batch", batch.clone()));
    let answers = futures_util::future::join_all(attempts).await;
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    let refused: Vec<_> = refused.map(|refused| refused.code.as_str()).collect();
    assert!(!refused.is_empty() && refused.iter().all(|code| *code == "overloaded"), "{refused:?}");
    client.get("connect", other).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_in_one_line_each_time_until_it_is_undone() {
    let (_server, mut daemon, client, manager) = start("").await;
    daemon.rewrite(
        "[liveness]\nlease = \"90s\"\n[store]\nbucket = \"other\"\n\
         [channel_types.team]\npresence = false\n\
         [limits]\nconnections_per_user = 1\n",
    );
    reload(&daemon, &manager).await;
    reload(&daemon, &manager).await;
    let message = daemon.logs(FIXED).await;
    assert_eq!(message["level"], "WARN");
    assert_eq!(message["settings"], "store.bucket, liveness.lease, channel_types");
    assert_eq!(saying(&daemon, FIXED).len(), 2);
    client.connect_user("john", "1").await;
    let second = json!({"user": {"id": "john"}, "connection_id": "2"});
    assert_eq!(client.refused("connect", second.clone()).await.code, "limit_exceeded");
    daemon.rewrite("");
    reload(&daemon, &manager).await;
    assert_eq!(saying(&daemon, FIXED).len(), 2);
    client.get("connect", second).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_logged_in_one_line_and_changes_nothing() {
    let (_server, mut daemon, client, manager) =
        start("[limits]\nconnections_per_user = 1\n").await;
    daemon.rewrite("[limits]\nconnections_per_user = 0\nrequest_timeout = \"5s\"\n");
    reload(&daemon, &manager).await;
    let message = daemon.logs(UNUSABLE).await;
    assert_eq!(message["level"], "ERROR");
    let error = message["error"].as_str().unwrap();
    assert!(
        error.contains("limits.connections_per_user is 0") && error.contains("1 to 1000"),
        "{error}"
    );
    assert_eq!(saying(&daemon, UNUSABLE).len(), 1);
    client.connect_user("john", "1").await;
    let second = json!({"user": {"id": "john"}, "connection_id": "2"});
    assert_eq!(client.refused("connect", second).await.code, "limit_exceeded");
    daemon.stop().await;
}

#[tokio::test]
async fn a_signal_while_it_starts_counts_when_it_serves_and_without_systemd() {
    let mut server = Server::absent(crate::support::server::Options::default());
    let mut daemon = Daemon::launch_with_file(&server.url(), NO_GRACE, "");
    daemon.logs("waiting for NATS").await;
    daemon.rewrite("[limits]\nconnections_per_user = 1\n");
    daemon.hang_up();
    server.appear().await;
    daemon.ready(&server).await;
    assert_eq!(daemon.logs(RELOADED_LINE).await["changed"], "limits.connections_per_user");
    let client = Client::connect(&server).await;
    client.connect_user("john", "1").await;
    let second = json!({"user": {"id": "john"}, "connection_id": "2"});
    assert_eq!(client.refused("connect", second).await.code, "limit_exceeded");
    daemon.stop().await;
}
