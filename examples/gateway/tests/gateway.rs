//! 500 sockets on a gateway whose daemon, NATS and own process are killed.

#[path = "../../../clients/rust/tests/support/mod.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use presenced_client::filter::online;
use presenced_client::{Patch, Service};
use serde_json::Value;
use support::{Daemon, Server, eventually};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const SOCKETS: usize = 500;
const SOON: Duration = Duration::from_secs(30);

struct Gateway(Child);

impl Gateway {
    async fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = async || self.0.try_wait().unwrap();
        assert!(eventually("the gateway ends", SOON, ended).await.success());
    }

    async fn start(url: &str, port: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_presence-gateway"))
            .args([url, &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self(child);
        eventually("the gateway listens", SOON, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The last event that each socket heard of its neighbour.
type Heard = Arc<Mutex<Vec<Value>>>;

/// A user's client: comes back whenever its socket ends.
async fn client(number: usize, port: u16, heard: Heard) {
    let next = (number + 1) % SOCKETS;
    let address = format!("ws://127.0.0.1:{port}/ws?user=u{number}&watch=u{next}");
    loop {
        if let Ok((mut socket, _)) = connect_async(&address).await {
            if number == 0 {
                let wish = r#"{"status":"first"}"#;
                let _ = socket.send(Message::text(wish)).await;
            }
            while let Some(Ok(message)) = socket.next().await {
                let Ok(text) = message.to_text() else { continue };
                let frame: Value = serde_json::from_str(text).unwrap_or_default();
                if let Some(user) = frame.get("user") {
                    heard.lock().unwrap()[number] = user.clone();
                }
            }
        }
        // As a real client: not all at the same moment.
        tokio::time::sleep(Duration::from_millis(50 + number as u64)).await;
    }
}

async fn all_are_there(service: &Service, heard: &Heard, status: &str) {
    let upsert = [Patch::new().status(status).of("u7").unwrap()];
    service.upsert(upsert).await.unwrap();
    eventually(&format!("all are online, {status}"), SOON, async || {
        let count = service.users().filter(online()).fresh().pages().count().await;
        let heard = heard.lock().unwrap();
        let seen = heard.iter().filter(|user| user["online"] == true).count();
        (count == SOCKETS && seen == SOCKETS && heard[6]["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn five_hundred_sockets_outlive_daemons_nats_and_the_gateway() {
    let mut server = Server::start().await;
    let first = Daemon::start(&server.url()).await;
    let port = free_port();
    let gateway = Gateway::start(&server.url(), port).await;
    let service = Service::new(server.connect().await);
    let heard: Heard = Arc::new(Mutex::new(vec![Value::Null; SOCKETS]));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..SOCKETS {
        clients.spawn(client(number, port, heard.clone()));
    }
    all_are_there(&service, &heard, "at the start").await;
    assert_eq!(heard.lock().unwrap()[SOCKETS - 1]["status"], "first");

    let _second = Daemon::start(&server.url()).await;
    drop(first);
    all_are_there(&service, &heard, "after a daemon was killed").await;

    server.vanish();
    server.appear().await;
    all_are_there(&service, &heard, "after NATS was killed").await;

    drop(gateway);
    let _gateway = Gateway::start(&server.url(), port).await;
    heard.lock().unwrap().fill(Value::Null);
    all_are_there(&service, &heard, "after the gateway was killed").await;

    clients.shutdown().await;
    eventually("all go", SOON, async || {
        let count = service.users().filter(online()).fresh().pages().count().await;
        (count == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_planned_stop_shows_nobody_offline_before_a_lease_is_over() {
    let server = Server::start().await;
    let grace = [("LIVENESS__OFFLINE_GRACE", "0s")];
    let _daemon = Daemon::start_with(&server.url(), &grace).await;
    let port = free_port();
    let gateway = Gateway::start(&server.url(), port).await;
    let address = format!("ws://127.0.0.1:{port}/ws?user=john&watch=john");
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let mut events = nats.subscribe("user.presence.changed.john").await.unwrap();
    let (socket, _) = connect_async(&address).await.unwrap();
    let came: Value = serde_json::from_slice(&events.next().await.unwrap().payload).unwrap();
    assert_eq!(came["user"]["online"], true);

    gateway.stop().await;
    drop(socket);
    let _gateway = Gateway::start(&server.url(), port).await;
    let _back = connect_async(&address).await.unwrap();
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    // Longer than the lease that the first gateway left.
    let seen = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    assert!(seen.is_err(), "{seen:?}");
    assert!(watch.get("john").unwrap().online);
}

#[tokio::test]
async fn a_socket_that_ends_while_nats_is_away_leaves_no_seat() {
    let mut server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let port = free_port();
    let _gateway = Gateway::start(&server.url(), port).await;
    let socket = |user: &str| connect_async(format!("ws://127.0.0.1:{port}/ws?user={user}"));
    let (_first, _) = socket("first").await.unwrap();
    server.vanish();
    let (early, _) = socket("early").await.unwrap();
    let (_late, _) = socket("late").await.unwrap();
    drop(early);
    server.appear().await;
    let service = Service::new(server.connect().await);
    let is_online = async |user: &str| {
        let users = service.users().filter(presenced_client::filter::ids([user])).fresh().await;
        users.ok().is_some_and(|page| page.users.iter().any(|user| user.online))
    };
    eventually("late is online", SOON, async || is_online("late").await.then_some(())).await;
    assert!(!is_online("early").await);
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_left_and_its_user_goes() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let pings = Duration::from_millis(300);
    let of_gateway = Service::new(server.connect().await);
    let gateway = presence_gateway::Gateway::with_pings(of_gateway, "gw", pings).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = gateway.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let open = async |user: &str| {
        connect_async(&format!("ws://{address}/ws?user={user}")).await.unwrap().0
    };
    let (dead, mut lively) = (open("john").await, open("jack").await);
    // A client answers pings while it reads.
    let pinged = Arc::new(AtomicUsize::new(0));
    let count = pinged.clone();
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = lively.next().await {
            count.fetch_add(usize::from(message.is_ping()), Ordering::Relaxed);
        }
    });
    let online = async || {
        let page = service.users().filter(online()).fresh().await.unwrap();
        page.users.into_iter().map(|user| user.id).collect::<Vec<_>>()
    };
    eventually("both come", SOON, async || (online().await == ["jack", "john"]).then_some(()))
        .await;
    let begun = std::time::Instant::now();
    eventually("john goes", SOON, async || (online().await == ["jack"]).then_some(())).await;
    // Two pings without an answer, the third one due, and the grace of the daemon.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    eventually("jack is pinged on and on", SOON, async || {
        (pinged.load(Ordering::Relaxed) > 8).then_some(())
    })
    .await;
    assert_eq!(online().await, ["jack"]);
    drop(dead);
    reading.abort();
}
