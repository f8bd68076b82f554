//! The clock of a daemon's machine is not that of JetStream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use super::NOTICED;
use crate::support::http::Http;
use crate::support::{Client, Daemon, Server, eventually};

/// A way to the server on which the time in the stream's information is earlier by that while
/// `early` is set. Returns its URL.
async fn relay(server: &Server, early: Arc<AtomicBool>, by: TimeDelta) -> String {
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
                            make_early(&mut buffer[..length], by);
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

/// Turns `"ts":"2036-…` into an earlier time.
fn make_early(bytes: &mut [u8], by: TimeDelta) {
    const FIELD: &[u8] = b"\"ts\":\"";
    const FORMAT: &str = "%Y-%m-%dT%H:%M:%S";
    let places = bytes.windows(FIELD.len()).enumerate().filter(|(_, window)| *window == FIELD);
    for place in places.map(|(place, _)| place + FIELD.len()).collect::<Vec<_>>() {
        let Some(text) = bytes.get_mut(place..place + "2036-01-01T00:00:00".len()) else { return };
        let time = NaiveDateTime::parse_from_str(&String::from_utf8_lossy(text), FORMAT).unwrap();
        text.copy_from_slice((time - by).format(FORMAT).to_string().as_bytes());
    }
}

#[tokio::test]
async fn a_daemon_whose_clock_is_wrong_writes_nothing_until_it_is_set() {
    let server = Server::start().await;
    let early = Arc::new(AtomicBool::new(false));
    let url = relay(&server, Arc::clone(&early), TimeDelta::days(3652)).await;
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
    let logged = |text: &str| {
        let messages = lines.iter().filter_map(|line| line["message"].as_str());
        messages.filter(|message| message.contains(text)).count()
    };
    assert_eq!(
        (logged("ahead of JetStream's; set it"), logged("agrees with JetStream's again")),
        (1, 1)
    );
}

#[tokio::test]
async fn minutes_off_are_one_warning_and_hours_off_at_the_start_are_waited_for() {
    let server = Server::start().await;
    let early = Arc::new(AtomicBool::new(true));
    let minutes = relay(&server, Arc::clone(&early), TimeDelta::minutes(5)).await;
    let mut daemon = Daemon::launch(&minutes, &[("METRICS__LISTEN", "127.0.0.1:0")]);
    daemon.ready(&server).await;
    let http = Http::of(&mut daemon).await;
    daemon.logs("ahead of JetStream's; set it").await;
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;
    assert_eq!(http.get("/readyz").await.status, 200);
    assert!((http.metric("presence_clock_skew_seconds").await - 300.0).abs() < 30.0);
    let warnings = daemon.lines().into_iter().filter(|line| line["level"] == "WARN").count();
    assert_eq!(warnings, 1);
    daemon.stop().await;

    let hours = relay(&server, Arc::clone(&early), TimeDelta::hours(2)).await;
    let mut daemon = Daemon::launch(&hours, &[("METRICS__LISTEN", "127.0.0.1:0")]);
    daemon.logs("ahead of JetStream's; set it").await;
    let http = Http::of(&mut daemon).await;
    let page = http.get("/readyz").await;
    assert_eq!(page.status, 503, "{}", page.body);
    early.store(false, Ordering::Relaxed);
    eventually("it is ready", NOTICED, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    client.connect_user("ann", "2").await;
}

#[tokio::test]
async fn a_status_ends_by_the_clock_of_jetstream() {
    const BEHIND: TimeDelta = TimeDelta::seconds(20);
    let server = Server::start().await;
    let url = relay(&server, Arc::new(AtomicBool::new(true)), BEHIND).await;
    let mut daemon = Daemon::launch(&url, &[]);
    daemon.ready(&server).await;
    let client = Client::connect(&server).await;
    let in_ms = |ms| -> DateTime<Utc> {
        DateTime::<Utc>::from(SystemTime::now()) - BEHIND + TimeDelta::milliseconds(ms)
    };
    let busy_until = |end: DateTime<Utc>| {
        let end = end.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        json!({"users": [{"id": "ann", "status": "busy", "status_expires_at": end}]})
    };
    let refused = client.refused("upsert_users", busy_until(in_ms(-1000))).await;
    assert!(refused.message.contains("in the future"), "{refused:?}");
    let asked = Instant::now();
    client.get("upsert_users", busy_until(in_ms(3000))).await;
    eventually("the status has ended", Duration::from_secs(6), async || {
        client.see("ann").await.unwrap()["status"].is_null().then_some(())
    })
    .await;
    let took = asked.elapsed();
    assert!(took > Duration::from_millis(2800), "it ended {took:?} after it was set");
}
