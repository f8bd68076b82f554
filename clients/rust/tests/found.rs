//! Watches that find their users, fields as a type of the application, defaults and devices.

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use presenced_client::filter::{field, online};
use presenced_client::{
    Change, CustomFields, Device, Kind, Known, Patch, Seen, Service, User, Watch, WatchState,
};
use support::{Daemon, Proxy, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

async fn shows<F: CustomFields, K>(watch: &Watch<F, K>, users: &[&str]) {
    eventually(&format!("the watch shows {users:?}"), SOON, async || {
        let shown = watch.snapshot();
        shown.iter().map(|user| user.id.as_str()).eq(users.iter().copied()).then_some(())
    })
    .await;
}

fn named(user: &str, team: &str) -> presenced_client::UserPatch {
    Patch::new().set("team", team).unwrap().of(user).unwrap()
}

#[tokio::test]
async fn all_users_are_watched_page_after_page_and_newcomers_too() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    for start in [0, 100] {
        let users = (start..start + 100).map(|n| named(&format!("user-{n:03}"), "red"));
        service.upsert(users).await.unwrap();
    }
    let mut watch = service.watch_all();
    watch.live().await.unwrap();
    assert_eq!(watch.snapshot().len(), 200);
    assert_eq!(watch.known("alice@example.com"), Known::Absent);

    let alice = User::new(nats, "alice@example.com").unwrap();
    let connection = alice.connect(Patch::new()).await.unwrap();
    eventually("the newcomer is shown", SOON, async || watch.get("alice@example.com")).await;
    service.delete(["user-007"]).await.unwrap();
    connection.close().await;
    eventually("she has left", SOON, async || {
        watch.get("alice@example.com").is_some_and(|user| !user.online).then_some(())
    })
    .await;
    let mut kinds = Vec::new();
    while let Ok(Some(change)) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        match change {
            Change::User { id, kind, .. } if !id.as_str().starts_with("user-") => kinds.push(kind),
            _ => {}
        }
    }
    assert_eq!(kinds, [Kind::First], "a reader that lags sees her first as she is now");
}

#[tokio::test]
async fn all_users_are_looked_at_again_after_a_cut() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let proxy = Proxy::start(server.port()).await;
    let watching = Service::new(async_nats::connect(proxy.url()).await.unwrap());
    let others = Service::new(server.connect().await);
    others.upsert(["a", "b", "c"].map(|user| named(user, "red"))).await.unwrap();
    let mut watch = watching.watch_all();
    watch.live().await.unwrap();
    while watch.snapshot().len() < 3 {
        watch.next().await.unwrap();
    }

    proxy.close();
    let mut states = watch.states();
    let stale = states.wait_for(|state| matches!(state, WatchState::Stale(_)));
    tokio::time::timeout(SOON, stale).await.unwrap().unwrap();
    others.delete(["b"]).await.unwrap();
    others.upsert([named("d", "blue")]).await.unwrap();
    assert_eq!(watch.snapshot().len(), 3, "the old picture stays");
    proxy.open();
    let live = states.wait_for(|state| *state == WatchState::Live);
    tokio::time::timeout(SOON, live).await.unwrap().unwrap();
    shows(&watch, &["a", "c", "d"]).await;
    assert_eq!(watching.stats().resyncs, 2, "the watch and the hub of its door");
}

#[tokio::test]
async fn those_who_match_come_and_go_with_what_they_are() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    service.upsert([named("ann", "red"), named("bob", "red"), named("cid", "blue")]).await.unwrap();
    let ann = service.connect("ann", Patch::new()).await.unwrap();
    let watch = service.watch_where(online().and(field("team").eq("red")), None, 50);
    watch.live().await.unwrap();
    shows(&watch, &["ann"]).await;
    assert_eq!(watch.known("bob"), Known::Absent);

    let bob = service.connect("bob", Patch::new()).await.unwrap();
    shows(&watch, &["ann", "bob"]).await;
    ann.close().await;
    shows(&watch, &["bob"]).await;
    drop(bob);
    shows(&watch, &[]).await;
    let refused = service.watch_where(online(), None, 1000).live().await.unwrap_err();
    assert_eq!(refused.code(), "limit_exceeded");
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Profile {
    team: String,
}

#[tokio::test]
async fn fields_are_of_the_applications_type_or_the_user_is_unreadable() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let untyped = Service::new(server.connect().await);
    let wrong = Patch::new().set("team", 7).unwrap().of("bob").unwrap();
    untyped.upsert([named("ann", "red"), wrong]).await.unwrap();

    let typed = untyped.typed::<Profile>();
    let page = typed.users().filter(field("team").eq("red")).await.unwrap();
    let teams: Vec<_> = page.users.iter().map(|user: &Seen<Profile>| &user.custom.team).collect();
    assert_eq!(teams, ["red"]);
    assert_eq!(typed.users().await.unwrap_err().code(), "malformed");

    let watch = typed.watch(["ann", "bob"]).unwrap();
    watch.live().await.unwrap();
    assert_eq!(watch.get("ann").unwrap().custom, Profile { team: "red".to_owned() });
    assert!(
        matches!(watch.known("bob"), Known::Unreadable(why) if why.contains("expected a string"))
    );
    let connection = typed.connect("ann", Patch::new()).await.unwrap();
    assert_eq!(connection.me().unwrap().custom.team, "red");
}

