//! `presenced check --connect`: what a start would need, without a start.

use std::process::{Command, Output};

use crate::support::Server;
use crate::support::server::Options;

const EXIT_CONFIG: i32 = 78;

fn check(url: &str, settings: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presenced"));
    command.env_clear().args(["check", "--connect", "--config", "/dev/null", "--nats-url", url]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_server_that_can_be_used_is_ok_and_stays_as_it_is() {
    let server = Server::start().await;
    let output = check(&server.url(), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in ["ok\n", "connected to NATS", "all permissions are granted", "is missing"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let stream = crate::support::server::stream(&server.connect().await, "presence").await;
    assert_eq!(stream["error"]["err_code"], 10_059, "it makes no bucket");
}

#[tokio::test]
async fn what_keeps_a_daemon_from_serving_is_named() {
    let server = Server::absent(Options::default());
    let text = refusal(&check(&server.url(), &[]));
    assert!(text.contains("no connection") && text.contains(&server.url()[7..]), "{text}");

    let config = "authorization { users: [ { user: a, password: b, permissions: { publish: \">\", \
                  subscribe: { allow: \">\", deny: \"_INBOX.>\" } } } ] }\n";
    let config = config.to_owned();
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let login = ["nats.user=a", "nats.password=b"];
    let text = refusal(&check(&server.url(), &login));
    assert!(text.contains("`nats.inbox_prefix`"), "{text}");
    let text = refusal(&check(&server.url(), &["nats.user=a", "nats.password=c"]));
    assert!(text.contains("authorization violation"), "{text}");

    let config = "authorization { users: [ { user: a, password: b, permissions: { \
                  publish: \"user.presence.get\", subscribe: \"_INBOX.>\" } } ] }\n";
    let config = config.to_owned();
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let text = refusal(&check(&server.url(), &login));
    assert!(text.contains("another role") && !text.contains("grant"), "{text}");

    let server = Server::start_with(Options { jetstream: false, ..Options::default() }).await;
    let text = refusal(&check(&server.url(), &[]));
    assert!(text.contains("JetStream"), "{text}");
}

#[tokio::test]
async fn a_bucket_of_three_replicas_needs_a_cluster() {
    let server = Server::start().await;
    let text = refusal(&check(&server.url(), &["store.replicas=3"]));
    assert!(text.contains("cannot make it") && text.contains("`store.replicas` is 3"), "{text}");
}

#[test]
fn the_version_names_the_commit() {
    let output = Command::new(env!("CARGO_BIN_EXE_presenced")).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let commit = text.trim().rsplit_once(" (").unwrap().1.trim_end_matches(')');
    assert!(commit == "unknown" || commit.len() >= 7, "{text}");
}
