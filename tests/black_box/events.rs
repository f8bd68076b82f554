//! Events: their content, their order, their form, and the changes that have none.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::events::{assert_time, latest};
use crate::support::stage::NO_GRACE;
use crate::support::wait::{a_later_millisecond, wall_ms};
use crate::support::{Events, Pair, Stage, keys, within};

/// The longest that a grace of one second may last.
const GRACE: Duration = Duration::from_secs(1);
const GRACE_AND_A_SECOND: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_connect_is_announced_before_it_is_answered_as_a_query_shows_the_user() {
    let mut stage = Stage::start(NO_GRACE).await;
    let user = json!({"id": "john", "status": "Eating a veggie burger...", "name": "John"});
    let before = wall_ms();
    let answer = stage.client.get("connect", json!({"user": user, "connection_id": "c1"})).await;
    let event = stage.events.only();

    assert_eq!(keys(&answer), ["connection_id", "created", "heartbeat", "me", "rev"].into());
    assert_eq!(answer["connection_id"], "c1");
    assert_eq!(answer["heartbeat"], json!({"interval_ms": 20_000, "lease_ms": 60_000}));
    let expected = [
        "availability",
        "created_at",
        "id",
        "last_active",
        "name",
        "offline_since",
        "online",
        "status",
        "updated_at",
        "version",
    ];
    assert_eq!(keys(&event.user), expected.into());
    assert_eq!(event.user["online"], true);
    assert_eq!(event.user["status"], "Eating a veggie burger...");
    assert_eq!(event.user["name"], "John");
    for time in ["created_at", "last_active", "updated_at"] {
        assert_time(&event.user[time]);
    }
    assert!(event.version >= before && event.version <= wall_ms(), "{event:?}");
    assert_eq!(stage.client.see("john").await, Some(event.user.clone()));
    let mut me = event.user;
    me["invisible"] = json!(false);
    me["availability_choice"] = json!("auto");
    me["hide_last_active"] = json!(false);
    assert_eq!(answer["me"], me);
}

#[tokio::test]
async fn an_event_leaves_before_the_answer() {
    let stage = Stage::start(NO_GRACE).await;
    let nats = &stage.client.nats;
    // One subscription hears events and answers in the order in which the daemon published them.
    let mut all = nats.subscribe(">").await.unwrap();
    for n in 0..200 {
        let body = json!({"users": [{"id": format!("u{n}"), "status": "s"}]}).to_string();
        let (subject, reply) = (stage.client.subject("upsert_users"), format!("answer.to.u{n}"));
        nats.publish_with_reply(subject, reply, body.into()).await.unwrap();
    }
    let (mut announced, mut answered) = (BTreeSet::new(), 0);
    while answered < 200 {
        let message = within("the next message", Duration::from_secs(5), all.next()).await.unwrap();
        if let Some(user) = message.subject.strip_prefix("user.presence.changed.") {
            announced.insert(user.to_owned());
        } else if let Some(user) = message.subject.strip_prefix("answer.to.") {
            assert!(announced.contains(user), "the answer to {user} came first");
            answered += 1;
        }
    }
}

#[tokio::test]
async fn only_a_change_of_online_or_status_is_announced_and_moves_the_version() {
    let mut stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.upsert(json!({"id": "john", "name": "John"})).await;
    let made = client.see("john").await.unwrap();
    assert_eq!(made["version"], 0, "nobody could see that: {made}");
    client.connect_user("john", "c1").await;
    let first = stage.events.only();
    assert!(first.online);

    client.connect_user("john", "c1").await;
    client.connect_user("john", "c2").await;
    client.upsert(json!({"id": "john", "name": "Johnny", "age": 7})).await;
    client.upsert(json!({"id": "john", "status": null, "invisible": false})).await;
    client.disconnect("john", "c1").await;
    client.disconnect("john", "nobody knows this one").await;
    client.get("heartbeat", json!({"user_id": "john", "connection_id": "c2"})).await;
    assert_eq!(stage.events.arrived().len(), 0);
    assert_eq!(client.see("john").await.unwrap()["version"], first.version);

    client.upsert(json!({"id": "john", "status": "busy"})).await;
    let busy = stage.events.only();
    client.upsert(json!({"id": "john", "status": "busy"})).await;
    assert_eq!(stage.events.arrived().len(), 0);
    client.upsert(json!({"id": "john", "status": null})).await;
    let idle = stage.events.only();
    client.disconnect("john", "c2").await;
    let gone = stage.events.only();
    assert_eq!(
        [&first, &busy, &idle, &gone].map(|event| (event.online, event.user["status"].clone())),
        [(true, Value::Null), (true, json!("busy")), (true, Value::Null), (false, Value::Null)]
    );
    assert_eq!(gone.user["last_active"], client.see("john").await.unwrap()["last_active"]);
}

#[tokio::test]
async fn many_changes_at_once_are_all_announced_in_the_order_of_their_versions() {
    let mut stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    let change = |n: usize| client.upsert(json!({"id": "john", "status": n.to_string()}));
    let answers = futures_util::future::join_all((0..100).map(change)).await;
    let events = stage.events.arrived();
    assert_eq!(events.len(), 100);
    assert!(events.is_sorted_by(|one, next| one.version < next.version));
    // Each answer shows the version of its own change.
    for answer in answers {
        let me = &answer["users"]["john"];
        let own = events.iter().find(|event| event.user["status"] == me["status"]).unwrap();
        assert_eq!(me["version"], own.version);
    }
    assert_eq!(client.see("john").await.unwrap(), events.last().unwrap().user);
}

