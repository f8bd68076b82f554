//! The library against a real nats-server and real daemons.

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use presenced_client::filter::{field, ids, online};
use presenced_client::{
    Change, Connection, ConnectionState, Error, Kind, Known, Patch, Service, User, Watch,
    WatchState,
};
use serde_json::json;
use support::{Daemon, Proxy, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

async fn is(watch: &Watch, user: &str, online: bool) {
    let what = format!("{user} is shown online: {online}; {:?}", watch.state());
    eventually(&what, SOON, async || {
        watch.get(user).is_some_and(|user| user.online == online).then_some(())
    })
    .await;
}

async fn state(watch: &Watch, wanted: fn(&WatchState) -> bool) {
    let mut states = watch.states();
    tokio::time::timeout(SOON, states.wait_for(wanted)).await.unwrap().unwrap();
}

async fn online_again(connection: &Connection) {
    let mut states = connection.states();
    let online = states.wait_for(|state| *state == ConnectionState::Online);
    tokio::time::timeout(SOON, online).await.unwrap().unwrap();
}

fn open_user(nats: &async_nats::Client, id: &str) -> User {
    User::new(nats.clone(), id).unwrap()
}

/// At the end each view equals a query.
async fn equals_a_query(service: &Service, watch: &Watch, users: &[&str]) {
    watch.live().await.unwrap();
    eventually("the view equals a query", SOON, async || {
        let query = service.users().filter(ids(users)).fresh().await.unwrap();
        let same = users.iter().all(|id| {
            let found = query.users.iter().find(|user| user.id == *id);
            let seen = watch.get(id);
            match (found, seen) {
                (None, None) => true,
                (Some(found), Some(seen)) => {
                    (found.version, found.online, &found.status)
                        == (seen.version, seen.online, &seen.status)
                }
                _ => false,
            }
        });
        same.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_comes_changes_and_goes_and_a_watch_sees_it() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let mut watch = service.watch(["alice@example.com", "nobody"]).unwrap();
    assert_eq!(watch.known("alice@example.com"), Known::Unknown);
    watch.live().await.unwrap();
    assert_eq!(watch.known("alice@example.com"), Known::Absent);

    let alice = open_user(&nats, "alice@example.com");
    let patch = Patch::new().status("hello").set("room", 7).unwrap();
    let connection = alice.connect(patch).await.unwrap();
    is(&watch, "alice@example.com", true).await;
    let seen = watch.get("alice@example.com").unwrap();
    assert_eq!((seen.status.as_deref(), seen.field("room")), (Some("hello"), Some(&json!(7))));
    assert_eq!(connection.me().unwrap().invisible, Some(false));

    connection.update(Patch::new().status(None)).await.unwrap();
    eventually("the status goes", SOON, async || {
        watch.get("alice@example.com").is_some_and(|user| user.status.is_none()).then_some(())
    })
    .await;
    connection.close().await;
    is(&watch, "alice@example.com", false).await;
    let mut left = false;
    while let Ok(Some(change)) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        left |= matches!(change, Change::User { kind: Kind::Left | Kind::First, .. });
    }
    assert!(left);
    equals_a_query(&service, &watch, &["alice@example.com", "nobody"]).await;
}

#[tokio::test]
async fn of_itself_a_user_sees_what_others_do_not() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john");
    let (own, others) = (john.watch(["john"]).unwrap(), service.watch(["john"]).unwrap());
    own.live().await.unwrap();
    others.live().await.unwrap();
    let connection = john.connect(Patch::new().status("here")).await.unwrap();
    is(&own, "john", true).await;
    is(&others, "john", true).await;
    connection.update(Patch::new().invisible(true)).await.unwrap();
    is(&others, "john", false).await;
    // Nothing of this is announced.
    connection.update(Patch::new().set("room", 7).unwrap()).await.unwrap();
    let sees_itself = async || {
        let me = own.get("john").unwrap();
        (me.online && me.invisible == Some(true) && me.field("room").is_some()).then_some(())
    };
    eventually("john sees itself", SOON, sees_itself).await;
    // Another client of the user, which this one hears of by events only.
    service.upsert([Patch::new().invisible(false).of("john").unwrap()]).await.unwrap();
    eventually("the answer is shown, not the event", SOON, async || {
        own.get("john").filter(|me| me.online && me.invisible == Some(false))
    })
    .await;
    connection.close().await;
}

#[tokio::test]
async fn an_invisible_user_sees_that_it_has_left() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let john = open_user(&server.connect().await, "john");
    let own = john.watch(["john"]).unwrap();
    let connection = john.connect(Patch::new().invisible(true)).await.unwrap();
    is(&own, "john", true).await;
    connection.close().await;
    is(&own, "john", false).await;
    assert_eq!(own.state(), WatchState::Live);
}

