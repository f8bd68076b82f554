//! Leases against a real nats-server and real daemons.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use presenced_client::filter::online;
use presenced_client::{Lease, Patch, Seat, Service};
use serde_json::{Value, json};
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

/// Counts the bytes that are in use.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands all on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

async fn seats(lease: &Lease, count: usize) -> Vec<Seat> {
    let connect = |n: usize| async move {
        lease.connect(format!("user-{n:05}"), Patch::new()).await.unwrap()
    };
    (0..count).map(connect).collect::<FuturesUnordered<_>>().collect().await
}

async fn acknowledged(lease: &Lease, count: usize, bound: Duration) {
    let mut states = lease.states();
    let all = states.wait_for(|state| state.acknowledged == count && state.up);
    let found = tokio::time::timeout(bound, all).await;
    assert!(found.is_ok(), "not within {bound:?}: {:?}", lease.state());
}

async fn ask(nats: &async_nats::Client, operation: &str, body: Value) -> Value {
    let subject = format!("presence.v1.{operation}");
    let answer = nats.request(subject, body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn held(nats: &async_nats::Client, lease: &Lease) -> u64 {
    let answer = ask(nats, "heartbeat", json!({"lease": lease.state().name})).await;
    answer["held"].as_u64().unwrap()
}

async fn count_online(service: &Service) -> usize {
    service.users().filter(online()).fresh().pages().count().await
}

#[tokio::test]
async fn seats_share_requests_come_and_go() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let mut batches = nats.subscribe("presence.v1.batch").await.unwrap();
    let lease = service.lease("gw-7").unwrap();
    let mut all = seats(&lease, 500).await;
    assert_eq!(held(&nats, &lease).await, 500);
    let mut count = 0;
    while tokio::time::timeout(Duration::from_millis(100), batches.next()).await.is_ok() {
        count += 1;
    }
    assert!(count <= 10, "{count} batches for 500 seats");

    all[0].update(Patch::new().status("typing").invisible(true)).await.unwrap();
    all.swap_remove(0).close().await;
    drop(all.pop());
    eventually("two left", SOON, async || (held(&nats, &lease).await == 498).then_some(())).await;
    let error = all[1].update(Patch::new().status(&*"x".repeat(2000))).await.unwrap_err();
    assert_eq!(error.kind(), "refused");
    all[1].update(Patch::new().status("fine")).await.unwrap();
    assert!(lease.connect("", Patch::new()).await.is_err());

    lease.close().await.unwrap();
    eventually("all are gone", SOON, async || (count_online(&service).await == 0).then_some(()))
        .await;
    assert_eq!(all[0].update(Patch::new()).await.unwrap_err().kind(), "closed");
}

#[tokio::test]
async fn a_lease_dropped_with_its_seats_disconnects_them() {
    let server = Server::start().await;
    // A lapse takes far longer than the bound below.
    let _daemon = Daemon::start_with(&server.url(), &[("LIVENESS__LEASE", "60s")]).await;
    let service = Service::new(server.connect().await);
    let lease = service.lease("gw").unwrap();
    let all = seats(&lease, 300).await;
    assert_eq!(count_online(&service).await, 300);
    drop((lease, all));
    eventually("all are gone", SOON, async || (count_online(&service).await == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn a_seat_that_was_there_is_made_again_after_a_refusal() {
    let server = Server::start().await;
    let limit = [("LIMITS__CONNECTIONS_PER_USER", "1")];
    let _daemon = Daemon::start_with(&server.url(), &limit).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("john", Patch::new()).await.unwrap();
    let error = lease.connect("john", Patch::new()).await.unwrap_err();
    assert_eq!(error.code(), "limit_exceeded");
    // Another takes the only place, so that the seat is refused when it comes back.
    let name = lease.state().name;
    ask(&nats, "disconnect", json!({"lease": name, "grace_ms": 0})).await;
    let mut states = lease.states();
    let taken = ask(&nats, "connect", json!({"user": {"id": "john"}, "connection_id": "c"})).await;
    assert_eq!(taken["connection_id"], "c", "{taken}");
    let renamed = states.wait_for(|state| state.name != name && state.acknowledged == 0);
    tokio::time::timeout(SOON, renamed).await.unwrap().unwrap();
    acknowledged(&lease, 1, SOON).await; // The other one lapses, and the seat is tried again.
    seat.update(Patch::new().status("back")).await.unwrap();
    lease.close().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_was_ended_by_others_is_made_again_under_a_new_name() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let lease = service.lease("gw").unwrap();
    let all = seats(&lease, 300).await;
    all[0].update(Patch::new().invisible(true)).await.unwrap();
    let old = lease.state().name;
    ask(&nats, "disconnect", json!({"lease": old})).await;
    let mut states = lease.states();
    let renamed = states.wait_for(|state| state.name != old && state.acknowledged == 300);
    tokio::time::timeout(SOON, renamed).await.unwrap().unwrap();
    assert_eq!(held(&nats, &lease).await, 300);
    assert_eq!(count_online(&service).await, 299);
    lease.close().await.unwrap();
}

#[tokio::test]
async fn a_count_too_small_connects_again_and_one_too_large_takes_a_new_name() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let lease = service.lease("gw").unwrap();
    let _all = seats(&lease, 5).await;
    let name = lease.state().name;
    // Moves one connection off the lease.
    let explained = service.explain("user-00003").await.unwrap().to_string();
    let connection = explained
        .split('"')
        .find(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .unwrap_or_else(|| panic!("{explained}"))
        .to_owned();
    let body = json!({"user": {"id": "user-00003"}, "connection_id": connection});
    ask(&nats, "connect", body).await;
    assert_eq!(held(&nats, &lease).await, 4);
    eventually("counted right again", SOON, async || {
        (held(&nats, &lease).await == 5).then_some(())
    })
    .await;
    assert_eq!(lease.state().name, name);

    let body = json!({"user": {"id": "stranger"}, "connection_id": "c", "lease": name});
    ask(&nats, "connect", body).await;
    let mut states = lease.states();
    let renamed = states.wait_for(|state| state.name != name && state.acknowledged == 5);
    tokio::time::timeout(SOON, renamed).await.unwrap().unwrap();
    eventually("the stranger is gone", SOON, async || {
        (count_online(&service).await == 5).then_some(())
    })
    .await;
    assert_eq!(held(&nats, &lease).await, 5);
    lease.close().await.unwrap();
}

#[tokio::test]
async fn a_daemon_killed_among_batches_loses_no_seat() {
    let server = Server::start().await;
    let first = Daemon::start(&server.url()).await;
    let _second = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let lease = service.lease("gw").unwrap();
    let connecting = seats(&lease, 2000);
    let killing = async {
        let mut states = lease.states();
        states.wait_for(|state| state.acknowledged > 200).await.unwrap();
        drop(first);
    };
    let (all, ()) = tokio::join!(connecting, killing);
    assert_eq!(all.len(), 2000);
    eventually("all are held", SOON, async || (held(&nats, &lease).await == 2000).then_some(()))
        .await;
    lease.close().await.unwrap();
}

#[tokio::test]
async fn twenty_thousand_seats_on_one_lease_come_back_after_nats_was_away() {
    const SEATS: usize = 20_000;
    let mut server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let lease = service.lease("gw").unwrap();
    let warm = seats(&lease, 200).await;
    drop(warm);
    acknowledged(&lease, 0, SOON).await;
    let before = USED.load(Ordering::Relaxed);
    let begun = Instant::now();
    let all = seats(&lease, SEATS).await;
    let connected = begun.elapsed();
    let each = USED.load(Ordering::Relaxed).saturating_sub(before) / SEATS;

    let mut heartbeats = nats.subscribe("presence.v1.heartbeat").await.unwrap();
    let mut count = 0;
    let until = tokio::time::sleep(Duration::from_secs(5));
    tokio::pin!(until);
    loop {
        tokio::select! {
            Some(message) = heartbeats.next() => {
                // The daemons probe with heartbeats of their own.
                count += u32::from(String::from_utf8_lossy(&message.payload).contains("gw-"));
            }
            () = &mut until => break,
        }
    }
    assert!((4..=6).contains(&count), "{count} heartbeats in 5 intervals");

    server.vanish();
    let mut states = lease.states();
    states.wait_for(|state| !state.up).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await; // Longer than the lease.
    server.appear().await;
    let back = Instant::now();
    acknowledged(&lease, SEATS, Duration::from_secs(60)).await;
    eventually("the daemons hold all", Duration::from_secs(60), async || {
        let body = json!({"lease": lease.state().name}).to_string();
        let answer = nats.request("presence.v1.heartbeat", body.into()).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
        (answer["held"] == SEATS).then_some(())
    })
    .await;
    let back = back.elapsed();
    println!("connected in {connected:?}, {each} bytes a seat, back after {back:?}");
    assert!(each < 300, "{each} bytes a seat");
    assert!(back < Duration::from_secs(10), "{back:?}");
    drop(all);
}

#[tokio::test]
async fn no_task_is_left_after_close() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let service = Service::new(nats.clone());
    let watch = service.watch(["john", "jack"]).unwrap();
    watch.live().await.unwrap();
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("john", Patch::new()).await.unwrap();
    let connection = service.connect("jack", Patch::new()).await.unwrap();
    assert!(tasks() > before);
    connection.close().await;
    seat.close().await;
    lease.close().await.unwrap();
    drop((watch, service));
    eventually("all tasks have ended", SOON, async || (tasks() <= before).then_some(())).await;
}
