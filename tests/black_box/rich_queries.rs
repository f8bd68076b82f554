//! Finding users by availability, by arrays, by words, and by times that some hide.

use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Stage};

/// The ids that a query finds, in its order.
async fn found(client: &Client, query: Value) -> Vec<String> {
    let users = client.query(query).await;
    users.iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect()
}

async fn by(client: &Client, filter: Value) -> Vec<String> {
    found(client, json!({"filter": filter})).await
}

#[tokio::test]
async fn availability_filters_and_sorts() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    for (id, choice, idle) in
        [("a", "auto", false), ("b", "busy", false), ("c", "auto", true), ("d", "away", false)]
    {
        let user = json!({"id": id, "availability": choice});
        client.get("connect", json!({"user": user, "connection_id": "c", "idle": idle})).await;
    }
    client.upsert(json!({"id": "e", "availability": "busy"})).await;
    assert_eq!(by(client, json!({"availability": "busy"})).await, ["b"]);
    assert_eq!(
        by(client, json!({"availability": {"$in": ["away", "offline"]}})).await,
        ["c", "d", "e"]
    );
    assert_eq!(by(client, json!({"availability": {"$ne": "offline"}})).await.len(), 4);
    let sorted = async |direction: i8| {
        found(client, json!({"filter": {}, "sort": {"availability": direction}})).await
    };
    assert_eq!(sorted(1).await, ["a", "c", "d", "b", "e"], "by name, and ties by id");
    assert_eq!(sorted(-1).await, ["e", "b", "c", "d", "a"]);
    // Hidden time is offline for others, and what the user is for itself.
    client.upsert(json!({"id": "a", "invisible": true})).await;
    assert_eq!(sorted(1).await, ["c", "d", "b", "a", "e"]);
    let own = json!({"filter": {"availability": "active"}, "as": "a"});
    assert_eq!(found(client, own).await, ["a"]);
}

#[tokio::test]
async fn arrays_match_any_of_and_none_of() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.upsert(json!({"id": "ann", "teams": ["red", "blue"]})).await;
    client.upsert(json!({"id": "bob", "teams": ["green"]})).await;
    client.upsert(json!({"id": "jim"})).await;
    for (filter, expected) in [
        (json!({"teams": {"$in": ["blue", "green"]}}), vec!["ann", "bob"]),
        (json!({"teams": {"$in": ["black"]}}), vec![]),
        (json!({"teams": {"$nin": ["blue"]}}), vec!["bob", "jim"]),
        (json!({"teams": {"$contains": "red"}}), vec!["ann"]),
        (json!({"teams": ["red", "blue"]}), vec!["ann"]),
        (json!({"teams": {"$exists": false}}), vec!["jim"]),
    ] {
        assert_eq!(by(client, filter.clone()).await, expected, "{filter}");
    }
    let body = json!({"user": {"id": "ann"}, "connection_id": "c", "device": "mobile"});
    client.get("connect", body).await;
    assert_eq!(by(client, json!({"devices": {"$in": ["desktop", "mobile"]}})).await, ["ann"]);
    assert_eq!(by(client, json!({"devices": {"$nin": ["mobile"]}})).await, ["bob", "jim"]);
}

#[tokio::test]
async fn a_name_is_found_by_any_word_whatever_its_case_marks_and_script() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    for (id, name) in [("a", "Élodie Straße"), ("b", "ＪＯＨＮ Smith"), ("c", "田中さくら")]
    {
        client.upsert(json!({"id": id, "name": name})).await;
    }
    for (prefix, expected) in [
        ("elo", vec!["a"]),
        ("STRASSE", vec!["a"]),
        ("john", vec!["b"]),
        ("smi", vec!["b"]),
        ("mith", vec![]),
        ("中", vec!["c"]),
        ("さく", vec!["c"]),
    ] {
        let filter = json!({"name": {"$autocomplete": prefix}});
        assert_eq!(by(client, filter).await, expected, "{prefix}");
    }
}

#[tokio::test]
async fn who_hides_when_it_was_active_is_neither_found_nor_sorted_by_it() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    for id in ["a", "b", "c"] {
        client.connect_user(id, "c").await;
        client.disconnect(id, "c").await;
    }
    client.upsert(json!({"id": "b", "hide_last_active": true})).await;
    for field in ["last_active", "offline_since"] {
        let exists = |is| json!({field: {"$exists": is}});
        assert_eq!(by(client, exists(true)).await, ["a", "c"], "{field}");
        assert_eq!(by(client, exists(false)).await, ["b"], "{field}");
        let since = json!({field: {"$gt": "2019-01-07T00:00:00Z"}});
        assert_eq!(by(client, since.clone()).await, ["a", "c"], "{field}");
        for (direction, expected) in [(1, ["a", "c", "b"]), (-1, ["c", "a", "b"])] {
            let sorted = found(client, json!({"filter": {}, "sort": {field: direction}})).await;
            assert_eq!(sorted, expected, "absent values are last: {field}");
        }
        let own = json!({"filter": since, "as": "b"});
        assert_eq!(found(client, own).await, ["a", "b", "c"], "its own is seen by itself");
    }
}