#[tokio::test]
async fn defaults_count_only_for_a_user_who_is_made() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let defaults = || Patch::new().set("team", "new").unwrap();
    service.upsert([named("ann", "red")]).await.unwrap();
    let team = async |user: &str| {
        let watch = service.watch([user]).unwrap();
        watch.live().await.unwrap();
        watch.get(user).unwrap().field("team").cloned().unwrap()
    };

    let _ann = service.connect("ann", Patch::new()).defaults(defaults()).await.unwrap();
    let _bob = service.connect("bob", Patch::new()).defaults(defaults()).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let _cid = lease.connect("cid", Patch::new()).defaults(defaults()).await.unwrap();
    assert_eq!(team("ann").await, "red");
    assert_eq!(team("bob").await, "new");
    assert_eq!(team("cid").await, "new");
}

#[tokio::test]
async fn a_seat_has_a_device_that_changes() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let watch = service.watch(["john"]).unwrap();
    let is = async |availability: &str, device: &str| {
        eventually(&format!("{availability} on {device}"), SOON, async || {
            let john = watch.get("john")?;
            (john.availability.as_deref() == Some(availability) && john.devices == [device])
                .then_some(())
        })
        .await;
    };
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("john", Patch::new()).device(Device::of("mobile")).await.unwrap();
    is("active", "mobile").await;
    seat.set_device(Device::of("tablet").idle(true)).await.unwrap();
    is("away", "tablet").await;
    assert!(seat.set_device(Device::of("No Device")).await.is_err());
    seat.set_device(Device::of("tablet")).await.unwrap();
    is("active", "tablet").await;
}

#[tokio::test]
async fn users_that_match_are_deleted_so_many_at_a_time() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    service.upsert([named("a", "red"), named("b", "blue"), named("c", "red")]).await.unwrap();
    let red = field("team").eq("red");
    let first = service.delete_where(&red, 1).await.unwrap().value;
    assert_eq!((first.ids, first.more), (vec!["a".to_owned()], true));
    let rest = service.delete_where(&red, 100).await.unwrap().value;
    assert_eq!((rest.ids, rest.more), (vec!["c".to_owned()], false));
}

#[tokio::test]
async fn every_operator_of_the_contract_is_built_and_accepted() {
    use presenced_client::filter::*;
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let (at, list) = ("2031-01-01T00:00:00Z", ["a", "b"]);
    let mut users = vec![online(), offline(), invisible(true), availability().eq("away")];
    users.extend([
        availability().ne("busy"),
        availability().is_in(list),
        availability().not_in(list),
    ]);
    users.extend([status().eq("a"), status().ne("a"), status().is_in(list), status().not_in(list)]);
    users.extend([status().gt("a"), status().gte("a"), status().lt("a"), status().lte("a")]);
    users.extend([status().exists(true), status().autocomplete("a")]);
    users.extend([id().eq("a"), id().ne("a"), id().is_in(list), id().not_in(list), id().gt("a")]);
    users.extend([id().gte("a"), id().lt("a"), id().lte("a"), id().autocomplete("a")]);
    for time in [last_active, offline_since, created_at, updated_at] {
        users.extend([time().eq(at), time().ne(at), time().gt(at), time().gte(at), time().lt(at)]);
        users.extend([time().lte(at), time().exists(false)]);
    }
    users.extend([devices().eq(&["a"]), devices().ne(&["a"]), devices().exists(true)]);
    users.extend([devices().contains("a"), devices().is_in(list), devices().not_in(list)]);
    let level = || field("level");
    users.extend([level().eq(1), level().ne(true), level().gt(1), level().gte(1), level().lt(1)]);
    users.extend([level().lte(1), level().is_in([1]), level().not_in([1]), level().exists(true)]);
    users.extend([level().contains("a"), level().autocomplete("a")]);
    for filter in users {
        let found = service.users().filter(filter.clone()).await;
        assert!(found.is_ok(), "{filter:?}: {found:?}");
    }
    let mut channels = vec![cid().eq("a:b"), channel_type().is_in(list), members().eq(list)];
    channels.extend([members().is_in(list), members().contains("a"), last_message_at().gt(at)]);
    let count = member_count;
    channels.extend([count().eq(1), count().ne(1), count().gt(1), count().gte(1), count().lt(1)]);
    channels.extend([
        count().lte(1),
        count().is_in([1]),
        count().not_in([1]),
        count().exists(true),
    ]);
    for filter in channels {
        let found = service.channels().filter(&filter).seen_by("a").unwrap().await;
        assert!(found.is_ok(), "{filter:?}: {found:?}");
    }
}
