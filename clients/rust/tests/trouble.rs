//! Services that hang, are missing, are overloaded or answer nonsense.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use presenced_client::{ConnectionState, Error, Patch, Service, User, WatchState};
use serde_json::{Value, json};
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

async fn reply(nats: &async_nats::Client, request: Message, answer: &str) {
    nats.publish(request.reply.unwrap(), answer.to_owned().into()).await.unwrap();
}

async fn next(requests: &mut Subscriber) -> Message {
    tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap()
}

fn operations(request: &Message) -> usize {
    let body: Value = serde_json::from_slice(&request.payload).unwrap();
    body["ops"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_daemon_that_hangs_does_not_cost_the_link() {
    let server = Server::start().await;
    let daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let connects = || nats.statistics().connects.load(Ordering::Relaxed);
    let service = Service::new(nats.clone());
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    let john = User::new(nats.clone(), "john").unwrap().connect(Patch::new()).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let _seat = lease.connect("jack", Patch::new()).await.unwrap();
    assert_eq!((john.last_error(), lease.state().last_error), (None, None));

    daemon.pause();
    let mut states = john.states();
    let interrupted = async {
        states.wait_for(|state| *state == ConnectionState::Interrupted).await.unwrap();
    };
    tokio::time::timeout(SOON, interrupted).await.unwrap();
    assert!(matches!(john.last_error(), Some(Error::NoAnswer { .. })), "{:?}", john.last_error());
    let since = john.since();
    // Longer than any of them takes to leave a dead link.
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert_eq!(connects(), 1);
    assert_eq!(john.since(), since);
    let state = lease.state();
    assert!(matches!(state.last_error, Some(Error::NoAnswer { .. })) && state.up, "{state:?}");

    daemon.resume();
    eventually("both are well again", SOON, async || {
        let errors = (john.last_error(), lease.state().last_error);
        (john.state() == ConnectionState::Online && errors == (None, None)).then_some(())
    })
    .await;
    assert!(john.since() > since);
    assert_eq!(connects(), 1);
}

#[tokio::test]
async fn what_waits_for_a_daemon_says_so() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = User::new(nats, "john").unwrap().connect(Patch::new()).start().unwrap();
    let watch = service.watch(["john"]).unwrap();
    let found = service.watch_all();
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("jack", Patch::new()).into_future();
    let connecting = tokio::spawn(seat);
    let is_missing = |error: Option<Error>| matches!(error, Some(Error::NoDaemon { .. }));
    eventually("all say what they wait for", SOON, async || {
        let errors =
            [john.last_error(), lease.state().last_error, watch.last_error(), found.last_error()];
        errors.into_iter().all(is_missing).then_some(())
    })
    .await;
    assert_eq!(john.state(), ConnectionState::Connecting);
    assert_eq!((watch.state(), found.state()), (WatchState::Loading, WatchState::Loading));

    let _daemon = Daemon::start(&server.url()).await;
    tokio::time::timeout(SOON, john.online()).await.unwrap().unwrap();
    tokio::time::timeout(SOON, watch.live()).await.unwrap().unwrap();
    tokio::time::timeout(SOON, found.live()).await.unwrap().unwrap();
    connecting.await.unwrap().unwrap();
    let errors =
        [john.last_error(), lease.state().last_error, watch.last_error(), found.last_error()];
    assert_eq!(errors, [None, None, None, None]);
}

#[tokio::test]
async fn a_drained_client_closes_what_was_built_on_it() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let watch = service.watch(["john"]).unwrap();
    let found = service.watch_all();
    watch.live().await.unwrap();
    found.live().await.unwrap();
    let john = service.connect("john", Patch::new()).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("jack", Patch::new()).await.unwrap();
    nats.drain().await.unwrap();
    eventually("all are closed", SOON, async || {
        let closed = john.state() == ConnectionState::Closed(Some(Error::Closed))
            && (watch.state(), found.state()) == (WatchState::Closed, WatchState::Closed)
            && lease.state().closed;
        closed.then_some(())
    })
    .await;
    assert_eq!(service.users().await.unwrap_err(), Error::Closed);
    assert_eq!(seat.update(Patch::new()).await, Err(Error::Closed));
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_counted_and_asked_for_again() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let mut foolish = nats.subscribe("presence.v1.*").await.unwrap();
    let service = Service::new(nats.clone());
    let watch = service.watch(["john"]).unwrap();
    let john = service.connect("john", Patch::new()).start().unwrap();
    for _ in 0..4 {
        let request = next(&mut foolish).await;
        reply(&nats, request, "[").await;
    }
    foolish.unsubscribe().await.unwrap();
    assert_eq!(watch.state(), WatchState::Loading);
    let _daemon = Daemon::start(&server.url()).await;
    tokio::time::timeout(SOON, john.online()).await.unwrap().unwrap();
    tokio::time::timeout(SOON, watch.live()).await.unwrap().unwrap();
    assert_eq!(service.stats().malformed, 4);
}

