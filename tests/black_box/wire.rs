//! The wire as others speak it: a client in Python, and the NATS service protocol.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::wait::eventually;
use crate::support::{Daemon, Stage};

#[tokio::test]
async fn a_client_in_python_is_served() {
    let stage = Stage::start(NO_GRACE).await;
    let path = text(&run(&mut Command::new(in_project("scripts/nats-py"))));
    let mut client = Command::new("python3");
    client.arg(in_project("tests/python/client.py")).arg(stage.server.url());
    client.env("PYTHONPATH", path.trim());
    run(&mut client);
}

fn in_project(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn asked(stage: &Stage, what: &str) -> Value {
    let reply = stage.client.nats.request(what.to_owned(), Vec::new().into()).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

#[tokio::test]
async fn the_daemon_answers_as_a_nats_service_whose_endpoints_are_the_operations() {
    let stage = Stage::start(NO_GRACE).await;
    let ping = asked(&stage, "$SRV.PING.presence").await;
    assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
    assert_eq!(ping["name"], "presence");
    let id = ping["id"].as_str().unwrap();
    let info = asked(&stage, &format!("$SRV.INFO.presence.{id}")).await;
    assert_eq!(info["type"], "io.nats.micro.v1.info_response");
    assert_eq!(info["id"], id);
    let endpoints = info["endpoints"].as_array().unwrap();
    for operation in [
        "connect",
        "heartbeat",
        "disconnect",
        "upsert_users",
        "delete_users",
        "query_users",
        "batch",
        "explain",
    ] {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == operation).unwrap();
        assert_eq!(endpoint["subject"], format!("presence.v1.{operation}"));
    }
    stage.client.connect_user("john", "c").await;
    stage.client.refused("connect", json!({})).await;
    let stats = asked(&stage, &format!("$SRV.STATS.presence.{id}")).await;
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    let state = eventually("it counts the user", Duration::from_secs(5), async || {
        let stats = asked(&stage, &format!("$SRV.STATS.presence.{id}")).await;
        Some(stats["data"].clone()).filter(|state| state["users"]["online"] == 1)
    });
    let state = state.await;
    assert!(state["deaf"].is_boolean() && state["lag_ms"].is_u64(), "{state}");
    assert_eq!(state["daemons"], 1, "{state}");
    let stats = stats["endpoints"].as_array().unwrap();
    let connect = stats.iter().find(|endpoint| endpoint["name"] == "connect").unwrap();
    assert_eq!((&connect["num_requests"], &connect["num_errors"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn the_service_names_its_daemon_host_and_version_and_counts_each_disconnect() {
    let stage = Stage::start(NO_GRACE).await;
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let version = Command::new(env!("CARGO_BIN_EXE_presenced")).arg("--version").output().unwrap();
    let lines = stage.daemon.lines();
    let ready = lines.iter().find(|line| line["message"] == "ready").unwrap();
    let daemon = &ready["daemon"];
    for what in ["PING", "INFO", "STATS"] {
        let answer = asked(&stage, &format!("$SRV.{what}.presence")).await;
        let metadata = &answer["metadata"];
        assert_eq!((&metadata["host"], &metadata["daemon"]), (&json!(host), daemon));
        assert_eq!(&answer["id"], daemon, "{answer}");
        let [number, commit] =
            [&answer["version"], &metadata["commit"]].map(|each| each.as_str().unwrap_or_default());
        assert_eq!(text(&version).trim(), format!("presenced {number} ({commit})"));
    }
    stage.client.connect_user("john", "c").await;
    for disconnected in [1, 0] {
        assert_eq!(stage.client.disconnect("john", "c").await["disconnected"], disconnected);
    }
    let stats = asked(&stage, "$SRV.STATS.presence").await;
    let stats = stats["endpoints"].as_array().unwrap().iter();
    let of_disconnect = stats.filter(|endpoint| endpoint["name"] == "disconnect");
    let counted: Vec<_> = of_disconnect.map(|endpoint| &endpoint["num_requests"]).collect();
    assert_eq!(counted, [&json!(2)], "one that ended a connection, one that found none");
}

#[tokio::test]
async fn each_request_is_answered_by_one_of_several_daemons() {
    let stage = Stage::start(NO_GRACE).await;
    let _second = Daemon::spawn(&stage.server, NO_GRACE).await;
    let nats = &stage.client.nats;
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(format!("{inbox}.*")).await.unwrap();
    for n in 0..100 {
        let body = json!({"user": {"id": format!("u{n}")}, "connection_id": "c"}).to_string();
        let (subject, reply) = (stage.client.subject("connect"), format!("{inbox}.{n}"));
        nats.publish_with_reply(subject, reply, body.into()).await.unwrap();
    }
    let mut heard = Vec::new();
    let silence = std::time::Duration::from_millis(500);
    while let Ok(Some(answer)) = tokio::time::timeout(silence, answers.next()).await {
        heard.push(answer.subject.to_string());
    }
    assert_eq!(heard.len(), 100);
    let distinct: BTreeSet<_> = heard.iter().collect();
    assert_eq!(distinct.len(), 100);
    let mut seen_by = BTreeSet::new();
    for _ in 0..50 {
        let explained = stage.client.get("explain", json!({"user_id": "u0"})).await;
        seen_by.insert(explained["seen_by"].to_string());
    }
    assert_eq!(seen_by.len(), 2, "both take their share");
}
