//! Queries that are refused, by code and path, and a few that are answered: the language itself is
//! tested beside its code.

use serde_json::{Value, json};

use crate::support::Stage;
use crate::support::stage::NO_GRACE;

#[tokio::test]
async fn a_wrong_filter_names_its_path() {
    let stage = Stage::start(NO_GRACE).await;
    let deep = (0..9).fold(json!({"id": "x"}), |inner, _| json!({"$and": [inner]}));
    for (filter, path) in [
        (
            json!({"$or": [{"id": "x"}, {"last_active": {"$regex": "x"}}]}),
            Some("$or[1].last_active.$regex"),
        ),
        (json!({"id": {"$contains": "x"}}), Some("id.$contains")),
        (json!({"online": {"$gt": true}}), Some("online.$gt")),
        (json!({"online": "yes"}), None),
        (json!({"id": null}), None),
        (json!({"id": 7}), None),
        (json!({"status": {"$eq": null}}), None),
        (json!({"last_active": {"$gt": "yesterday"}}), None),
        (json!({"last_active": {"$in": ["2019-01-07T13:17:42Z"]}}), Some("last_active.$in")),
        (json!({"$xor": []}), None),
        (json!({"$and": {"id": "x"}}), None),
        (json!({"age": {"$in": 7}}), None),
        (json!({"id": {}}), None),
        (json!([]), None),
        (deep, None),
    ] {
        let refused = stage.client.refused("query_users", json!({"filter": filter})).await;
        assert_eq!((refused.status, refused.code.as_str()), (400, "invalid_filter"), "{filter}");
        if let Some(path) = path {
            assert!(refused.message.contains(path), "{filter}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_sort_is_invalid_sort() {
    let stage = Stage::start(NO_GRACE).await;
    let six: Vec<Value> = (0..6).map(|n| json!({format!("f{n}"): 1})).collect();
    for sort in [
        json!("id"),
        json!({"id": 2}),
        json!({"id": "desc"}),
        json!([{"field": "id", "direction": 0}]),
        json!([7]),
        json!(six),
    ] {
        let refused = stage.client.refused("query_users", json!({"sort": sort})).await;
        assert_eq!((refused.status, refused.code.as_str()), (400, "invalid_sort"), "{sort}");
    }
}

#[tokio::test]
async fn the_query_of_the_page_returns_both_users_sorted_with_presence() {
    let stage = Stage::start(NO_GRACE).await;
    for id in ["john", "jack", "jane"] {
        stage.client.connect_user(id, "c").await;
    }
    let body = json!({
        "filter": {"id": {"$in": ["john", "jack"]}}, "sort": {"id": -1}, "presence": true
    });
    let answer = stage.client.get("query_users", body).await;
    let ids: Vec<_> = answer["users"].as_array().unwrap().iter().map(|user| &user["id"]).collect();
    assert_eq!(ids, ["john", "jack"]);
    assert_eq!(
        answer["presence"],
        json!({
            "users": ["john", "jack"],
            "subjects": ["user.presence.changed.john", "user.presence.changed.jack"],
            "truncated": false,
            "not_watched": []
        })
    );
}

#[tokio::test]
async fn a_query_without_presence_has_no_such_block() {
    let stage = Stage::start(NO_GRACE).await;
    let answer = stage.client.get("query_users", json!({})).await;
    assert_eq!(answer, json!({"users": [], "more": false}));
}

#[tokio::test]
async fn texts_are_sorted_by_code_points() {
    let stage = Stage::start(NO_GRACE).await;
    let names = ["b", "Z", "\u{FF3A}", "a", "\u{E9}", "e\u{301}", "B", "\u{1F600}"];
    let users = names.iter().enumerate();
    let users: Vec<_> =
        users.map(|(n, name)| json!({"id": format!("u{n}"), "name": name})).collect();
    stage.client.get("upsert_users", json!({"users": users})).await;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    for direction in [1, -1] {
        let found =
            stage.client.query(json!({"sort": {"name": direction}, "presence": true})).await;
        let found: Vec<_> = found.iter().map(|user| user["name"].as_str().unwrap()).collect();
        assert_eq!(found, sorted);
        sorted.reverse();
    }
}

#[tokio::test]
async fn pages_of_a_sorted_query_hold_each_user_once() {
    let stage = Stage::start(NO_GRACE).await;
    let user = |n: usize| json!({"id": format!("u{n:02}"), "team": n % 3});
    let users: Vec<_> = (0..70).map(user).collect();
    stage.client.get("upsert_users", json!({"users": users})).await;
    let mut seen = Vec::new();
    for page in 0..4 {
        let sort = json!([{"team": -1}, {"id": 1}]);
        let body = json!({"sort": sort, "limit": 20, "offset": page * 20, "presence": true});
        seen.extend(stage.client.query(body).await);
    }
    let keys: Vec<_> =
        seen.iter().map(|user| (-user["team"].as_i64().unwrap(), user["id"].to_string())).collect();
    assert_eq!(keys.len(), 70);
    assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
}

#[tokio::test]
async fn a_page_says_whether_others_match_behind_it_and_holds_all_named_ids() {
    let stage = Stage::start(NO_GRACE).await;
    let ids: Vec<_> = (0..60).map(|n| format!("u{n:02}")).collect();
    let users: Vec<_> = ids.iter().map(|id| json!({"id": id})).collect();
    stage.client.get("upsert_users", json!({"users": users})).await;
    let page = async |body| {
        let answer = stage.client.get("query_users", body).await;
        (answer["users"].as_array().unwrap().len(), answer["more"].as_bool().unwrap())
    };
    assert_eq!(page(json!({"filter": {"id": {"$in": ids}}, "presence": true})).await, (60, false));
    assert_eq!(page(json!({"filter": {"id": {"$in": ids}}, "limit": 59})).await, (59, true));
    assert_eq!(page(json!({"presence": true})).await, (30, true));
    assert_eq!(page(json!({"offset": 30, "presence": true})).await, (30, false));
    assert_eq!(page(json!({"offset": 60, "presence": true})).await, (0, false));

    for n in 0..3 {
        let channel = json!({"type": "messaging", "id": format!("c{n}")});
        stage.client.get("upsert_channel", channel).await;
    }
    for (limit, more) in [(2, true), (3, false)] {
        let body = json!({"limit": limit, "presence": true});
        let answer = stage.client.get("query_channels", body).await;
        assert_eq!(answer["channels"].as_array().unwrap().len(), limit);
        assert_eq!(answer["more"], more);
    }
}
