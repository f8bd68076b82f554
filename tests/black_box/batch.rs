//! Many operations in one request, each on its own.

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Refused, Stage, keys};

fn connect(user: &str, connection: &str) -> Value {
    json!({"op": "connect", "user": {"id": user}, "connection_id": connection})
}

fn disconnect(user: &str, connection: &str) -> Value {
    json!({"op": "disconnect", "user_id": user, "connection_id": connection})
}

async fn batch(stage: &Stage, ops: Vec<Value>) -> Vec<Value> {
    let count = ops.len();
    let mut answer = stage.client.get("batch", json!({"ops": ops})).await;
    assert_eq!(keys(&answer), ["results"].into());
    let Value::Array(results) = answer["results"].take() else { panic!("no results") };
    assert_eq!(results.len(), count);
    results
}

#[tokio::test]
async fn the_results_come_in_order_and_one_that_fails_does_not_stop_the_others() {
    let mut stage = Stage::start(NO_GRACE).await;
    let ops = vec![
        json!({"op": "connect", "user": {"id": "john", "name": "J"}, "connection_id": "c1"}),
        json!({"op": "connect", "user": {"id": ""}}),
        json!({"op": "explode"}),
        json!({"op": "disconnect", "user_id": "jane", "connection_id": "c"}),
        json!({"op": "upsert_users", "users": [{"id": "jack", "status": "s", "name": "Jack"}]}),
        json!({"op": "upsert_users", "users": [{"id": "jill"}, {"id": "jim", "version": 1}]}),
        json!(7),
        json!({"op": "connect", "user": {"id": "jo"}, "x": 1}),
    ];
    let results = batch(&stage, ops).await;
    assert_eq!(keys(&results[0]), ["connection_id", "created", "heartbeat", "me", "rev"].into());
    let me = [
        "availability",
        "availability_choice",
        "created_at",
        "hide_last_active",
        "id",
        "invisible",
        "last_active",
        "offline_since",
        "online",
        "status",
        "updated_at",
        "version",
    ];
    assert_eq!(keys(&results[0]["me"]), me.into(), "without custom fields");
    assert_eq!(keys(&results[3]), ["disconnected", "rev"].into());
    assert_eq!(results[3]["disconnected"], 0);
    assert_eq!(keys(&results[4]["users"]["jack"]), me.into());
    for (index, code, field) in [
        (1, "invalid_id", "ops[1].user.id"),
        (2, "invalid_request", "ops[2].op"),
        (5, "invalid_request", "ops[5].users[1].version"),
        (6, "invalid_request", "ops[6]"),
        (7, "invalid_request", "ops[7].x"),
    ] {
        assert_eq!(keys(&results[index]), ["error"].into());
        let refused = Refused::read(&results[index]["error"]);
        assert_eq!(refused.what(), (code, Some(field)), "{refused:?}");
    }
    let mut heard: Vec<_> = stage.events.arrived().into_iter().map(|event| event.id).collect();
    heard.sort();
    assert_eq!(heard, ["jack", "john"]);
    assert_eq!(stage.client.see_all(&["john", "jack", "jill", "jim", "jo"]).await.len(), 2);
    assert_eq!(stage.client.see("john").await.unwrap()["name"], "J");
}

