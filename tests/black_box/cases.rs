//! The cases that every client passes hold for the daemon too: `clients/cases`.

use serde_json::{Value, json};

use crate::support::Stage;
use crate::support::stage::NO_GRACE;

fn cases(file: &str) -> Value {
    let path = format!("{}/clients/cases/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

#[tokio::test]
async fn ids_and_their_tokens() {
    let stage = Stage::start(NO_GRACE).await;
    let cases = cases("tokens.json");
    for case in list(&cases, "valid") {
        stage.client.upsert(json!({"id": case["id"]})).await;
        let query = json!({"filter": {"id": case["id"]}, "presence": true});
        let answer = stage.client.get("query_users", query).await;
        let subject = format!("user.presence.changed.{}", case["token"].as_str().unwrap());
        assert_eq!(answer["presence"]["subjects"], json!([subject]), "{}", case["name"]);
    }
    for case in list(&cases, "invalid_ids") {
        let upsert = json!({"users": [{"id": case["id"]}]});
        let refused = stage.client.refused("upsert_users", upsert).await;
        assert_eq!(refused.code, "invalid_id", "{}", case["name"]);
    }
    for case in list(&cases, "invalid_tokens") {
        let token = case["token"].as_str().unwrap();
        // NATS has no subject with such a token, so that none reaches a daemon.
        if token.is_empty() || token.contains(['.', ' ', '*', '>', '\t', '\r', '\n']) {
            continue;
        }
        let subject = format!("presence.v1.query_users.{token}");
        let reply = stage.client.raw(subject, b"{}".to_vec()).await;
        let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(reply["error"]["code"], "invalid_id", "{}", case["name"]);
    }
}

#[tokio::test]
async fn filters_find_whom_they_should() {
    let stage = Stage::start(NO_GRACE).await;
    let cases = cases("filters.json");
    stage.client.get("upsert_users", json!({"users": cases["users"]})).await;
    for id in list(&cases, "online") {
        stage.client.get("connect", json!({"user": {"id": id}})).await;
    }
    for case in list(&cases, "cases") {
        let query = json!({"filter": case["json"], "presence": true});
        let answer = stage.client.get("query_users", query).await;
        let found: Vec<_> = list(&answer, "users").iter().map(|user| &user["id"]).collect();
        assert_eq!(json!(found), case["matches"], "{}", case["name"]);
    }
    for case in list(&cases, "invalid") {
        let filter = json!({"filter": case["json"]});
        let refused = stage.client.refused("query_users", filter).await;
        assert_eq!(refused.code, case["code"], "{case}");
        assert_eq!(refused.details["field"], case["field"], "{case}");
    }
}