#[tokio::test]
async fn a_connection_outlives_its_lease_and_a_dropped_one_goes_at_once() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john").connect(Patch::new()).await.unwrap();
    let mut watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    let begun = Instant::now();
    // Two leases and a half, without an event.
    while begun.elapsed() < Duration::from_millis(7500) {
        let step = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
        if let Ok(Some(Change::User { now, .. })) = step {
            assert!(now.is_some_and(|user| user.online));
        }
    }
    assert_eq!(john.state(), ConnectionState::Online);
    drop(john);
    let dropped = Instant::now();
    is(&watch, "john", false).await;
    assert!(dropped.elapsed() < Duration::from_millis(2500), "{:?}", dropped.elapsed());
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_its_connection_makes_it_again() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john").connect(Patch::new().status("here")).await.unwrap();
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    let before = watch.get("john").unwrap().version;
    assert_eq!(service.delete(["john"]).await.unwrap().value, ["john"]);
    eventually("made again", SOON, async || {
        watch.get("john").filter(|user| user.online && user.version > before)
    })
    .await;
    // Acknowledged changes are not sent again.
    assert_eq!(watch.get("john").unwrap().status, None);
    online_again(&john).await;
    john.close().await;
}

#[tokio::test]
async fn refusals_name_their_code_and_field_and_are_not_repeated() {
    let server = Server::start().await;
    let _daemon = Daemon::start_with(&server.url(), &[("LIMITS__CONNECTIONS_PER_USER", "1")]).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john");
    let first = john.connect(Patch::new()).await.unwrap();
    let begun = Instant::now();
    let error = john.connect(Patch::new()).await.unwrap_err();
    assert_eq!((error.code(), error.limit()), ("limit_exceeded", Some(1)));
    assert!(!error.is_retryable() && !error.may_have_applied());
    assert!(begun.elapsed() < Duration::from_secs(2));

    let error = first.update(Patch::new().status(&*"x".repeat(2000))).await.unwrap_err();
    assert_eq!(error.kind(), "refused");
    assert_eq!(first.state(), ConnectionState::Online);
    let wrong = presenced_client::Filter::json(json!({"last_active": {"$regex": "x"}}));
    let error = service.users().filter(wrong).await.unwrap_err();
    assert_eq!((error.code(), error.field()), ("invalid_filter", Some("last_active.$regex")));
    assert!(service.explain("nobody").await.is_err_and(|error| error.code() == "user_not_found"));
    for bad in ["", "a\nb", &"x".repeat(256)] {
        assert_eq!(service.watch([bad]).unwrap_err().code(), "invalid_id");
    }
    for bad in ["", "online", "$x"] {
        assert!(Patch::new().set(bad, 1).is_err());
    }
    first.close().await;
}

#[tokio::test]
async fn without_a_daemon_nothing_is_lost_and_the_error_says_so() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let watch = service.watch(["john"]).unwrap();
    let john = open_user(&nats, "john");
    let connecting = tokio::spawn(async move { john.connect(Patch::new()).await });
    let error = service.users().await.unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    assert!(error.is_retryable() && !error.may_have_applied());
    assert_eq!(watch.state(), WatchState::Loading);
    let _daemon = Daemon::start(&server.url()).await;
    let connection = connecting.await.unwrap().unwrap();
    is(&watch, "john", true).await;
    watch.live().await.unwrap();
    connection.close().await;
}