#[tokio::test]
async fn operations_on_one_user_take_effect_in_order() {
    let mut stage = Stage::start(NO_GRACE).await;
    let status =
        |status: &str| json!({"op": "upsert_users", "users": [{"id": "john", "status": status}]});
    let ops = vec![
        connect("john", "a"),
        status("1"),
        disconnect("john", "a"),
        status("2"),
        connect("john", "b"),
        status("3"),
    ];
    let results = batch(&stage, ops).await;
    assert!(results.iter().all(|result| result.get("error").is_none()), "{results:?}");
    let heard: Vec<_> = stage
        .events
        .arrived()
        .iter()
        .map(|event| (event.online, event.user["status"].clone()))
        .collect();
    let expected = [
        (true, Value::Null),
        (true, json!("1")),
        (false, json!("1")),
        (false, json!("2")),
        (true, json!("2")),
        (true, json!("3")),
    ];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn a_lease_that_ends_in_a_batch_holds_what_was_connected_before_it() {
    let mut stage = Stage::start(NO_GRACE).await;
    let on_lease = |user: &str| {
        let user = json!({"id": user});
        json!({"op": "connect", "user": user, "connection_id": "c", "lease": "gw-1"})
    };
    let end = json!({"op": "disconnect", "lease": "gw-1"});
    let ops = vec![on_lease("john"), on_lease("jack"), end, on_lease("jane")];
    let results = batch(&stage, ops).await;
    assert_eq!(results[2]["disconnected"], 2, "{results:?}");
    stage.events.arrived();
    let online = stage.client.query(json!({"filter": {"online": true}, "presence": true})).await;
    assert_eq!(online.len(), 1);
    assert_eq!(online[0]["id"], "jane");
}

#[tokio::test]
async fn a_thousand_users_connect_in_one_request() {
    let mut stage = Stage::start(NO_GRACE).await;
    let results = batch(&stage, (0..1000).map(|n| connect(&format!("u{n}"), "c")).collect()).await;
    assert!(results.iter().all(|result| result["me"]["online"] == true));
    assert_eq!(stage.events.arrived().len(), 1000);
    let empty = batch(&stage, vec![]).await;
    assert_eq!(empty.len(), 0);
}

#[tokio::test]
async fn without_me_there_are_no_users_in_the_results() {
    let stage = Stage::start(NO_GRACE).await;
    let ops = json!([
        connect("john", "c"),
        {"op": "upsert_users", "users": [{"id": "jack", "status": "s"}]},
        disconnect("john", "c"),
        {"op": "explode"},
    ]);
    let answer = stage.client.get("batch", json!({"ops": ops, "me": false})).await;
    let results = &answer["results"];
    assert_eq!(keys(&results[0]), ["connection_id", "created", "heartbeat", "rev"].into());
    assert_eq!(keys(&results[1]), ["rev", "users"].into());
    assert_eq!(results[1]["users"], json!({}));
    assert_eq!(results[2]["disconnected"], 1);
    assert_eq!(keys(&results[3]), ["error"].into());
    assert_eq!(stage.client.see("jack").await.unwrap()["status"], "s");
    let with = stage.client.get("batch", json!({"ops": [connect("john", "c")], "me": true})).await;
    assert_eq!(with["results"][0]["me"]["id"], "john");
}

#[tokio::test]
async fn a_disconnect_that_names_a_lease_too_ends_only_a_connection_on_that_lease() {
    let mut stage = Stage::start(NO_GRACE).await;
    let on = |lease: &str| json!({"user": {"id": "john"}, "connection_id": "c", "lease": lease});
    stage.client.get("connect", on("new")).await;
    stage.client.connect_user("jack", "c").await;
    assert_eq!(stage.events.arrived().len(), 2);
    let end =
        |user: &str, lease: &str| json!({"user_id": user, "connection_id": "c", "lease": lease});
    let ended = |answer: &Value| answer["disconnected"].as_u64();
    // An old gateway ends what has moved on to a new one, or hangs on a lease of its own.
    for user in ["john", "jack"] {
        assert_eq!(ended(&stage.client.get("disconnect", end(user, "old")).await), Some(0));
    }
    let mut late = end("john", "old");
    late["op"] = json!("disconnect");
    assert_eq!(ended(&batch(&stage, vec![late]).await[0]), Some(0));
    assert!(stage.events.arrived().is_empty());
    assert_eq!(ended(&stage.client.get("disconnect", end("john", "new")).await), Some(1));
    assert_eq!(stage.events.only().id, "john");
    for half in
        [json!({"lease": "new", "user_id": "john"}), json!({"lease": "new", "connection_id": "c"})]
    {
        assert_eq!(stage.client.refused("disconnect", half).await.what().0, "invalid_request");
    }
    let own = stage.client.of("john").refused("disconnect", end("john", "new")).await;
    assert_eq!(own.what().0, "identity_mismatch");
}