#[tokio::test]
async fn a_lease_waits_for_as_long_as_the_service_says_and_longer_each_time() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let mut batches = nats.subscribe("presence.v1.batch").await.unwrap();
    let lease = Service::new(nats.clone()).lease("gw").unwrap();
    let first = tokio::spawn(lease.connect("john", Patch::new()).into_future());
    let refused = |wait: u64| {
        let details = json!({"retry_after_ms": wait});
        json!({"error": {"code": "overloaded", "message": "", "details": details}}).to_string()
    };
    reply(&nats, next(&mut batches).await, &refused(1500)).await;
    let begun = Instant::now();
    let second = tokio::spawn(lease.connect("jack", Patch::new()).into_future());
    let request = next(&mut batches).await;
    assert!(begun.elapsed() > Duration::from_millis(1400), "{:?}", begun.elapsed());
    assert_eq!(operations(&request), 2, "the newcomer waits too");
    assert!(matches!(lease.state().last_error, Some(Error::Busy { .. })));

    // An operation that fails by itself waits by itself.
    let failed: Value = serde_json::from_str(&refused(1500)).unwrap();
    let body: Value = serde_json::from_slice(&request.payload).unwrap();
    let result = |op: &Value| if op["user"]["id"] == "john" { json!({}) } else { failed.clone() };
    let results: Vec<_> = body["ops"].as_array().unwrap().iter().map(result).collect();
    let answer = json!({"results": results}).to_string();
    reply(&nats, request, &answer).await;
    let begun = Instant::now();
    let _first = tokio::time::timeout(SOON, first).await.unwrap().unwrap().unwrap();
    let third = tokio::spawn(lease.connect("jane", Patch::new()).into_future());
    let request = next(&mut batches).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(operations(&request), 1);
    reply(&nats, request, r#"{"results":[{}]}"#).await;
    let _third = tokio::time::timeout(SOON, third).await.unwrap().unwrap().unwrap();
    let request = next(&mut batches).await;
    assert!(begun.elapsed() > Duration::from_millis(1400), "{:?}", begun.elapsed());
    reply(&nats, request, r#"{"results":[{}]}"#).await;
    tokio::time::timeout(SOON, second).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_error_names_the_field_as_the_caller_gave_it() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let long = "x".repeat(2000);
    let patch = || Patch::new().status(&*long);
    let at = |error: Error| (error.field().map(str::to_owned), error.to_string());
    let is_status = |error: Error| {
        let (field, text) = at(error);
        assert_eq!(field.as_deref(), Some("status"), "{text}");
        assert!(!text.contains("user") && !text.contains("ops["), "{text}");
    };
    is_status(service.connect("john", patch()).await.unwrap_err());
    let connection = service.connect("john", Patch::new()).await.unwrap();
    is_status(connection.update(patch()).await.unwrap_err());
    let lease = service.lease("gw").unwrap();
    let other = lease.connect("jack", Patch::new()).await.unwrap();
    let (first, second) = tokio::join!(other.update(Patch::new()), lease.connect("jill", patch()));
    first.unwrap();
    is_status(second.unwrap_err());
    is_status(other.update(patch()).await.unwrap_err());
    let hidden = lease.connect("joe", Patch::new().invisible(true)).await.unwrap();
    is_status(hidden.update(patch()).await.unwrap_err());
    let users = [Patch::new().of("joe").unwrap(), patch().of("john").unwrap()];
    let several = at(service.upsert(users).await.unwrap_err()).0;
    assert_eq!(several.as_deref(), Some("users[1].status"));
}
