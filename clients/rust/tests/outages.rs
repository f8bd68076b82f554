//! Effects at the edges of an outage, and their detection.

#![expect(clippy::disallowed_methods, reason = "a status ends at a time of day")]

mod support;

use std::future::IntoFuture;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use presenced_client::{
    ConnectionState, Device, Known, Patch, Service, Signals, User, Watch, WatchState,
};
use serde_json::Value;
use support::{Daemon, Proxy, Server, eventually};

const SOON: Duration = Duration::from_secs(15);
const LEASE: Duration = Duration::from_secs(3);

async fn has_status(watch: &Watch, user: &str, status: &str) {
    eventually(&format!("{user} is shown as {status}"), SOON, async || {
        watch.get(user).filter(|user| user.status.as_deref() == Some(status))
    })
    .await;
}

#[tokio::test]
async fn changes_during_an_outage_ride_in_the_connect() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let near = server.connect().await;
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let john = User::new(far, "john").unwrap().connect(Patch::new()).await.unwrap();
    let service = Service::new(near.clone());
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();

    proxy.close();
    let mut states = john.states();
    states.wait_for(|state| *state == ConnectionState::Interrupted).await.unwrap();
    eventually("the lease has lapsed", SOON + LEASE, async || {
        watch.get("john").is_some_and(|john| !john.online).then_some(())
    })
    .await;
    let mut events = near.subscribe("user.presence.changed.john").await.unwrap();
    let update = john.update(Patch::new().invisible(true).status("hidden"));
    let device = john.set_device(Device::of("mobile").idle(true));
    let opened = async {
        // Both wait for the link before it is open.
        tokio::task::yield_now().await;
        proxy.open();
    };
    let (updated, set, ()) = tokio::join!(update, device, opened);
    updated.and(set).unwrap();

    let me = john.me().unwrap();
    assert_eq!(
        (me.online, me.invisible, &*me.devices),
        (true, Some(true), &["mobile".to_owned()][..])
    );
    assert_eq!(me.availability.as_deref(), Some("away"));
    let explained = service.explain("john").await.unwrap().to_string();
    assert!(explained.contains(john.id().as_str()), "the same connection: {explained}");
    near.flush().await.unwrap();
    let quiet = Duration::from_millis(500);
    while let Ok(Some(event)) = tokio::time::timeout(quiet, events.next()).await {
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(event["user"]["online"], false, "others saw the invisible user: {event}");
    }
}

#[tokio::test]
async fn a_status_that_ends_during_an_outage_keeps_nothing_else_from_being_sent() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let service = Service::new(server.connect().await);
    service.upsert([Patch::new().status("here").of("jack").unwrap()]).await.unwrap();
    let john = User::new(far.clone(), "john").unwrap();
    let john = john.connect(Patch::new().status("here")).await.unwrap();
    let lease = Service::new(far).lease("gateway").unwrap();
    let jack = lease.connect("jack", Patch::new()).await.unwrap();
    proxy.close();
    let mut states = john.states();
    states.wait_for(|state| *state == ConnectionState::Interrupted).await.unwrap();
    let end = SystemTime::now() + Duration::from_secs(1);
    let end_text = chrono::DateTime::<chrono::Utc>::from(end).to_rfc3339();
    let patch = || Patch::new().status_until("lunch", &end_text).set("room", 7).unwrap();
    let opened = async {
        while SystemTime::now() < end + Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        proxy.open();
    };
    let (one, two, ()) = tokio::join!(john.update(patch()), jack.update(patch()), opened);
    one.and(two).unwrap();
    assert_eq!(john.state(), ConnectionState::Online);
    let watch = service.watch(["john", "jack"]).unwrap();
    watch.live().await.unwrap();
    for user in ["john", "jack"] {
        let user = watch.get(user).unwrap();
        assert_eq!((user.status.as_deref(), user.field("room")), (None, Some(&7.into())));
    }
}

#[tokio::test]
async fn a_program_that_only_watches_leaves_a_black_hole() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let service = Service::new(server.connect().await);
    service.upsert([Patch::new().status("one").of("jack").unwrap()]).await.unwrap();
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let connects = || far.statistics().connects.load(Ordering::Relaxed);
    let watch = Service::new(far.clone()).watch(["jack"]).unwrap();
    watch.live().await.unwrap();

    proxy.black_hole();
    let begun = Instant::now();
    service.upsert([Patch::new().status("two").of("jack").unwrap()]).await.unwrap();
    let mut states = watch.states();
    let stale = states.wait_for(|state| matches!(state, WatchState::Stale(_)));
    tokio::time::timeout(Duration::from_secs(45), stale).await.unwrap().unwrap();
    println!("noticed after {:?}", begun.elapsed());
    assert_eq!(watch.get("jack").unwrap().status.as_deref(), Some("one"), "the old picture stays");
    proxy.open();
    eventually("the link is left", SOON, async || (connects() > 1).then_some(())).await;
    has_status(&watch, "jack", "two").await;
}

