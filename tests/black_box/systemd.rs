//! The messages of a daemon to systemd, on a real socket.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::server::Options;
use crate::support::stage::{NO_GRACE, PATIENT};
use crate::support::{Client, Daemon, Manager, Server, Stage, within};

/// For a request to a daemon that serves, on a machine that does other things too.
const ANSWER: Duration = Duration::from_secs(8);

fn watched(manager: &Manager, usec: &'static str) -> Vec<(&'static str, String)> {
    let (name, address) = manager.environment();
    vec![(name, address.to_owned()), ("WATCHDOG_USEC", usec.to_owned())]
}

fn launch(server: &Server, environment: &[(&'static str, String)]) -> Daemon {
    let environment: Vec<_> = environment.iter().map(|(name, v)| (*name, v.as_str())).collect();
    Daemon::launch_under(&server.url(), NO_GRACE, "", &environment)
}

#[tokio::test]
async fn it_says_what_it_waits_for_and_is_ready_only_when_it_serves() {
    let mut server = Server::absent(Options::default());
    let manager = Manager::at_a_path();
    let daemon = Daemon::launch_under(&server.url(), NO_GRACE, "", &[manager.environment()]);
    let waits = |message: &crate::support::manager::Notification| {
        message.status().starts_with(&format!("waiting for NATS at {}", server.url()))
    };
    let before = manager.hear_until("that NATS is waited for", waits).await;
    assert!(before.iter().all(|message| message.value("READY").is_none()), "{before:?}");
    server.appear().await;
    let until_ready = manager.ready().await;
    assert_eq!(until_ready.last().unwrap().status(), "serving");
    // Ready means that it answers now.
    let client = Client::connect(&server).await;
    let made = client.attempt("connect", json!({"user": {"id": "john"}}), ANSWER).await;
    made.expect("an answer").expect("a connection");
    daemon.stop().await;
}

#[tokio::test]
async fn it_is_not_ready_while_the_bucket_cannot_be_had() {
    let server = Server::start_with(Options { jetstream: false, ..Options::default() }).await;
    let manager = Manager::at_a_path();
    let daemon = Daemon::launch_under(&server.url(), &[], "", &[manager.environment()]);
    let names_it = "the bucket presence: JetStream";
    let heard = manager.hear_until(names_it, |message| message.status().contains(names_it)).await;
    assert!(heard.iter().all(|message| message.value("READY").is_none()), "{heard:?}");
    daemon.terminate();
    let heard = manager.hear_until("STOPPING", |message| message.has("STOPPING=1")).await;
    assert!(heard.iter().all(|message| message.value("READY").is_none()), "{heard:?}");
}

#[tokio::test]
async fn when_it_says_ready_its_replica_is_whole() {
    const USERS: usize = 3000;
    let Stage { server, client, daemon: first, .. } = Stage::start(PATIENT).await;
    for from in (0..USERS).step_by(500) {
        let op = |n: usize| json!({"op": "connect", "user": {"id": format!("u{n}")}});
        let ops: Vec<_> = (from..from + 500).map(op).collect();
        client.get("batch", json!({"ops": ops})).await;
    }
    first.stop().await;
    let manager = Manager::at_a_path();
    let daemon = Daemon::launch_under(&server.url(), PATIENT, "", &[manager.environment()]);
    manager.ready().await;
    // Without `presence` or a revision the answer is what is in memory at this moment.
    let last =
        json!({"filter": {"id": {"$gt": "u"}}, "sort": {"id": 1}, "limit": 100, "offset": 1000});
    let seen = client.attempt("query_users", last, ANSWER).await.expect("an answer").unwrap();
    assert_eq!(seen["users"].as_array().unwrap().len(), 100);
    let ids: Vec<_> = (0..USERS).step_by(USERS / 100).map(|n| format!("u{n}")).collect();
    let some = json!({"filter": {"id": {"$in": ids}}, "limit": 100});
    let seen = client.attempt("query_users", some, ANSWER).await.expect("an answer").unwrap();
    assert_eq!(seen["users"].as_array().unwrap().len(), 100);
    daemon.stop().await;
}

#[tokio::test]
async fn it_says_that_it_stops_on_a_socket_without_a_file_too() {
    let server = Server::start().await;
    let manager = Manager::abstract_one();
    let daemon = Daemon::launch_under(&server.url(), NO_GRACE, "", &[manager.environment()]);
    manager.ready().await;
    daemon.terminate();
    let heard = manager.hear_until("STOPPING", |message| message.has("STOPPING=1")).await;
    assert_eq!(heard.last().unwrap().status(), "leaving");
    daemon.stop().await;
}

#[tokio::test]
async fn its_status_tells_of_a_server_that_is_lost_and_that_it_is_back() {
    let Stage { mut server, daemon, .. } = Stage::start(NO_GRACE).await;
    daemon.stop().await;
    let manager = Manager::at_a_path();
    let daemon = Daemon::launch_under(&server.url(), NO_GRACE, "", &[manager.environment()]);
    manager.ready().await;
    server.vanish();
    let lost = |message: &crate::support::manager::Notification| {
        message.status().contains("not connected")
    };
    manager.hear_until("that NATS is lost", lost).await;
    server.appear().await;
    manager.hear_until("that all is well", |message| message.status() == "serving").await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_watchdog_is_fed_while_it_serves_and_not_while_it_stands_still() {
    const WATCHDOG_PERIOD: Duration = Duration::from_secs(8);
    let mut server = Server::absent(Options::default());
    let manager = Manager::at_a_path();
    let daemon = launch(&server, &watched(&manager, "8000000"));
    server.appear().await;
    let before = manager.ready().await;
    assert!(before.iter().all(|message| message.value("WATCHDOG").is_none()), "{before:?}");
    let fed = || manager.hear_until("WATCHDOG", |message| message.has("WATCHDOG=1"));
    let mut last = Instant::now();
    for _ in 0..4 {
        fed().await;
        assert!(last.elapsed() < WATCHDOG_PERIOD / 2, "fed only after {:?}", last.elapsed());
        last = Instant::now();
    }
    daemon.pause();
    // Earlier messages may still lie in the socket.
    let silent = tokio::time::timeout(WATCHDOG_PERIOD, async {
        loop {
            manager.hear_until("WATCHDOG", |message| message.has("WATCHDOG=1")).await;
            last = Instant::now();
        }
    });
    assert!(silent.await.is_err());
    assert!(last.elapsed() > WATCHDOG_PERIOD / 2, "a daemon that stands still was fed");
    daemon.resume();
    fed().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_server_that_is_away_does_not_starve_the_watchdog() {
    let mut server = Server::start().await;
    let manager = Manager::at_a_path();
    let daemon = launch(&server, &watched(&manager, "2000000"));
    manager.ready().await;
    server.vanish();
    let lost = |message: &crate::support::manager::Notification| {
        message.status().contains("not connected")
    };
    manager.hear_until("that NATS is lost", lost).await;
    // Longer than any time-out of the loops.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        let fed = manager.hear_until("WATCHDOG", |message| message.has("WATCHDOG=1"));
        within("a sign of life", Duration::from_secs(4), fed).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_socket_that_nobody_reads_holds_up_nothing() {
    let server = Server::start().await;
    let manager = Manager::at_a_path();
    let mut daemon = launch(&server, &watched(&manager, "1000000"));
    daemon.ready(&server).await;
    let client = Client::connect(&server).await;
    // More than the socket holds, even without the signs of life.
    for times in 1..=12 {
        daemon.hang_up();
        crate::support::eventually("the settings are read again", ANSWER, async || {
            let lines = daemon.lines();
            let read = lines.iter().filter(|line| line["message"] == "read the settings again");
            (read.count() == times).then_some(())
        })
        .await;
        client.connect_user("john", &format!("c{times}")).await;
    }
    daemon.terminate();
    assert_eq!(daemon.end(crate::support::daemon::LEAVE).await.code(), Some(0));
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_logged_and_served_without() {
    let server = Server::start().await;
    let nowhere = ("NOTIFY_SOCKET", "/nonexistent/notify");
    let mut daemon = Daemon::launch_under(&server.url(), NO_GRACE, "", &[nowhere]);
    daemon.ready(&server).await;
    assert_eq!(daemon.logs("systemd cannot be notified").await["level"], "WARN");
    daemon.stop().await;
}
