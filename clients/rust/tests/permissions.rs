//! Refusals of NATS, and logins that end.

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use presenced_client::{
    ConnectionState, Error, Known, Patch, Service, Signals, User, Watch, WatchState,
};
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

const CONFIG: &str = r#"
authorization { users: [
  { user: all, password: all }
  { user: john, password: john, permissions: {
      publish: { allow: ["presence.v1.connect.john", "presence.v1.heartbeat.john",
        "presence.v1.disconnect.john", "presence.v1.query_users.john"] }
      subscribe: { allow: ["_INBOX.>", "user.presence.changed.jack"] }
  } }
] }
"#;

async fn login(server: &Server, user: &str) -> (async_nats::Client, Signals) {
    let options =
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
    let (options, signals) = Signals::tap(options, |_| async {});
    (options.connect(server.url()).await.unwrap(), signals)
}

async fn daemon(server: &Server) -> Daemon {
    let login = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    Daemon::start_with(&server.url(), &login).await
}

#[tokio::test]
async fn a_refused_subscription_leaves_the_user_unknown_and_says_which_subject() {
    let server = Server::start_with(CONFIG).await;
    let _daemon = daemon(&server).await;
    let (all, _) = login(&server, "all").await;
    let service = Service::new(all);
    let users = ["jack", "jill"].map(|id| Patch::new().status("here").of(id).unwrap());
    service.upsert(users).await.unwrap();
    let (nats, signals) = login(&server, "john").await;
    let john = Service::builder(nats).signals(signals).user("john").unwrap();
    let watch = john.watch(["jack", "jill"]).unwrap();
    let error = eventually("it is denied", SOON, async || match watch.state() {
        WatchState::Denied(error) => Some(error),
        _ => None,
    })
    .await;
    let subject = "user.presence.changed.jill".to_owned();
    assert_eq!(error, Error::Permission { subject, may_have_applied: false });
    assert_eq!(watch.live().await, Err(error));
    eventually("the permitted one is shown", SOON, async || watch.get("jack")).await;
    assert_eq!(watch.known("jill"), Known::Unknown);
    let allowed = john.watch(["jack"]).unwrap();
    allowed.live().await.unwrap();
}

#[tokio::test]
async fn a_refused_user_stays_refused_and_others_go_on() {
    let server = Server::start_with(CONFIG).await;
    let _daemon = daemon(&server).await;
    let (all, _) = login(&server, "all").await;
    let service = Service::new(all);
    let upsert = async |status: &str| {
        let users = ["jack", "jill"].map(|id| Patch::new().status(status).of(id).unwrap());
        service.upsert(users).await.unwrap();
    };
    upsert("one").await;
    let (nats, signals) = login(&server, "john").await;
    let john = Service::builder(nats.clone()).signals(signals).user("john").unwrap();
    let subject = "user.presence.changed.jill".to_owned();
    let denied = WatchState::Denied(Error::Permission { subject, may_have_applied: false });
    let is_denied = async |watch: &Watch| {
        let mut states = watch.states();
        let denied = states.wait_for(|state| *state == denied);
        tokio::time::timeout(SOON, denied).await.unwrap().unwrap();
    };
    let first = john.watch(["jack", "jill"]).unwrap();
    is_denied(&first).await;
    // NATS names a refused subject once, and the second watch does not subscribe again.
    let second = john.watch(["jill"]).unwrap();
    is_denied(&second).await;
    first.remove("jill");
    let mut states = first.states();
    let live = states.wait_for(|state| *state == WatchState::Live);
    tokio::time::timeout(SOON, live).await.unwrap().unwrap();
    first.add("jill").unwrap();
    is_denied(&first).await;

    nats.force_reconnect().await.unwrap();
    let resynced = async || (john.stats().resyncs > 0).then_some(());
    eventually("all are asked for over the new connection", SOON, resynced).await;
    is_denied(&first).await;
    is_denied(&second).await;
    upsert("two").await;
    eventually("jack goes on", SOON, async || {
        first.get("jack").filter(|jack| jack.status.as_deref() == Some("two"))
    })
    .await;
    assert_eq!((first.known("jill"), second.known("jill")), (Known::Unknown, Known::Unknown));
}

#[tokio::test]
async fn a_refused_publish_is_named_at_once_with_signals_and_at_the_deadline_without() {
    let server = Server::start_with(CONFIG).await;
    let _daemon = daemon(&server).await;
    let (nats, signals) = login(&server, "john").await;
    let tapped = Service::builder(nats.clone()).signals(signals).user("john").unwrap();
    let error = tapped.channels().await.unwrap_err();
    let subject = "presence.v1.query_channels.john".to_owned();
    assert_eq!(error, Error::Permission { subject: subject.clone(), may_have_applied: false });
    let plain = User::new(nats, "john").unwrap();
    let error = plain.channels().await.unwrap_err();
    assert_eq!(error, Error::NoAnswer { subject });
}

#[tokio::test]
async fn a_login_that_is_gone_shows_as_stale_and_interrupted_and_its_return_mends_it() {
    let mut server = Server::start_with(CONFIG).await;
    let _daemon = daemon(&server).await;
    let (nats, signals) = login(&server, "john").await;
    let john = Service::builder(nats).signals(signals).user("john").unwrap();
    let connection = john.connect(Patch::new()).await.unwrap();
    let mut watch = john.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    server.reload(&CONFIG.replace("password: john", "password: other")).await;
    let mut states = watch.states();
    let stale = states.wait_for(|state| matches!(state, WatchState::Stale(_)));
    tokio::time::timeout(SOON, stale).await.unwrap().unwrap();
    server.reload(CONFIG).await;
    let mut states = connection.states();
    let online = states.wait_for(|state| *state == ConnectionState::Online);
    tokio::time::timeout(SOON, online).await.unwrap().unwrap();
    tokio::time::timeout(SOON, watch.live()).await.unwrap().unwrap();
    assert!(watch.next().await.is_some());
    connection.close().await;
}

const BEATING: &str = r#"
authorization { users: [
  { user: all, password: all }
  { user: john, password: john, permissions: { publish: { allow: [">"], deny: ["none"] } } }
] }
"#;

#[tokio::test]
async fn a_connection_and_a_lease_whose_heartbeats_are_refused_end_and_name_the_subject() {
    let mut server = Server::start_with(BEATING).await;
    let _daemon = daemon(&server).await;
    let (nats, signals) = login(&server, "john").await;
    let service = Service::builder(nats).signals(signals).build();
    let connection = service.connect("john", Patch::new()).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("jack", Patch::new()).await.unwrap();
    server.reload(&BEATING.replace("\"none\"", "\"presence.v1.heartbeat\"")).await;
    let subject = "presence.v1.heartbeat".to_owned();
    let error = Error::Permission { subject, may_have_applied: false };
    let mut states = connection.states();
    let closed = states.wait_for(|state| *state == ConnectionState::Closed(Some(error.clone())));
    tokio::time::timeout(SOON, closed).await.unwrap().unwrap();
    let mut states = lease.states();
    let closed = states.wait_for(|state| state.closed);
    let closed = tokio::time::timeout(SOON, closed).await.unwrap().unwrap().clone();
    assert_eq!((closed.last_error, closed.seats), (Some(error), 0));
    assert_eq!(seat.update(Patch::new().status("x")).await, Err(Error::Closed));
    assert_eq!(lease.connect("jill", Patch::new()).await.unwrap_err(), Error::Closed);
}
