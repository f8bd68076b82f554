//! Availability, devices, leaving connections, statuses with an end, defaults and counts.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Pair, Server, Stage, eventually};

/// A grace that no test waits for.
const LONG_GRACE: &[(&str, &str)] = &[("LIVENESS__OFFLINE_GRACE", "60s")];

async fn connect(client: &Client, connection: &str, device: &str, idle: bool) -> Value {
    let user = json!({"id": "john"});
    let body = json!({"user": user, "connection_id": connection, "device": device, "idle": idle});
    client.get("connect", body).await
}

/// A time so far from now.
fn in_ms(ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::now() + Duration::from_millis(ms)).to_string()
}

#[tokio::test]
async fn devices_and_idleness_are_merged_and_announced() {
    let mut stage = Stage::start(LONG_GRACE).await;
    connect(&stage.client, "a", "desktop", false).await;
    assert_eq!(stage.events.only().user["availability"], "active");
    connect(&stage.client, "b", "mobile", true).await;
    assert_eq!(stage.events.only().user["devices"], json!(["desktop", "mobile"]));
    let own = stage.client.of("john");
    let update = json!({"connection_id": "a", "idle": true});
    let answer = own.get("update_connection", update.clone()).await;
    assert_eq!(answer, json!({"unknown": []}));
    assert_eq!(stage.events.only().user["availability"], "away");
    own.get("update_connection", update).await;
    assert_eq!(stage.events.arrived().len(), 0);

    let unknown = json!({"user_id": "john", "connection_id": "none", "idle": true});
    let answer = stage.client.get("update_connection", unknown).await;
    assert_eq!(answer["unknown"], json!([{"user_id": "john", "connection_id": "none"}]));
    assert!(answer["rev"].is_u64());
    let other = json!({"user_id": "jack", "connection_id": "a", "idle": true});
    assert_eq!(own.refused("update_connection", other).await.code, "identity_mismatch");
    let wrong = json!({"user": {"id": "john"}, "device": "My Phone"});
    let refused = stage.client.refused("connect", wrong).await;
    assert_eq!(refused.what(), ("invalid_request", Some("device")));
}

#[tokio::test]
async fn others_see_since_when_a_user_is_offline_and_nothing_of_hidden_time() {
    let mut stage = Stage::start(NO_GRACE).await;
    let service = stage.client.clone();
    let since = async || service.see("john").await.unwrap()["offline_since"].clone();
    let moment = |event: &Value| event["offline_since"].as_str().unwrap().to_owned();
    service.connect_user("john", "a").await;
    assert_eq!(stage.events.only().user["offline_since"], Value::Null);
    let before = in_ms(0);
    service.disconnect("john", "a").await;
    let left = moment(&stage.events.only().user);
    assert!(before <= left && left <= in_ms(0), "{before} {left}");
    assert_eq!(since().await, json!(left));

    service.connect_user("john", "b").await;
    assert_eq!(stage.events.only().user["offline_since"], Value::Null);
    service.upsert(json!({"id": "john", "invisible": true})).await;
    let hidden = moment(&stage.events.only().user);
    assert!(hidden > left);
    for connection in ["b", "c"] {
        service.disconnect("john", connection).await;
        service.connect_user("john", connection).await;
        assert_eq!(since().await, json!(hidden), "nothing of hidden time is seen");
    }
    service.upsert(json!({"id": "john", "invisible": false})).await;
    assert_eq!(stage.events.only().user["offline_since"], Value::Null);
}

