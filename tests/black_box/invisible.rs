//! Invisible: offline to everyone else in every respect, on each daemon.

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::wait::a_later_millisecond;
use crate::support::{Events, Pair, Stage};

const LONG_GRACE: &[(&str, &str)] = &[("LIVENESS__OFFLINE_GRACE", "1s")];

/// The view that others have on each daemon, which is the same.
async fn seen(pair: &Pair, id: &str) -> Value {
    let one = pair.one.see(id).await.unwrap();
    assert_eq!(pair.two.see(id).await.as_ref(), Some(&one));
    one
}

async fn make_invisible(pair: &Pair, id: &str) {
    pair.one.upsert(json!({"id": id, "invisible": true})).await;
}

async fn show(pair: &Pair, id: &str) {
    pair.two.upsert(json!({"id": id, "invisible": false})).await;
}

#[tokio::test]
async fn a_user_who_connects_invisible_is_never_seen_online() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    let body = json!({"user": {"id": "john", "invisible": true}, "connection_id": "c"});
    let answer = pair.one.get("connect", body).await;
    assert_eq!(answer["me"]["online"], true);
    assert_eq!(answer["me"]["invisible"], true);
    assert!(answer["me"]["last_active"].is_string());
    let john = seen(&pair, "john").await;
    assert_eq!(
        (&john["online"], &john["last_active"], &john["version"]),
        (&json!(false), &Value::Null, &json!(0))
    );
    assert_eq!(events.arrived().len(), 0);
}

#[tokio::test]
async fn going_invisible_looks_like_a_disconnect_but_for_version_and_time() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    for id in ["john", "jack"] {
        let user = json!({"user": {"id": id, "status": "s", "name": "x"}, "connection_id": "c"});
        pair.one.get("connect", user).await;
        events.only();
    }
    make_invisible(&pair, "john").await;
    let invisible = events.only().body;
    pair.one.disconnect("jack", "c").await;
    let left = events.only().body;
    let plain = |mut body: Value| {
        body["created_at"] = Value::Null;
        let own = ["id", "created_at", "updated_at", "last_active", "offline_since", "version"];
        for field in own {
            assert!(!body["user"][field].is_null(), "{body}");
            body["user"][field] = Value::Null;
        }
        body
    };
    assert_eq!(plain(invisible), plain(left));
}

#[tokio::test]
async fn it_stays_over_disconnect_and_reconnect_until_it_is_taken_back() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c1").await;
    make_invisible(&pair, "john").await;
    events.arrived();
    let frozen = seen(&pair, "john").await;
    a_later_millisecond().await;

    pair.two.disconnect("john", "c1").await;
    let me = pair.two.connect_user("john", "c2").await["me"].clone();
    assert_eq!((&me["online"], &me["invisible"]), (&json!(true), &json!(true)));
    pair.one.get("heartbeat", json!({"user_id": "john", "connection_id": "c2"})).await;
    pair.one.connect_user("john", "c2").await;
    pair.two.connect_user("john", "c3").await;
    assert_eq!(seen(&pair, "john").await, frozen);
    assert_eq!(events.arrived().len(), 0);

    a_later_millisecond().await;
    let last = pair.one.see_as("john", "john").await.unwrap()["last_active"].clone();
    show(&pair, "john").await;
    let shown = events.only();
    assert!(shown.online && shown.version > frozen["version"].as_u64().unwrap());
    assert!(shown.user["last_active"].as_str() > last.as_str(), "it is active now");
    assert_eq!(shown.user["updated_at"], frozen["updated_at"]);
    assert_eq!(seen(&pair, "john").await, shown.user);
}

