//! Several cells on one NATS: each with a bucket, a request prefix and an event prefix of its own.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Client, Daemon, Server, Settings};

/// The settings of a cell.
fn cell(name: &'static str) -> Vec<(&'static str, &'static str)> {
    let times: Settings<'_> = &[
        ("LIVENESS__OFFLINE_GRACE", "300ms"),
        ("LIVENESS__LEASE", "2s"),
        ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ];
    let of_cell = match name {
        "one" => [
            ("STORE__BUCKET", "one"),
            ("SUBJECTS__PREFIX", "one"),
            ("SUBJECTS__EVENTS", "one.changed"),
            ("SUBJECTS__CHANNEL_EVENTS", "one.counts"),
        ],
        _ => [
            ("STORE__BUCKET", "two"),
            ("SUBJECTS__PREFIX", "two"),
            ("SUBJECTS__EVENTS", "two.changed"),
            ("SUBJECTS__CHANNEL_EVENTS", "two.counts"),
        ],
    };
    [times, &of_cell].concat()
}

#[tokio::test]
async fn cells_share_a_server_and_nothing_else() {
    let server = Server::start().await;
    let first = Daemon::spawn(&server, &cell("one")).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Daemon::spawn(&server, &cell("two")).await);
    }
    let nats = server.connect().await;
    let [one, two] = ["one", "two"].map(|prefix| Client::trusted(nats.clone(), prefix));
    one.connect_user("john", "c").await;
    assert!(two.see("john").await.is_none());
    assert_eq!(one.see("john").await.unwrap()["online"], true);

    // The only daemon of its cell acts at once: it does not wait for its turn behind those of the
    // other cell. Enough users for every order of turns.
    let mut events = nats.subscribe("one.changed.>").await.unwrap();
    for n in 0..10 {
        one.connect_user(&format!("u{n}"), "c").await;
    }
    let start = Instant::now();
    for n in 0..10 {
        one.get("disconnect", json!({"user_id": format!("u{n}"), "connection_id": "c"})).await;
    }
    let mut offline = 0;
    while offline < 10 {
        let event = tokio::time::timeout(
            Duration::from_secs(5),
            futures_util::StreamExt::next(&mut events),
        );
        let event = event.await.unwrap().unwrap();
        offline +=
            usize::from(String::from_utf8_lossy(&event.payload).contains("\"online\":false"));
    }
    assert!(start.elapsed() < Duration::from_millis(1300), "{:?}", start.elapsed());

    first.stop().await;
}