#[tokio::test]
async fn the_choice_counts_above_the_connections_and_stays() {
    let mut stage = Stage::start(NO_GRACE).await;
    let answer = stage
        .client
        .get(
            "connect",
            json!({"user": {"id": "john", "availability": "busy"}, "connection_id": "a"}),
        )
        .await;
    assert_eq!(answer["me"]["availability_choice"], "busy");
    assert_eq!(stage.events.only().user["availability"], "busy");
    stage.client.disconnect("john", "a").await;
    let offline = stage.events.only().user;
    assert_eq!(offline["availability"], "offline");
    assert!(offline["offline_since"].is_string());
    stage.client.connect_user("john", "b").await;
    assert_eq!(stage.events.only().user["availability"], "busy");
    let refused = stage
        .client
        .refused("upsert_users", json!({"users": [{"id": "john", "availability": null}]}));
    assert_eq!(refused.await.what(), ("invalid_request", Some("users[0].availability")));
    let found = stage
        .client
        .query(json!({"filter": {"availability": {"$in": ["busy"]}}, "sort": {"availability": 1}}))
        .await;
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn the_reload_of_one_device_or_of_the_only_active_one_is_no_event() {
    let mut stage = Stage::start(LONG_GRACE).await;
    connect(&stage.client, "a", "desktop", false).await;
    connect(&stage.client, "b", "mobile", true).await;
    stage.events.arrived();
    let before = stage.client.see("john").await.unwrap();
    stage.client.disconnect("john", "a").await;
    assert_eq!(stage.client.see("john").await.unwrap(), before);
    let body = json!({"connections": [{"user_id": "john", "connection_id": "a"}]});
    let answer = stage.client.get("heartbeat", body).await;
    assert_eq!(answer["unknown"].as_array().unwrap().len(), 1, "who is leaving is unknown");
    connect(&stage.client, "a2", "desktop", false).await;
    let after = stage.client.see("john").await.unwrap();
    assert_eq!(after["version"], before["version"]);
    assert_eq!(stage.events.arrived().len(), 0);
}

#[tokio::test]
async fn a_leaving_device_is_gone_after_the_grace() {
    let mut stage = Stage::start(&[("LIVENESS__OFFLINE_GRACE", "300ms")]).await;
    connect(&stage.client, "a", "desktop", false).await;
    connect(&stage.client, "b", "mobile", false).await;
    stage.events.arrived();
    stage.client.disconnect("john", "a").await;
    let event = stage.events.next().await;
    assert_eq!((&event.user["devices"], event.online), (&json!(["mobile"]), true));
    stage.client.disconnect("john", "b").await;
    let event = stage.events.next().await;
    assert!(!event.online);
}

#[tokio::test]
async fn a_gateway_names_the_grace_of_its_lease() {
    let mut stage = Stage::start(NO_GRACE).await;
    for user in ["john", "jack"] {
        let body = json!({"user": {"id": user}, "connection_id": "a", "lease": "gw"});
        stage.client.get("connect", body).await;
    }
    stage.events.arrived();
    let body = json!({"lease": "gw", "grace_ms": 1000});
    assert_eq!(stage.client.get("disconnect", body).await["disconnected"], 2);
    assert_eq!(stage.events.arrived().len(), 0);
    stage.client.connect_user("john", "b").await;
    assert_eq!(stage.events.arrived().len(), 0, "john is back in time");
    let event = stage.events.next().await;
    assert_eq!((event.id.as_str(), event.online), ("jack", false));
    let other = json!({"user_id": "john", "connection_id": "b", "lease": "gw"});
    assert_eq!(stage.client.get("disconnect", other).await["disconnected"], 0);
    let long = json!({"user_id": "john", "connection_id": "b", "grace_ms": 60_001});
    let refused = stage.client.refused("disconnect", long).await;
    assert_eq!(refused.what(), ("limit_exceeded", Some("grace_ms")));
    let own = json!({"connection_id": "b", "grace_ms": 0});
    stage.client.of("john").get("disconnect", own).await;
    assert!(!stage.events.only().online);
}

#[tokio::test]
async fn a_status_ends_with_one_event_whether_its_user_is_online_offline_or_invisible() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = crate::support::Events::of_all(&pair.one).await;
    pair.one.connect_user("online", "a").await;
    pair.one.get("connect", json!({"user": {"id": "invisible", "invisible": true}})).await;
    let end = in_ms(1500);
    for user in ["online", "offline", "invisible"] {
        pair.one.upsert(json!({"id": user, "status": "lunch", "status_expires_at": end})).await;
    }
    assert_eq!(events.arrived().len(), 4);
    let mut ended = Vec::new();
    for _ in 0..3 {
        let event = events.next().await;
        assert_eq!(event.user["status"], Value::Null);
        assert!(event.user.get("status_expires_at").is_none());
        ended.push(event.id);
    }
    ended.sort_unstable();
    assert_eq!(ended, ["invisible", "offline", "online"]);
    for client in pair.clients() {
        let seen = client.see("invisible").await.unwrap();
        assert_eq!((&seen["online"], &seen["status"]), (&json!(false), &Value::Null));
    }
    assert_eq!(events.arrived().len(), 0, "each status ended once");
}