#[tokio::test]
async fn becoming_visible_while_not_connected_changes_nothing_that_others_see() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c1").await;
    make_invisible(&pair, "john").await;
    let frozen = seen(&pair, "john").await;
    a_later_millisecond().await;
    pair.one.connect_user("john", "c2").await;
    pair.one.disconnect("john", "c1").await;
    pair.one.disconnect("john", "c2").await;
    events.arrived();
    show(&pair, "john").await;
    assert_eq!(
        seen(&pair, "john").await,
        frozen,
        "what happened while invisible is not shown later"
    );
    assert_eq!(events.arrived().len(), 0);
    pair.one.connect_user("john", "c3").await;
    assert!(events.only().user["last_active"].as_str() > frozen["last_active"].as_str());
}

#[tokio::test]
async fn going_invisible_during_a_grace_ends_it_with_one_event() {
    let pair = Pair::start(LONG_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c1").await;
    pair.one.connect_user("jack", "c1").await;
    events.arrived();
    pair.one.disconnect("john", "c1").await;
    pair.one.disconnect("jack", "c1").await;
    assert_eq!(events.arrived().len(), 0);
    make_invisible(&pair, "john").await;
    assert!(!events.only().online);
    let body = json!({"user": {"id": "jack", "invisible": true}, "connection_id": "c2"});
    pair.two.get("connect", body).await;
    assert!(!events.next().await.online);
    events.silent_for(std::time::Duration::from_millis(2500)).await;
}

#[tokio::test]
async fn invisible_time_knows_no_grace() {
    let pair = Pair::start(LONG_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    let body = json!({"user": {"id": "john", "invisible": true}, "connection_id": "c"});
    pair.one.get("connect", body).await;
    pair.one.disconnect("john", "c").await;
    assert_eq!(pair.two.see_as("john", "john").await.unwrap()["online"], false);
    show(&pair, "john").await;
    assert_eq!(seen(&pair, "john").await["online"], false);
    assert_eq!(events.arrived().len(), 0);
}

#[tokio::test]
async fn a_status_set_while_invisible_is_seen_as_that_of_a_user_who_is_offline() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.connect_user("john", "c").await;
    make_invisible(&pair, "john").await;
    events.arrived();
    let frozen = seen(&pair, "john").await;
    let body = json!({"user": {"id": "john", "status": "new", "name": "J"}, "connection_id": "c2"});
    pair.two.get("connect", body).await;
    let event = events.next().await;
    assert_eq!((event.online, &event.user["status"]), (false, &json!("new")));
    assert_eq!(event.user["last_active"], frozen["last_active"]);
    assert_eq!(seen(&pair, "john").await, event.user);
    assert_eq!(event.user["name"], "J");
}

#[tokio::test]
async fn connecting_visibly_takes_it_back() {
    let pair = Pair::start(NO_GRACE).await;
    let mut events = Events::of_all(&pair.one).await;
    let body = |invisible: bool, connection: &str| {
        let user = json!({"id": "john", "invisible": invisible});
        json!({"user": user, "connection_id": connection})
    };
    pair.one.get("connect", body(true, "c1")).await;
    assert_eq!(events.arrived().len(), 0);
    pair.two.get("connect", body(false, "c2")).await;
    assert!(events.next().await.online);
    assert_eq!(seen(&pair, "john").await["online"], true);
}

#[tokio::test]
async fn filters_and_order_show_an_invisible_user_as_offline_to_all_but_itself() {
    let pair = Pair::start(NO_GRACE).await;
    for id in ["john", "jack", "jane"] {
        a_later_millisecond().await;
        pair.one.connect_user(id, "c").await;
    }
    make_invisible(&pair, "john").await;
    a_later_millisecond().await;
    pair.two.connect_user("john", "c").await;
    let ids = async |as_: Value, filter: Value, sort: Value| {
        let mut body = json!({"filter": filter, "sort": sort, "presence": true});
        if as_.is_string() {
            body["as"] = as_;
        }
        let mut per_daemon = Vec::new();
        for client in pair.clients() {
            let users = client.query(body.clone()).await;
            let ids = users.iter().map(|user| user["id"].as_str().unwrap().to_owned());
            per_daemon.push(ids.collect::<Vec<_>>().join(" "));
        }
        assert_eq!(per_daemon[0], per_daemon[1]);
        per_daemon.remove(0)
    };
    let by_id = json!({"id": 1});
    let (nobody, john, jack) = (Value::Null, json!("john"), json!("jack"));
    for (viewer, online, newest) in [
        (nobody, "jack jane", "jane jack john"),
        (jack, "jack jane", "jane jack john"),
        (john, "jack jane john", "john jane jack"),
    ] {
        assert_eq!(ids(viewer.clone(), json!({"online": true}), by_id.clone()).await, online);
        assert_eq!(ids(viewer.clone(), json!({}), json!({"last_active": -1})).await, newest);
        let invisible = if viewer == "john" { "john" } else { "" };
        assert_eq!(ids(viewer.clone(), json!({"invisible": true}), by_id.clone()).await, invisible);
        let open = if viewer == "jack" { "jack" } else { "" };
        assert_eq!(ids(viewer, json!({"invisible": false}), by_id.clone()).await, open);
    }
}

#[tokio::test]
async fn the_statistics_of_the_service_do_not_move_with_it() {
    let limits = [("LIVENESS__OFFLINE_GRACE", "0s"), ("LIMITS__CONNECTIONS_PER_USER", "2")];
    let stage = Stage::start(&limits).await;
    let client = &stage.client;
    let statistics = async || {
        let reply = client.nats.request("$SRV.STATS.presence", Vec::new().into()).await.unwrap();
        serde_json::from_slice::<Value>(&reply.payload).unwrap()["endpoints"].clone()
    };
    client.get("upsert_users", json!({"users": [{"id": "ghost", "invisible": true}]})).await;
    let before = statistics().await;
    let connection = |id: &str| json!({"user_id": "ghost", "connection_id": id});
    for id in ["a", "b"] {
        client.get("connect", json!({"user": {"id": "ghost"}, "connection_id": id})).await;
        client.get("heartbeat", connection(id)).await;
    }
    for id in ["a", "b", "b"] {
        client.get("disconnect", connection(id)).await;
        client.get("heartbeat", connection(id)).await;
    }
    assert_eq!(statistics().await, before, "one by one");
    for id in ["c", "d"] {
        client.get("connect", json!({"user": {"id": "ghost"}, "connection_id": id})).await;
    }
    let more = json!({"user": {"id": "ghost"}, "connection_id": "one too many"});
    let refused = client.ask("connect", more.clone()).await.unwrap_err();
    assert_eq!(refused.code, "limit_exceeded");
    assert_eq!(statistics().await, before, "refused");
    client.get("heartbeat", json!({"connections": [connection("c"), connection("d")]})).await;
    client.get("heartbeat", json!({"connections": [connection("c"), connection("x")]})).await;
    assert_eq!(statistics().await, before, "a list of only invisible connections");
    let op = |op: &str, mut body: Value| {
        body["op"] = json!(op);
        body
    };
    let ops = [op("connect", more), op("disconnect", connection("c"))];
    client.get("batch", json!({"ops": ops})).await;
    assert_eq!(statistics().await, before, "a batch of nothing but invisible operations");
    client.get("connect", json!({"user": {"id": "john"}, "connection_id": "c"})).await;
    assert_ne!(statistics().await, before);
    let before = statistics().await;
    let john = json!({"user_id": "john", "connection_id": "c"});
    client.get("heartbeat", json!({"connections": [connection("d"), john.clone()]})).await;
    assert_ne!(statistics().await, before, "a list that names others too");
    let before = statistics().await;
    let ops = [op("disconnect", connection("d")), op("disconnect", john)];
    client.get("batch", json!({"ops": ops})).await;
    assert_ne!(statistics().await, before, "a batch that names others too");
    assert_ne!(statistics().await, before);
}
