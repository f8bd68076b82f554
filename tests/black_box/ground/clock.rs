//! The clock of a daemon's machine is ten years ahead of JetStream's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use super::NOTICED;
use crate::support::http::Http;
use crate::support::{Client, Daemon, Server, eventually};

/// A way to the server on which the time in the stream's information is ten years earlier while
/// `early` is set. Returns its URL.
async fn relay(server: &Server, early: Arc<AtomicBool>) -> String {
    let to = server.url().replace("nats://", "");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let called = TcpStream::connect(&to).await.unwrap();
            let early = Arc::clone(&early);
            tokio::spawn(async move {
                let (mut from_caller, mut to_caller) = caller.into_split();
                let (mut from_server, mut to_server) = called.into_split();
                let back = async {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        if early.load(Ordering::Relaxed) {
                            make_early(&mut buffer[..length]);
                        }
                        to_caller.write_all(&buffer[..length]).await?;
                    }
                    Ok::<_, std::io::Error>(())
                };
                let _ = tokio::join!(copy(&mut from_caller, &mut to_server), back);
            });
        }
    });
    url
}

/// Turns `"ts":"2036-` into `"ts":"2026-`, whatever the decade is.
fn make_early(bytes: &mut [u8]) {
    const FIELD: &[u8] = b"\"ts\":\"20";
    let places = bytes.windows(FIELD.len()).enumerate().filter(|(_, window)| *window == FIELD);
    for place in places.map(|(place, _)| place + FIELD.len()).collect::<Vec<_>>() {
        if let Some(decade) = bytes.get_mut(place) {
            *decade -= 1;
        }
    }
}

#[tokio::test]
async fn a_daemon_whose_clock_is_wrong_writes_nothing_until_it_is_set() {
    let server = Server::start().await;
    let early = Arc::new(AtomicBool::new(false));
    let url = relay(&server, Arc::clone(&early)).await;
    let mut daemon = Daemon::launch(&url, &[("METRICS__LISTEN", "127.0.0.1:0")]);
    daemon.ready(&server).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;

    early.store(true, Ordering::Relaxed);
    eventually("it is not ready", NOTICED, async || {
        let page = http.get("/readyz").await;
        (page.status == 503 && page.body.contains("clock: it is 365")).then_some(())
    })
    .await;
    assert!(http.metric("presence_clock_skew_seconds").await > 3e8);
    let refused = client.refused("connect", json!({"user": {"id": "ann"}})).await;
    assert_eq!(refused.code, "unavailable");
    assert!(refused.message.contains("clock"), "{refused:?}");
    assert_eq!(client.see("ann").await.unwrap()["online"], true, "queries are answered");

    early.store(false, Ordering::Relaxed);
    eventually("it is ready again", NOTICED, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert!(http.metric("presence_clock_skew_seconds").await.abs() < 1.0);
    client.connect_user("ann", "2").await;
    let lines = daemon.lines();
    let said = |text: &str| {
        let messages = lines.iter().filter_map(|line| line["message"].as_str());
        messages.filter(|message| message.contains(text)).count()
    };
    assert_eq!(
        (said("ahead of JetStream's; set it"), said("agrees with JetStream's again")),
        (1, 1)
    );
}