#[tokio::test]
async fn users_added_while_nats_is_away_are_watched_when_it_is_back() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let service = Service::new(server.connect().await);
    let upsert = async |user: &str, status: &str| {
        service.upsert([Patch::new().status(status).of(user).unwrap()]).await.unwrap();
    };
    for user in ["jack", "jill", "jane"] {
        upsert(user, "one").await;
    }
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let far = Service::builder(far).audit(None).build();
    let watch = far.watch(["jack"]).unwrap();
    watch.live().await.unwrap();

    proxy.close();
    let mut states = watch.states();
    states.wait_for(|state| matches!(state, WatchState::Stale(_))).await.unwrap();
    watch.add("jill").unwrap();
    let other = far.watch(["jane"]).unwrap();
    assert_eq!(other.state(), WatchState::Loading);
    assert_eq!(watch.known("jill"), Known::Unknown);
    proxy.open();
    for (watch, user) in [(&watch, "jill"), (&other, "jane")] {
        tokio::time::timeout(SOON, watch.live()).await.unwrap().unwrap();
        has_status(watch, user, "one").await;
        // Only an event can show this: nothing is asked for any more.
        upsert(user, "two").await;
        has_status(watch, user, "two").await;
    }
}

#[tokio::test]
async fn dropped_messages_ask_again_at_most_every_five_seconds() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let near = server.connect().await;
    let options = async_nats::ConnectOptions::new().subscription_capacity(4);
    let (options, signals) = Signals::tap(options, |_| async {});
    let far = options.connect(server.url()).await.unwrap();
    // The application's own subscription, which it does not read.
    let _noise = far.subscribe("noise").await.unwrap();
    let service = Service::builder(far.clone()).audit(None).signals(signals).build();
    let watch = service.watch(["jack"]).unwrap();
    watch.live().await.unwrap();

    let mut queries = near.subscribe("presence.v1.query_users").await.unwrap();
    let mut states = watch.states();
    let dropping = async {
        for _ in 0..120 {
            near.publish("noise", "x".into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let stale = async {
        states.wait_for(|state| matches!(state, WatchState::Stale(_))).await.unwrap();
    };
    let (stale, ()) = tokio::join!(tokio::time::timeout(SOON, stale), dropping);
    stale.unwrap();
    let resyncs = service.stats().resyncs;
    assert!((1..=2).contains(&resyncs), "{resyncs} in six seconds");
    tokio::time::timeout(SOON, watch.live()).await.unwrap().unwrap();
    near.flush().await.unwrap();
    let mut asked = 0;
    while tokio::time::timeout(Duration::from_millis(100), queries.next()).await.is_ok() {
        asked += 1;
    }
    assert!((1..=3).contains(&asked), "{asked} queries");
}

#[tokio::test]
async fn a_deadline_hides_no_cause_that_is_known() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let mut requests = nats.subscribe("presence.v1.query_users").await.unwrap();
    let answering = async {
        let first = requests.next().await.unwrap().reply.unwrap();
        let body = r#"{"error":{"code":"overloaded","message":"","details":{}}}"#;
        nats.publish(first, body.into()).await.unwrap();
        requests.next().await.unwrap(); // It is left without an answer.
    };
    let service = Service::builder(nats.clone()).deadline(Duration::from_secs(2)).build();
    let (found, ()) = tokio::join!(service.users().into_future(), answering);
    let error = found.unwrap_err();
    assert_eq!(error.code(), "overloaded");
    assert!(error.may_have_applied());
}

#[tokio::test]
async fn a_server_that_is_drained_is_left_for_another_and_nobody_notices() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Server::start_with(&format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}")).await;
    let _daemon = Daemon::start(&hub.url()).await;
    let leaf = format!(
        "leafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}
         lame_duck_duration: \"30s\"
         lame_duck_grace_period: \"1s\""
    );
    let edge = Server::start_with(&leaf).await;
    let near = hub.connect().await;
    let others = Service::new(near.clone());
    let mut events = near.subscribe("user.presence.changed.john").await.unwrap();
    near.flush().await.unwrap();
    let urls = [edge.url(), hub.url()].map(|url| url.parse::<async_nats::ServerAddr>().unwrap());
    let options = async_nats::ConnectOptions::new().retain_servers_order();
    let nats = options.connect(urls.as_slice()).await.unwrap();
    assert_eq!(nats.server_info().port, edge.port());
    let me = User::new(nats.clone(), "john").unwrap();
    let connection = me.connect(Patch::new()).await.unwrap();
    let watch = me.watch(["jack"]).unwrap();
    watch.live().await.unwrap();

    edge.drain();
    let moved = async || (nats.server_info().port == hub.port()).then_some(());
    eventually("the client moves", Duration::from_secs(30), moved).await;
    let jack = Patch::new().status("news").of("jack").unwrap();
    others.upsert([jack]).await.unwrap();
    has_status(&watch, "jack", "news").await;
    eventually("the connection is online", SOON, async || {
        (connection.state() == ConnectionState::Online).then_some(())
    })
    .await;
    others.upsert([Patch::new().status("here").of("john").unwrap()]).await.unwrap();
    for status in [Value::Null, "here".into()] {
        let event = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        let shown = (&event["user"]["online"], &event["user"]["status"]);
        assert_eq!(shown, (&true.into(), &status));
    }
}