#[tokio::test]
async fn a_link_that_is_cut_again_and_again_loses_nothing() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let service = Service::new(server.connect().await);
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let far_service = Service::new(far.clone());
    let mut watch = far_service.watch(["john", "jack"]).unwrap();
    watch.live().await.unwrap();
    let john = open_user(&far, "john").connect(Patch::new()).await.unwrap();
    let mut highest = 0;
    for round in 0..8 {
        proxy.cut();
        let status = format!("round {round}");
        john.update(Patch::new().status(&*status)).await.unwrap();
        let users = [Patch::new().status(&*status).of("jack").unwrap()];
        service.upsert(users).await.unwrap();
        while let Ok(Some(change)) =
            tokio::time::timeout(Duration::from_millis(100), watch.next()).await
        {
            if let Change::User { id, now: Some(now), .. } = change
                && id.as_str() == "jack"
            {
                assert!(now.version >= highest, "a version went back");
                highest = now.version;
            }
        }
    }
    online_again(&john).await;
    equals_a_query(&service, &watch, &["john", "jack"]).await;
    assert_eq!(watch.get("jack").unwrap().status.as_deref(), Some("round 7"));
    assert_eq!(watch.get("john").unwrap().status.as_deref(), Some("round 7"));
    assert!(watch.get("john").unwrap().online);
    assert!(far_service.stats().resyncs > 0);
    john.close().await;
}

#[tokio::test]
async fn a_black_hole_is_noticed_and_left() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let far = async_nats::connect(proxy.url()).await.unwrap();
    let john = open_user(&far, "john").connect(Patch::new()).await.unwrap();
    let connects = || far.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(connects(), 1);
    proxy.black_hole();
    let begun = Instant::now();
    // Two beats of a second, and two answers of 2.5 s that are missing.
    let mut states = john.states();
    let interrupted = states.wait_for(|state| *state != ConnectionState::Online);
    tokio::time::timeout(SOON, interrupted).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    proxy.open();
    eventually("a new connection", SOON, async || (connects() > 1).then_some(())).await;
    online_again(&john).await;
    let service = Service::new(server.connect().await);
    let watch = service.watch(["john"]).unwrap();
    is(&watch, "john", true).await;
    john.close().await;
}

#[tokio::test]
async fn a_watch_says_stale_before_it_shows_what_changed_meanwhile() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let service = Service::new(server.connect().await);
    let upsert = |status: &str| [Patch::new().status(status).of("jack").unwrap()];
    service.upsert(upsert("before")).await.unwrap();
    let far = Service::new(async_nats::connect(proxy.url()).await.unwrap());
    let mut watch = far.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    proxy.close();
    state(&watch, |state| matches!(state, WatchState::Stale(_))).await;
    assert_eq!(watch.get("jack").unwrap().status.as_deref(), Some("before"));
    service.upsert(upsert("after")).await.unwrap();
    let error = far.users().await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { may_have_applied: false }), "{error:?}");
    proxy.open();
    state(&watch, |state| *state == WatchState::Live).await;
    let mut seen = Vec::new();
    while let Ok(Some(change)) =
        tokio::time::timeout(Duration::from_millis(300), watch.next()).await
    {
        seen.push(change);
    }
    let place = |wanted: &dyn Fn(&Change) -> bool| seen.iter().position(wanted).unwrap();
    let stale = place(&|change| matches!(change, Change::State(WatchState::Stale(_))));
    let after = place(&|change| {
        let Change::User { now: Some(user), .. } = change else { return false };
        user.status.as_deref() == Some("after")
    });
    assert!(stale < after, "{seen:#?}");
}