#[tokio::test]
async fn the_second_daemon_ends_a_status_if_the_first_is_killed() {
    let mut pair = Pair::start(NO_GRACE).await;
    let mut events = crate::support::Events::of_all(&pair.two).await;
    let users: Vec<_> = (0..10).map(|n| format!("u{n}")).collect();
    let end = in_ms(2500);
    for user in &users {
        pair.one.upsert(json!({"id": user, "status": "lunch", "status_expires_at": end})).await;
    }
    assert_eq!(events.arrived().len(), users.len());
    // The daemon whose turn it would be is any of the two.
    pair.daemons[0].kill();
    let mut ended = Vec::new();
    for _ in &users {
        let event = events.next().await;
        assert_eq!(event.user["status"], Value::Null);
        ended.push(event.id);
    }
    ended.sort_unstable();
    assert_eq!(ended, users);
    assert_eq!(events.arrived().len(), 0, "each status ended once");
}

#[tokio::test]
async fn a_wrong_end_of_a_status_is_named_by_its_whole_path() {
    let stage = Stage::start(NO_GRACE).await;
    let past = json!({"status": "s", "status_expires_at": "2020-01-01T00:00:00Z"});
    let with_id = |id: &str| {
        let mut user = past.clone();
        user["id"] = json!(id);
        user
    };
    let connect = json!({"user": with_id("x")});
    let defaults = json!({"user": {"id": "x"}, "defaults": past});
    for (operation, body, field) in [
        (
            "upsert_users",
            json!({"users": [{"id": "a"}, with_id("x")]}),
            "users[1].status_expires_at",
        ),
        (
            "upsert_users",
            json!({"users": [{"id": "x", "status_expires_at": in_ms(60_000)}]}),
            "users[0].status_expires_at",
        ),
        ("connect", connect.clone(), "user.status_expires_at"),
        ("connect", defaults, "defaults.status_expires_at"),
    ] {
        let refused = stage.client.refused(operation, body).await;
        assert_eq!(refused.what(), ("invalid_request", Some(field)));
    }
    let mut op = connect;
    op["op"] = json!("connect");
    let answer = stage.client.get("batch", json!({"ops": [op]})).await;
    let error = &answer["results"][0]["error"];
    assert_eq!(error["details"]["field"], "ops[0].user.status_expires_at", "{error}");
}

#[tokio::test]
async fn defaults_make_a_user_and_do_not_change_one() {
    let stage = Stage::start(NO_GRACE).await;
    let body = |name: &str| {
        let defaults = json!({"name": name});
        json!({"user": {"id": "john"}, "connection_id": "a", "defaults": defaults})
    };
    let answer = stage.client.get("connect", body("John")).await;
    assert_eq!((&answer["created"], &answer["me"]["name"]), (&json!(true), &json!("John")));
    let answer = stage.client.get("connect", body("Jack")).await;
    assert_eq!((&answer["created"], &answer["me"]["name"]), (&json!(false), &json!("John")));
    let with_id = json!({"user": {"id": "john"}, "defaults": {"id": "jack"}});
    let refused = stage.client.refused("connect", with_id).await;
    assert_eq!(refused.what(), ("invalid_request", Some("defaults.id")));
}

