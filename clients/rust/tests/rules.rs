//! The rules that the clients of all languages share.

#![expect(clippy::disallowed_methods, reason = "a status ends at a time of day")]

mod support;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use presenced_client::{ConnectionState, Error, Patch, Service, User, Watch, WatchState};
use serde_json::Value;
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

async fn next(requests: &mut Subscriber) -> Value {
    let message = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

async fn listen(server: &Server, operation: &str) -> Subscriber {
    let nats = server.connect().await;
    let requests = nats.subscribe(format!("presence.v1.{operation}")).await.unwrap();
    nats.flush().await.unwrap();
    requests
}

async fn reconnect(nats: &Client) {
    let connects = || nats.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let before = connects();
    nats.force_reconnect().await.unwrap();
    eventually("NATS is reached again", SOON, async || {
        (connects() > before && nats.connection_state() == State::Connected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_borrowed_connection_outlives_all_that_was_built_on_it() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let mut own = nats.subscribe("own.>").await.unwrap();
    {
        let service = Service::new(nats.clone());
        let john = User::new(nats.clone(), "john").unwrap();
        let connection = john.connect(Patch::new()).await.unwrap();
        let lease = service.lease("gw").unwrap();
        let seat = lease.connect("jack", Patch::new()).await.unwrap();
        let (named, all) = (service.watch(["john"]).unwrap(), service.watch_all());
        let matching = service.watch_where(presenced_client::filter::online(), None, 10);
        named.live().await.and(all.live().await).and(matching.live().await).unwrap();
        connection.close().await;
        seat.close().await;
        lease.close().await.unwrap();
    }
    nats.publish("own.news", "x".into()).await.unwrap();
    assert!(tokio::time::timeout(SOON, own.next()).await.unwrap().is_some());
    assert_eq!(nats.connection_state(), State::Connected);
    let connects = nats.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(connects, 1, "it was never left either");
    assert!(Service::new(nats).users().await.is_ok(), "another door may be opened on it");
}

#[tokio::test]
async fn an_id_is_kept_over_reconnects_and_never_used_after_its_end() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let mut connects = listen(&server, "connect").await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let mut ended = HashSet::new();
    for round in 0..3 {
        let connection = service.connect("john", Patch::new()).await.unwrap();
        let id = connection.id().as_str().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert!(ended.insert(id.clone()), "{id} was used before");
        assert_eq!(next(&mut connects).await["connection_id"], id.as_str());
        if round == 0 {
            reconnect(&nats).await;
            assert_eq!(next(&mut connects).await["connection_id"], id.as_str());
        }
        if round == 1 {
            // A heartbeat then finds it unknown.
            service.delete(["john"]).await.unwrap();
            assert_eq!(next(&mut connects).await["connection_id"], id.as_str());
        }
        connection.close().await;
    }
    let mut batches = listen(&server, "batch").await;
    let lease = service.lease("gw").unwrap();
    for _ in 0..3 {
        let seat = lease.connect("jack", Patch::new()).await.unwrap();
        let id = next(&mut batches).await["ops"][0]["connection_id"].as_str().unwrap().to_owned();
        assert!(ended.insert(id.clone()), "{id} was used before");
        seat.close().await;
        assert_eq!(next(&mut batches).await["ops"][0]["op"], "disconnect");
    }
}

#[tokio::test]
async fn resyncs_of_many_are_spread_over_a_second() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let services: Vec<Service> = (0..20).map(|_| Service::new(nats.clone())).collect();
    let watches: Vec<Watch> =
        services.iter().map(|service| service.watch(["john"]).unwrap()).collect();
    for watch in &watches {
        watch.live().await.unwrap();
    }
    let mut queries = listen(&server, "query_users").await;
    reconnect(&nats).await;
    let mut begun = None;
    for _ in &watches {
        next(&mut queries).await;
        begun.get_or_insert_with(std::time::Instant::now);
    }
    // Without the spread they come with one look at the link, together.
    let span = begun.unwrap().elapsed();
    assert!(span > Duration::from_millis(300), "all within {span:?}");
    for watch in &watches {
        watch.live().await.unwrap();
    }
}

#[tokio::test]
async fn a_status_ends_at_the_daemon_and_is_not_brought_back() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(server.connect().await);
    let john = User::new(nats.clone(), "john").unwrap().connect(Patch::new()).await.unwrap();
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    let end = SystemTime::now() + Duration::from_millis(1500);
    let end = chrono::DateTime::<chrono::Utc>::from(end).to_rfc3339();
    john.update(Patch::new().status_until("lunch", &end)).await.unwrap();
    let has = async |status: Option<&str>| {
        eventually(&format!("the status is {status:?}"), SOON, async || {
            watch.get("john").filter(|john| john.status.as_deref() == status)
        })
        .await
    };
    has(Some("lunch")).await;
    has(None).await;
    // What was acknowledged is never sent again.
    let mut connects = listen(&server, "connect.john").await;
    reconnect(&nats).await;
    assert_eq!(next(&mut connects).await["user"], serde_json::json!({"id": "john"}));
    let mut states = john.states();
    let online = states.wait_for(|state| *state == ConnectionState::Online);
    tokio::time::timeout(SOON, online).await.unwrap().unwrap();
    assert_eq!(has(None).await.status, None);
}

const ALL_EVENTS: &str = r#"
authorization { users: [
  { user: all, password: all }
  { user: john, password: john, permissions: {
      publish: { allow: ["presence.v1.query_users.john"] }
      subscribe: { allow: ["_INBOX.>", "user.presence.changed.*"] } } }
  { user: jack, password: jack, permissions: {
      publish: { allow: ["presence.v1.query_users.jack"] }
      subscribe: { allow: ["_INBOX.>", "user.presence.changed.jack"] } } }
] }
"#;

async fn user(server: &Server, id: &str) -> User {
    let options = async_nats::ConnectOptions::with_user_and_password(id.into(), id.into());
    let (options, signals) = presenced_client::Signals::tap(options, |_| async {});
    let nats = options.connect(server.url()).await.unwrap();
    Service::builder(nats).signals(signals).user(id).unwrap()
}

#[tokio::test]
async fn all_users_are_watched_at_the_door_of_a_user_who_may_hear_them() {
    let server = Server::start_with(ALL_EVENTS).await;
    let login = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let _daemon = Daemon::start_with(&server.url(), &login).await;
    let options = async_nats::ConnectOptions::with_user_and_password("all".into(), "all".into());
    let service = Service::new(options.connect(server.url()).await.unwrap());
    service.upsert([Patch::new().status("here").of("jill").unwrap()]).await.unwrap();
    let watch = user(&server, "john").await.watch_all();
    watch.live().await.unwrap();
    assert!(watch.get("jill").is_some_and(|jill| jill.status.as_deref() == Some("here")));
    let joe = service.connect("joe", Patch::new()).await.unwrap();
    eventually("joe comes", SOON, async || watch.get("joe").filter(|joe| joe.online)).await;
    joe.close().await;
    eventually("joe goes", SOON, async || watch.get("joe").filter(|joe| !joe.online)).await;
    let denied = user(&server, "jack").await.watch_all();
    let error = denied.live().await.unwrap_err();
    let subject = "user.presence.changed.*".to_owned();
    assert_eq!(error, Error::Permission { subject, may_have_applied: false });
    assert_eq!(denied.state(), WatchState::Denied(error));
}
