//! Wrong logins.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::{errors, launch, only_error};
use crate::support::server::Options;
use crate::support::{Client, Daemon, Server, eventually};

const BOUND: Duration = Duration::from_secs(30);

const PUBLIC: &str = "UBZ4XL2RIU37QAN335IP2KW26APKU5TRR3LSZD54G2SN5HJ7YHLJPMYO";
const SEED: &str = "SUAB2IHVIM7BHZ5FZSMNNQ5TG3R45UOEC7XVDWDQMJC7BF3CRPKRVN6JZM";
const OTHER_SEED: &str = "SUAEZ2BIFO2OWMYAA56ASWJ2F3RRZ6PTNN7H4DTBH3N3M4UBLSGSYT552I";

/// A server that knows one login beside that of the test.
fn knows(login: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: admin, password: a }}, {{ {login} }} ] }}\n\
         no_auth_user: admin\n"
    )
}

async fn server_that_knows(login: &str) -> Server {
    Server::start_with(Options { config: knows(login), ..Options::default() }).await
}

#[tokio::test]
async fn a_wrong_password_is_logged_once_and_waited_for() {
    let mut server = server_that_knows("user: daemon, password: right").await;
    let settings = &[("NATS__USER", "daemon"), ("NATS__PASSWORD", "wrong")];
    let mut daemon = launch(&server.url(), settings);
    only_error(&mut daemon, &["authorization violation", "refuses the connection"]).await;
    server.reload(knows("user: daemon, password: wrong")).await;
    daemon.ready(&server).await;
    assert_eq!(errors(&daemon).len(), 1);
}

#[tokio::test]
async fn a_wrong_nkey_is_logged_once_and_its_file_read_again() {
    let server = server_that_knows(&format!("nkey: {PUBLIC}")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nk");
    std::fs::write(&file, OTHER_SEED).unwrap();
    let settings = &[("NATS__NKEY", file.to_str().unwrap())];
    let mut daemon = launch(&server.url(), settings);
    only_error(&mut daemon, &["authorization violation"]).await;
    std::fs::write(&file, SEED).unwrap();
    daemon.ready(&server).await;
    assert_eq!(errors(&daemon).len(), 1);
}

#[tokio::test]
async fn wrong_credentials_are_logged_once() {
    // A server that knows no JWT takes who shows one for nobody: here it lets nobody in.
    let config = knows(&format!("nkey: {PUBLIC}")).replace("no_auth_user: admin\n", "");
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("creds");
    let mut text = String::new();
    for (what, value) in [("NATS USER JWT", "eyJ0.eyJq.c2ln"), ("USER NKEY SEED", SEED)] {
        writeln!(text, "-----BEGIN {what}-----\n{value}\n------END {what}------\n").unwrap();
    }
    std::fs::write(&file, text).unwrap();
    let settings = &[("NATS__CREDS", file.to_str().unwrap())];
    let mut daemon = launch(&server.url(), settings);
    only_error(&mut daemon, &["authorization violation"]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_login_that_is_taken_away_is_logged_and_served_on_when_it_is_back() {
    let right = "user: daemon, password: right";
    let mut server = server_that_knows(right).await;
    let settings = &[("NATS__USER", "daemon"), ("NATS__PASSWORD", "right")];
    let mut daemon = Daemon::spawn(&server, settings).await;
    server.reload(knows("user: daemon, password: changed")).await;
    daemon.logs("refuses the connection").await;
    let told = || async {
        let lines = errors(&daemon);
        lines.iter().filter(|line| line.contains("refuses the connection")).count()
    };
    assert_eq!(told().await, 1, "three connections, one cause");
    server.reload(knows(right)).await;
    let client = Client::connect(&server).await;
    let body = json!({"user": {"id": "john"}, "connection_id": "c"});
    eventually("it serves again", BOUND, async || {
        client.attempt("connect", body.clone(), Duration::from_secs(1)).await?.ok()
    })
    .await;
}