#[tokio::test]
async fn daemons_that_are_killed_and_replaced_are_not_noticed() {
    let server = Server::start().await;
    let first = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john").connect(Patch::new()).await.unwrap();
    let mut watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    let second = Daemon::start(&server.url()).await;
    tokio::time::sleep(Duration::from_secs(3)).await; // A lease: the second one has heard all.
    drop(first);
    let _third = Daemon::start(&server.url()).await;
    drop(second);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let step = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
        if let Ok(Some(Change::User { now, .. })) = step {
            assert!(now.is_some_and(|user| user.online));
        }
    }
    equals_a_query(&service, &watch, &["john"]).await;
    john.close().await;
}

#[tokio::test]
async fn nats_away_for_longer_than_a_lease() {
    let mut server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let john = open_user(&nats, "john").connect(Patch::new()).await.unwrap();
    let watch = service.watch(["john"]).unwrap();
    watch.live().await.unwrap();
    server.vanish();
    state(&watch, |state| matches!(state, WatchState::Stale(_))).await;
    let mut states = john.states();
    states.wait_for(|state| *state == ConnectionState::Interrupted).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await; // Longer than the lease.
    server.appear().await;
    tokio::time::timeout(SOON * 2, watch.live()).await.unwrap().unwrap();
    online_again(&john).await;
    is(&watch, "john", true).await;
    equals_a_query(&service, &watch, &["john"]).await;
    john.close().await;
}

#[tokio::test]
async fn a_slow_reader_finds_the_newest_state_only() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let mut watch = service.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    for number in 0..50 {
        let status = format!("{number}");
        service.upsert([Patch::new().status(&*status).of("jack").unwrap()]).await.unwrap();
    }
    eventually("the last status", SOON, async || {
        watch.get("jack").filter(|user| user.status.as_deref() == Some("49"))
    })
    .await;
    let mut users = 0;
    while let Ok(Some(change)) =
        tokio::time::timeout(Duration::from_millis(300), watch.next()).await
    {
        users += u32::from(matches!(change, Change::User { .. }));
    }
    assert!(users <= 2, "{users}");
}

#[tokio::test]
async fn foreign_messages_on_an_event_subject_are_dropped_and_counted() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let watch = service.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    let version = 9_000_000_000_000_000_u64;
    let user = json!({"id": "jack", "online": true, "status": null, "version": version});
    let forged = json!({"type": "other", "user": user});
    for payload in ["{", "[]", &forged.to_string()] {
        nats.publish("user.presence.changed.jack", payload.to_owned().into()).await.unwrap();
    }
    eventually("all are counted", SOON, async || (service.stats().foreign == 3).then_some(()))
        .await;
    assert_eq!(watch.known("jack"), Known::Absent);
}

#[tokio::test]
async fn queries_pages_and_writes_are_read_back() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let mut rev = None;
    for chunk in 0..3 {
        let users = (0..100).map(|n| {
            let patch = Patch::new().set("team", if n % 2 == 0 { "red" } else { "blue" }).unwrap();
            patch.of(format!("u{:03}", chunk * 100 + n)).unwrap()
        });
        rev = service.upsert(users).await.unwrap().rev;
    }
    let red = service.users().filter(field("team").eq("red")).read_after(rev.unwrap());
    let all: Vec<_> = red.pages().map(|user| user.unwrap().id).collect().await;
    assert_eq!(all.len(), 150);
    assert!(all.is_sorted());
    let seat = service.connect("u000", Patch::new()).await.unwrap();
    let found =
        service.users().filter(online().and(field("team").eq("red"))).fresh().await.unwrap();
    assert_eq!(found.users.len(), 1);
    seat.close().await;
}

