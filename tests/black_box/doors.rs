//! The second door: a user's own client acts as that user, and is told only what it may know.

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Pair, Stage, keys};

/// Asks for each; all are refused with that code, and nothing is written.
async fn are_refused(stage: &Stage, client: &Client, code: &str, cases: &[(&str, Value, &str)]) {
    let before = stage.written().await;
    for (operation, body, field) in cases {
        let refused = client.refused(operation, body.clone()).await;
        assert_eq!(refused.what(), (code, Some(*field)), "{operation} {body}: {refused:?}");
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn the_ids_of_the_body_may_be_left_out() {
    let mut stage = Stage::start(NO_GRACE).await;
    let john = stage.client.of("john@example.com");
    let connected = john.get("connect", json!({"connection_id": "c1"})).await;
    assert_eq!(connected["me"]["id"], "john@example.com");
    assert_eq!(stage.events.only().id, "john@example.com");
    let heartbeat = john.get("heartbeat", json!({"connection_id": "c1"})).await;
    let told = json!({"interval_ms": 20_000, "lease_ms": 60_000});
    assert_eq!(heartbeat, json!({"unknown": [], "heartbeat": told}));
    let beats = json!({"connections": [{"connection_id": "c1"}, {"connection_id": "c2"}]});
    let heartbeat = john.get("heartbeat", beats).await;
    let unknown = json!([{"user_id": "john@example.com", "connection_id": "c2"}]);
    assert_eq!(heartbeat, json!({"unknown": unknown, "heartbeat": told}));
    let upserted = john.get("upsert_users", json!({"users": [{"status": "hi"}]})).await;
    assert_eq!(upserted["users"]["john@example.com"]["status"], "hi");
    let disconnected = john.get("disconnect", json!({"connection_id": "c1"})).await;
    assert_eq!(disconnected, json!({"disconnected": 1}));
}

#[tokio::test]
async fn the_ids_of_the_body_may_be_named_if_they_are_the_users_own() {
    let stage = Stage::start(NO_GRACE).await;
    let john = stage.client.of("john");
    john.get("connect", json!({"user": {"id": "john"}, "connection_id": "c1"})).await;
    john.get("heartbeat", json!({"user_id": "john", "connection_id": "c1"})).await;
    john.get("upsert_users", json!({"users": [{"id": "john", "name": "J"}]})).await;
    john.get("query_users", json!({"as": "john"})).await;
    john.get("disconnect", json!({"user_id": "john", "connection_id": "c1"})).await;
}

#[tokio::test]
async fn an_id_of_another_is_identity_mismatch() {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("jack", "c").await;
    let john = stage.client.of("john");
    let entries = json!([{"connection_id": "c"}, {"user_id": "jack", "connection_id": "c"}]);
    are_refused(
        &stage,
        &john,
        "identity_mismatch",
        &[
            ("connect", json!({"user": {"id": "jack"}}), "user.id"),
            ("heartbeat", json!({"user_id": "jack", "connection_id": "c"}), "user_id"),
            ("heartbeat", json!({"connections": entries}), "connections[1].user_id"),
            ("disconnect", json!({"user_id": "jack", "connection_id": "c"}), "user_id"),
            ("upsert_users", json!({"users": [{"id": "jack"}]}), "users[0].id"),
            ("upsert_users", json!({"users": [{}, {"id": "jack"}]}), "users[1].id"),
            ("query_users", json!({"as": "jack"}), "as"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_lease_is_identity_mismatch_in_every_operation() {
    let stage = Stage::start(NO_GRACE).await;
    let john = stage.client.of("john");
    are_refused(
        &stage,
        &john,
        "identity_mismatch",
        &[
            ("connect", json!({"connection_id": "c", "lease": "l"}), "lease"),
            ("heartbeat", json!({"lease": "l"}), "lease"),
            ("disconnect", json!({"lease": "l"}), "lease"),
        ],
    )
    .await;
}

#[tokio::test]
async fn min_rev_is_refused_and_rev_is_not_returned() {
    let stage = Stage::start(NO_GRACE).await;
    let john = stage.client.of("john");
    let cases = [("query_users", json!({"min_rev": 1}), "min_rev")];
    are_refused(&stage, &john, "invalid_request", &cases).await;
    let connected = john.get("connect", json!({"connection_id": "c"})).await;
    assert_eq!(keys(&connected), ["connection_id", "created", "heartbeat", "me"].into());
    assert_eq!(keys(&john.get("upsert_users", json!({"users": []})).await), ["users"].into());
    let upserted = john.get("upsert_users", json!({"users": [{"name": "J"}]})).await;
    assert_eq!(keys(&upserted), ["users"].into());
    let gone = john.get("disconnect", json!({"connection_id": "c"})).await;
    assert_eq!(keys(&gone), ["disconnected"].into());
}

#[tokio::test]
async fn trusted_operations_do_not_exist_there() {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("john", "c").await;
    let john = stage.client.of("john");
    let before = stage.written().await;
    for (operation, body) in [
        ("delete_users", json!({"ids": ["john"]})),
        ("batch", json!({"ops": []})),
        ("explain", json!({"user_id": "john"})),
        ("upsert_channel", json!({"type": "t", "id": "c"})),
    ] {
        let refused = john.refused(operation, body).await;
        assert_eq!(refused.code, "invalid_request", "{operation}: {refused:?}");
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn trusted_fields_are_forbidden_there_and_free_at_the_first_door() {
    let stage = Stage::start(&[("LIMITS__TRUSTED_FIELDS", "role,team")]).await;
    let john = stage.client.of("john");
    let cases = [
        ("connect", json!({"user": {"role": "admin"}, "connection_id": "c"}), "user.role"),
        ("upsert_users", json!({"users": [{"name": "J", "team": 1}]}), "users[0].team"),
        ("upsert_users", json!({"users": [{"role": null}]}), "users[0].role"),
    ];
    are_refused(&stage, &john, "forbidden_field", &cases).await;
    stage.client.upsert(json!({"id": "john", "role": "admin"})).await;
    john.get("upsert_users", json!({"users": [{"name": "J"}]})).await;
    let john = stage.client.see("john").await.unwrap();
    assert_eq!((&john["role"], &john["name"]), (&json!("admin"), &json!("J")));
}

#[tokio::test]
async fn a_token_that_is_not_canonical_is_invalid_id() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    for token in ["=6Aohn", "john=2e", "john=", "=FF", "=00", "a@b", "ü", "=C3", "*"] {
        let subject = format!("presence.v1.connect.{token}");
        let answer = stage.client.raw(subject, b"{\"connection_id\":\"c\"}".to_vec()).await;
        let refused = crate::support::client::read(&answer).unwrap_err();
        assert_eq!(refused.code, "invalid_id", "{token}: {refused:?}");
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn the_user_of_the_subject_is_the_viewer_and_sees_itself() {
    let pair = Pair::start(NO_GRACE).await;
    let invisible = json!({"user": {"id": "john", "invisible": true}, "connection_id": "c"});
    pair.one.get("connect", invisible).await;
    let all = json!({"filter": {"online": true}});
    for client in pair.clients() {
        let own = client.of("john").query(all.clone()).await;
        assert_eq!(own.len(), 1);
        assert_eq!((&own[0]["id"], &own[0]["invisible"]), (&json!("john"), &json!(true)));
        assert_eq!(client.of("jack").query(all.clone()).await.len(), 0);
    }
}

#[tokio::test]
async fn a_query_there_sees_all_that_was_stored_before_it() {
    let pair = Pair::start(NO_GRACE).await;
    let john = pair.two.of("john");
    for n in 0..100 {
        let status = n.to_string();
        pair.one.upsert(json!({"id": "jack", "status": status})).await;
        let seen = john.query(json!({"filter": {"id": "jack"}})).await;
        assert_eq!(seen[0]["status"], status);
    }
}