#[tokio::test]
async fn the_version_is_at_least_the_time_and_grows_by_one_within_a_millisecond() {
    let mut stage = Stage::start(NO_GRACE).await;
    let ops: Vec<_> = (0..200)
        .map(|n| json!({"op": "upsert_users", "users": [{"id": "john", "status": n.to_string()}]}))
        .collect();
    let before = wall_ms();
    stage.client.get("batch", json!({"ops": ops})).await;
    let events = stage.events.arrived();
    let after = wall_ms();
    assert_eq!(events.len(), 200);
    assert!(events[0].version >= before);
    for pair in events.windows(2) {
        let (one, next) = (pair[0].version, pair[1].version);
        assert!(next == one + 1 || (next > one && next <= after), "{one} {next}");
    }
}

#[tokio::test]
async fn updated_at_moves_only_when_a_value_really_changes() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.upsert(json!({"id": "john", "status": "a", "list": [1, {"x": 2, "y": 3}]})).await;
    let made = client.see("john").await.unwrap();
    a_later_millisecond().await;
    client.connect_user("john", "c1").await;
    client.upsert(json!({"id": "john", "status": "a", "list": [1, {"y": 3, "x": 2}]})).await;
    client.upsert(json!({"id": "john", "none": null})).await;
    let same = client.see("john").await.unwrap();
    assert_eq!(same["updated_at"], made["updated_at"]);
    assert_eq!(same["created_at"], made["created_at"]);
    client.upsert(json!({"id": "john", "list": [1]})).await;
    let changed = client.see("john").await.unwrap();
    assert!(changed["updated_at"].as_str() > made["updated_at"].as_str(), "{made} {changed}");
    assert_eq!(changed["created_at"], made["created_at"]);
}

#[tokio::test]
async fn an_id_of_any_characters_has_its_events_under_its_token() {
    let mut stage = Stage::start(NO_GRACE).await;
    let ids = ["alice@example.com", "a b.c*d>e", "=", "Ünï😀", "presence.v1", &"😀".repeat(63)];
    for id in ids {
        stage.client.connect_user(id, id).await;
        assert_eq!(stage.events.only().id, id);
        assert_eq!(stage.client.see(id).await.unwrap()["id"], id);
    }
    assert_eq!(stage.client.see_all(&ids).await.len(), ids.len());
}

#[tokio::test]
async fn a_disconnect_is_announced_when_the_grace_is_over() {
    let mut stage = Stage::start(&[("LIVENESS__OFFLINE_GRACE", "1s")]).await;
    stage.client.connect_user("john", "c1").await;
    let online = stage.events.only();
    let asked = tokio::time::Instant::now();
    let answer = stage.client.disconnect("john", "c1").await;
    assert_eq!(answer["disconnected"], 1);
    assert_eq!(stage.client.see("john").await, Some(online.user.clone()));
    let event = stage.events.next().await;
    let took = asked.elapsed();
    assert!((GRACE..GRACE_AND_A_SECOND).contains(&took), "{took:?}");
    assert!(!event.online);
    assert_eq!(event.user["last_active"], online.user["last_active"]);
    assert_eq!(stage.client.see("john").await, Some(event.user));
}

#[tokio::test]
async fn a_reconnect_to_another_daemon_within_the_grace_is_never_noticed() {
    let pair = Pair::start(&[("LIVENESS__OFFLINE_GRACE", "1s")]).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c1").await;
    let online = events.only();
    pair.one.disconnect("john", "c1").await;
    pair.two.connect_user("john", "c2").await;
    events.silent_for(GRACE_AND_A_SECOND + GRACE).await;
    for client in pair.clients() {
        let now = client.see("john").await.unwrap();
        assert_eq!((&now["online"], &now["version"]), (&json!(true), &json!(online.version)));
    }
}

#[tokio::test]
async fn each_daemon_ends_graces_within_a_second_whichever_heard_the_disconnect() {
    let pair = Pair::start(&[("LIVENESS__OFFLINE_GRACE", "1s")]).await;
    let mut events = Events::of_all(&pair.one).await;
    let users: Vec<_> = (0..20).map(|n| format!("user-{n}")).collect();
    for (n, user) in users.iter().enumerate() {
        pair.clients()[n % 2].connect_user(user, "c").await;
    }
    let asked = tokio::time::Instant::now();
    for (n, user) in users.iter().enumerate() {
        pair.clients()[n / 2 % 2].disconnect(user, "c").await;
    }
    let last = tokio::time::Instant::now();
    let mut offline = 0;
    while offline < users.len() {
        let event = events.next().await;
        offline += usize::from(!event.online);
        assert!(event.online || asked.elapsed() >= GRACE, "{event:?}");
    }
    assert!(last.elapsed() < GRACE_AND_A_SECOND, "{:?}", last.elapsed());
    // Both daemons watch each grace, and one of them ends it.
    events.silent_for(GRACE).await;
}

#[tokio::test]
async fn two_daemons_announce_what_a_query_says_on_either() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    let change = |n: usize| {
        let client = pair.clients()[n % 2];
        client.upsert(json!({"id": format!("user-{}", n % 5), "status": n.to_string()}))
    };
    futures_util::future::join_all((0..200).map(change)).await;
    let heard = events.arrived();
    assert_eq!(heard.len(), 200, "each change has its event");
    let latest = latest(heard);
    assert_eq!(latest.len(), 5);
    for client in pair.clients() {
        for (id, event) in &latest {
            assert_eq!(client.see(id).await.as_ref(), Some(&event.user));
        }
    }
}