#[tokio::test]
async fn users_that_are_added_and_removed() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let names: Vec<_> = (0..250).map(|n| format!("u{n}")).collect();
    for chunk in names.chunks(100) {
        service.upsert(chunk.iter().map(|id| Patch::new().of(id).unwrap())).await.unwrap();
    }
    let watch = service.watch(&names).unwrap();
    watch.live().await.unwrap();
    assert_eq!(watch.snapshot().len(), 250);
    watch.remove("u7");
    eventually("one fewer", SOON, async || (watch.snapshot().len() == 249).then_some(())).await;
    watch.add("u7").unwrap();
    eventually("back", SOON, async || watch.get("u7")).await;
    let second = service.watch(["u7"]).unwrap();
    second.live().await.unwrap();
    drop(watch);
    let seat = service.connect("u7", Patch::new()).await.unwrap();
    is(&second, "u7", true).await;
    seat.close().await;
}

#[tokio::test]
async fn the_filters_of_the_cases_find_whom_they_name() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases/filters.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let body = json!({"users": cases["users"]}).to_string();
    nats.request("presence.v1.upsert_users", body.into()).await.unwrap();
    let service = Service::new(nats);
    let mut connections = Vec::new();
    for user in cases["online"].as_array().unwrap() {
        let user = user.as_str().unwrap();
        connections.push(service.connect(user, Patch::new()).await.unwrap());
    }
    for case in cases["cases"].as_array().unwrap() {
        let filter = presenced_client::Filter::json(case["json"].clone());
        let found = service.users().filter(filter).fresh().await.unwrap();
        let ids: Vec<_> = found.users.into_iter().map(|user| user.id).collect();
        assert_eq!(json!(ids), case["matches"], "{}", case["name"]);
    }
    for case in cases["invalid"].as_array().unwrap() {
        let filter = presenced_client::Filter::json(case["json"].clone());
        let error = service.users().filter(filter).await.unwrap_err();
        assert_eq!(json!([error.code(), error.field()]), json!([case["code"], case["field"]]));
    }
}

#[tokio::test]
async fn a_channel_is_watched_from_both_doors() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let names: Vec<_> = (0..25).map(|n| format!("u{n:02}")).collect();
    let change = json!({"members": names, "data": {"color": "green"}});
    let written = service
        .upsert_channel("messaging", "42", change.as_object().unwrap().clone())
        .await
        .unwrap();
    assert_eq!(written.value["member_count"], 25);
    let watched = service.watch_channel("messaging", "42", None).await.unwrap();
    assert_eq!(watched.channel["color"], "green");
    let all = watched.watch;
    let own = open_user(&nats, "u00").watch_channel("messaging", "42", None).await.unwrap().watch;
    let stranger = open_user(&nats, "stranger").watch_channel("messaging", "42", None).await;
    assert_eq!(stranger.unwrap_err().code(), "channel_not_found");
    for watch in [&all, &own] {
        watch.live().await.unwrap();
        assert_eq!(watch.known("u24"), Known::Absent);
    }
    let seat = service.connect("u24", Patch::new()).await.unwrap();
    is(&all, "u24", true).await;
    is(&own, "u24", true).await;
    seat.close().await;
    assert!(service.delete_channel("messaging", "42").await.unwrap().value);
}

#[tokio::test]
async fn a_change_of_an_invisible_user_whose_record_is_deleted_does_not_show_it() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let hidden = || Patch::new().invisible(true);
    let john = open_user(&nats, "john").connect(hidden()).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let jane = lease.connect("jane", hidden()).await.unwrap();
    service.delete(["john", "jane"]).await.unwrap();
    john.update(Patch::new().status("quiet")).await.unwrap();
    assert_eq!(john.me().unwrap().invisible, Some(true));
    jane.update(Patch::new().status("quiet")).await.unwrap();
    for id in ["john", "jane"] {
        let own = service.users().seen_by(id).unwrap().filter(ids([id]));
        let own = own.limit(1).await.unwrap().users;
        assert_eq!(own[0].invisible, Some(true), "{id}");
        let seen = service.users().filter(ids([id])).limit(1).await.unwrap().users;
        assert!(!seen[0].online, "{id}");
    }
}