#[tokio::test]
async fn defaults_may_set_a_status_that_ends() {
    let mut stage = Stage::start(NO_GRACE).await;
    let end = in_ms(1500);
    let defaults = json!({"status": "new here", "status_expires_at": end});
    let body = |connection: &str| {
        let user = json!({"id": "john"});
        json!({"user": user, "defaults": defaults, "connection_id": connection})
    };
    let me = stage.client.get("connect", body("a")).await["me"].take();
    assert_eq!((&me["status"], &me["status_expires_at"]), (&json!("new here"), &json!(end)));
    assert_eq!(stage.events.only().user["status_expires_at"], end);
    assert_eq!(stage.events.next().await.user["status"], Value::Null);
    let again = stage.client.get("connect", body("b")).await;
    assert_eq!((&again["created"], &again["me"]["status"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn users_are_counted_as_the_viewer_sees_them() {
    let pair = Pair::start(NO_GRACE).await;
    for user in ["john", "jack", "jill"] {
        pair.one.connect_user(user, "a").await;
    }
    pair.one.upsert(json!({"id": "jill", "invisible": true})).await;
    let count = async |client: &Client, body: Value| client.get("count_users", body).await;
    for client in pair.clients() {
        let online = json!({"filter": {"online": true}, "presence": true});
        assert_eq!(count(client, online).await, json!({"count": 2}));
        let own = json!({"filter": {"online": true}, "presence": true, "as": "jill"});
        assert_eq!(count(client, own).await["count"], 3);
        let named = json!({"filter": {"id": {"$in": ["john", "jill", "x"]}}, "presence": true});
        assert_eq!(count(client, named).await["count"], 2);
        assert_eq!(count(client, json!({"presence": true})).await["count"], 3);
        assert_eq!(
            count(&client.of("jill"), json!({"filter": {"online": true}})).await["count"],
            3
        );
    }
    let rev = pair.one.connect_user("new", "a").await["rev"].clone();
    let filter = json!({"online": true});
    let body = json!({"filter": filter, "presence": false, "min_rev": rev});
    assert_eq!(count(&pair.two, body).await["count"], 3);
    let refused = pair.one.of("john").refused("count_users", json!({"min_rev": 1})).await;
    assert_eq!(refused.what(), ("invalid_request", Some("min_rev")));
}

#[tokio::test]
async fn connections_are_updated_in_a_batch() {
    let mut stage = Stage::start(NO_GRACE).await;
    let ops = json!([
        {"op": "connect", "user": {"id": "john"}, "connection_id": "a", "device": "desktop",
         "defaults": {"name": "x"}},
        {"op": "update_connection", "user_id": "john", "connection_id": "a", "idle": true,
         "device": "mobile"},
        {"op": "update_connection", "user_id": "jack", "connection_id": "a", "idle": true},
        {"op": "disconnect", "user_id": "john", "connection_id": "a", "grace_ms": 30_000},
    ]);
    let results = stage.client.get("batch", json!({"ops": ops})).await["results"].take();
    assert_eq!(results[0]["created"], true);
    assert_eq!(results[1]["unknown"], json!([]));
    assert_eq!(results[2]["unknown"], json!([{"user_id": "jack", "connection_id": "a"}]));
    assert_eq!(results[3]["disconnected"], 1);
    let john = stage.client.see("john").await.unwrap();
    assert_eq!((&john["availability"], &john["devices"]), (&json!("away"), &json!(["mobile"])));
    assert!(stage.events.arrived().iter().all(|event| event.online));
}

#[tokio::test]
async fn a_deleted_member_shows_the_version_that_its_deletion_left() {
    let mut stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("john", "a").await;
    let body = json!({"type": "team", "id": "x", "members": ["john", "never"]});
    stage.client.get("upsert_channel", body).await;
    stage.events.arrived();
    stage.client.get("delete_users", json!({"ids": ["john"]})).await;
    let gone = stage.events.only();
    let body = json!({"type": "team", "id": "x", "presence": true});
    let members = stage.client.get("watch_channel", body).await["channel"]["members"].take();
    assert_eq!(members[0]["user"], gone.user);
    assert_eq!(
        members[1]["user"],
        json!({"id": "never", "online": false, "status": null, "last_active": null,
            "offline_since": null, "availability": "offline", "version": 0})
    );
}

#[tokio::test]
async fn announced_fields_are_in_events_and_invisible_may_be_kept_for_services() {
    let settings = &[("USERS__ANNOUNCED_FIELDS", "name"), ("USERS__ALLOW_INVISIBLE", "false")];
    let mut stage = Stage::start(settings).await;
    stage.client.upsert(json!({"id": "john", "mood": 1})).await;
    assert_eq!(stage.events.arrived().len(), 0);
    stage.client.upsert(json!({"id": "john", "name": "J"})).await;
    assert_eq!(stage.events.only().user["name"], "J");
    let own = stage.client.of("john");
    for (operation, body, field) in [
        (
            "upsert_users",
            json!({"users": [{"id": "john", "invisible": true}]}),
            "users[0].invisible",
        ),
        ("connect", json!({"user": {"invisible": true}}), "user.invisible"),
        ("connect", json!({"defaults": {"invisible": true}}), "defaults.invisible"),
    ] {
        let refused = own.refused(operation, body).await;
        assert_eq!(refused.what(), ("forbidden_field", Some(field)));
    }
    own.get("upsert_users", json!({"users": [{"id": "john", "invisible": false}]})).await;
    stage.client.upsert(json!({"id": "john", "invisible": true})).await;
}

#[tokio::test]
async fn explain_says_why() {
    let stage = Stage::start(LONG_GRACE).await;
    connect(&stage.client, "a", "desktop", false).await;
    connect(&stage.client, "b", "mobile", false).await;
    stage.client.disconnect("john", "b").await;
    let end = in_ms(60_000);
    stage.client.upsert(json!({"id": "john", "status": "s", "status_expires_at": end})).await;
    let answer = stage.client.get("explain", json!({"user_id": "john"})).await;
    assert_eq!(answer["shown"]["availability"], "active");
    assert!(answer["shown"]["why"].as_str().unwrap().contains("active: by a"), "{answer}");
    let leaving = &answer["leaving"][0];
    assert_eq!((&leaving["connection_id"], &leaving["device"]), (&json!("b"), &json!("mobile")));
    assert!(leaving["until"].as_str() > leaving["since"].as_str(), "{answer}");
    assert_eq!(answer["status_expires_at"], end);
    assert_eq!(answer["connections"][0]["idle"], false);
}

#[tokio::test]
async fn the_longest_grace_of_the_daemons_counts() {
    let server = Server::start().await;
    let settings =
        |prefix, grace| [("SUBJECTS__PREFIX", prefix), ("LIVENESS__OFFLINE_GRACE", grace)];
    let mut short = Daemon::spawn(&server, &settings("one", "0s")).await;
    let mut long = Daemon::spawn(&server, &settings("two", "4s")).await;
    for daemon in [&mut short, &mut long] {
        daemon.logs("another liveness.offline_grace").await;
    }
    let nats = server.connect().await;
    let (one, two) = (Client::trusted(nats.clone(), "one"), Client::trusted(nats, "two"));
    // The daemon without a grace looks at the settings of others once a second.
    eventually("a disconnect leaves a grace", Duration::from_secs(8), async || {
        let connection = format!("{:x}", fastrand::u64(..));
        one.connect_user("probe", &connection).await;
        one.disconnect("probe", &connection).await;
        (one.see("probe").await?["online"] == true).then_some(())
    })
    .await;
    for n in 0..8 {
        one.connect_user(&format!("u{n}"), "c").await;
        one.disconnect(&format!("u{n}"), "c").await;
    }
    let left = Instant::now();
    let online = async || two.query(json!({"filter": {"online": true}, "presence": true})).await;
    while left.elapsed() < Duration::from_secs(3) {
        let there = online().await.iter().filter(|user| user["id"] != "probe").count();
        assert_eq!(there, 8, "after {:?}", left.elapsed());
    }
    eventually("the grace is over", Duration::from_secs(6), async || {
        online().await.is_empty().then_some(())
    })
    .await;
}
