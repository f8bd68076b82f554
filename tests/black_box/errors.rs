//! Every refusal by its code and the field at fault; and nothing is written by what is refused.

use serde_json::{Value, json};

use crate::support::server::Options;
use crate::support::stage::NO_GRACE;
use crate::support::{Refused, Server, Stage};

/// Asks for each, and checks the code and the field; nothing may have been written.
async fn are_refused(stage: &mut Stage, cases: &[(&str, Value, &str, Option<&str>)]) {
    let before = stage.written().await;
    for (operation, body, code, field) in cases {
        let refused = stage.client.refused(operation, body.clone()).await;
        assert_eq!(refused.what(), (*code, *field), "{operation} {body}: {refused:?}");
        if let Some(field) = field {
            assert!(refused.message.contains(field), "{refused:?}");
        }
    }
    assert_eq!(stage.written().await, before);
    assert_eq!(stage.events.arrived().len(), 0);
}

#[tokio::test]
async fn what_is_no_object_is_an_invalid_request() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    for operation in [
        "connect",
        "heartbeat",
        "disconnect",
        "upsert_users",
        "delete_users",
        "query_users",
        "batch",
        "explain",
    ] {
        for body in [&b""[..], b"[]", b"3", b"null", b"\"x\"", b"{", b"{}x", b"\xff\xfe"] {
            let answer = stage.client.raw(stage.client.subject(operation), body.to_vec()).await;
            let refused = crate::support::client::read(&answer).unwrap_err();
            assert_eq!(refused.what(), ("invalid_request", None), "{operation} {body:?}");
        }
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn a_missing_field_is_named() {
    let mut stage = Stage::start(NO_GRACE).await;
    let invalid = "invalid_request";
    are_refused(
        &mut stage,
        &[
            ("connect", json!({}), invalid, Some("user")),
            ("connect", json!({"user": {}}), invalid, Some("user.id")),
            ("heartbeat", json!({}), invalid, Some("user_id")),
            ("heartbeat", json!({"user_id": "j"}), invalid, Some("connection_id")),
            (
                "heartbeat",
                json!({"connections": [{"user_id": "j"}]}),
                invalid,
                Some("connections[0].connection_id"),
            ),
            ("disconnect", json!({}), invalid, Some("user_id")),
            ("disconnect", json!({"user_id": "j"}), invalid, Some("connection_id")),
            ("upsert_users", json!({}), invalid, Some("users")),
            ("upsert_users", json!({"users": [{"id": "j"}, {}]}), invalid, Some("users[1].id")),
            ("delete_users", json!({}), invalid, Some("ids")),
            ("batch", json!({}), invalid, Some("ops")),
            ("explain", json!({}), invalid, Some("user_id")),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_unknown_field_is_named() {
    let mut stage = Stage::start(NO_GRACE).await;
    let invalid = "invalid_request";
    are_refused(
        &mut stage,
        &[
            (
                "connect",
                json!({"user": {"id": "j"}, "conection_id": "c"}),
                invalid,
                Some("conection_id"),
            ),
            (
                "heartbeat",
                json!({"user_id": "j", "connection_id": "c", "x": 1}),
                invalid,
                Some("x"),
            ),
            (
                "heartbeat",
                json!({"connections": [{"user_id": "j", "connection_id": "c", "x": 1}]}),
                invalid,
                Some("connections[0].x"),
            ),
            (
                "disconnect",
                json!({"user_id": "j", "connection_id": "c", "x": 1}),
                invalid,
                Some("x"),
            ),
            ("disconnect", json!({"lease": "l", "x": 1}), invalid, Some("x")),
            ("upsert_users", json!({"users": [], "x": 1}), invalid, Some("x")),
            ("delete_users", json!({"ids": [], "x": 1}), invalid, Some("x")),
            ("query_users", json!({"x": 1}), invalid, Some("x")),
            ("batch", json!({"ops": [], "x": 1}), invalid, Some("x")),
            ("explain", json!({"user_id": "j", "x": 1}), invalid, Some("x")),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_named() {
    let mut stage = Stage::start(NO_GRACE).await;
    let invalid = "invalid_request";
    let connect = |more: Value| {
        let mut body = json!({"user": {"id": "j"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let upsert = |user: Value| json!({"users": [user]});
    are_refused(
        &mut stage,
        &[
            ("connect", json!({"user": "j"}), invalid, Some("user")),
            ("connect", json!({"user": {"id": 1}}), invalid, Some("user.id")),
            ("connect", json!({"user": {"id": null}}), invalid, Some("user.id")),
            ("connect", connect(json!({"connection_id": 7})), invalid, Some("connection_id")),
            ("connect", connect(json!({"lease": []})), invalid, Some("lease")),
            ("heartbeat", json!({"connections": {}}), invalid, Some("connections")),
            ("heartbeat", json!({"connections": ["c"]}), invalid, Some("connections[0]")),
            ("disconnect", json!({"user_id": {}, "connection_id": "c"}), invalid, Some("user_id")),
            ("upsert_users", json!({"users": {"id": "j"}}), invalid, Some("users")),
            ("upsert_users", upsert(json!("j")), invalid, Some("users[0]")),
            (
                "upsert_users",
                upsert(json!({"id": "j", "status": 1})),
                invalid,
                Some("users[0].status"),
            ),
            (
                "upsert_users",
                upsert(json!({"id": "j", "invisible": null})),
                invalid,
                Some("users[0].invisible"),
            ),
            (
                "upsert_users",
                upsert(json!({"id": "j", "invisible": "yes"})),
                invalid,
                Some("users[0].invisible"),
            ),
            ("delete_users", json!({"ids": "j"}), invalid, Some("ids")),
            ("delete_users", json!({"ids": ["j", 1]}), invalid, Some("ids[1]")),
            ("query_users", json!({"presence": 1}), invalid, Some("presence")),
            ("query_users", json!({"limit": 0}), invalid, Some("limit")),
            ("query_users", json!({"limit": 1.5}), invalid, Some("limit")),
            ("query_users", json!({"offset": -1}), invalid, Some("offset")),
            ("query_users", json!({"min_rev": "7"}), invalid, Some("min_rev")),
            ("query_users", json!({"as": 7}), invalid, Some("as")),
            ("batch", json!({"ops": {}}), invalid, Some("ops")),
            ("explain", json!({"user_id": 1}), invalid, Some("user_id")),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_reserved_or_odd_name_of_a_field_is_refused() {
    let mut stage = Stage::start(NO_GRACE).await;
    for name in ["online", "last_active", "created_at", "updated_at", "version", "", "$set", "$"] {
        let user = json!({"id": "j", name: true});
        let (in_connect, in_upsert) = (format!("user.{name}"), format!("users[0].{name}"));
        let (connect, upsert) = (json!({"user": user}), json!({"users": [user]}));
        are_refused(
            &mut stage,
            &[
                ("connect", connect, "invalid_request", Some(&in_connect)),
                ("upsert_users", upsert, "invalid_request", Some(&in_upsert)),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_wherever_it_stands() {
    let mut stage = Stage::start(NO_GRACE).await;
    let long = "x".repeat(256);
    for id in ["", "a\u{0}b", "a\nb", "\u{7f}", "\u{85}", &long, &"😀".repeat(64)] {
        let code = "invalid_id";
        are_refused(
            &mut stage,
            &[
                ("connect", json!({"user": {"id": id}}), code, Some("user.id")),
                (
                    "connect",
                    json!({"user": {"id": "j"}, "connection_id": id}),
                    code,
                    Some("connection_id"),
                ),
                ("connect", json!({"user": {"id": "j"}, "lease": id}), code, Some("lease")),
                ("heartbeat", json!({"lease": id}), code, Some("lease")),
                ("disconnect", json!({"user_id": id, "connection_id": "c"}), code, Some("user_id")),
                ("upsert_users", json!({"users": [{"id": id}]}), code, Some("users[0].id")),
                ("delete_users", json!({"ids": ["j", id]}), code, Some("ids[1]")),
                ("query_users", json!({"as": id}), code, Some("as")),
                ("explain", json!({"user_id": id}), code, Some("user_id")),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn too_many_of_anything_is_limit_exceeded_and_says_how_many_are_accepted() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    let ids = |count: usize| (0..count).map(|n| format!("u{n}")).collect::<Vec<_>>();
    let users = |count| ids(count).iter().map(|id| json!({"id": id})).collect::<Vec<_>>();
    let connections = |count| {
        let one = |id: &String| json!({"user_id": id, "connection_id": "c"});
        ids(count).iter().map(one).collect::<Vec<_>>()
    };
    let op = |id: &String| json!({"op": "disconnect", "user_id": id, "connection_id": "c"});
    let many_upserts = vec![json!({"op": "upsert_users", "users": users(100)}); 11];
    for (operation, body, field, limit) in [
        ("upsert_users", json!({"users": users(101)}), "users", 100),
        ("delete_users", json!({"ids": ids(101)}), "ids", 100),
        ("heartbeat", json!({"connections": connections(1001)}), "connections", 1000),
        ("batch", json!({"ops": ids(1001).iter().map(op).collect::<Vec<_>>()}), "ops", 1000),
        ("batch", json!({"ops": many_upserts}), "ops", 1000),
        ("query_users", json!({"limit": 101}), "limit", 100),
        ("query_users", json!({"offset": 1001}), "offset", 1000),
    ] {
        let refused = stage.client.refused(operation, body).await;
        assert_eq!(refused.what(), ("limit_exceeded", Some(field)), "{operation}: {refused:?}");
        assert_eq!(refused.details["limit"], limit, "{operation}: {refused:?}");
    }
    let values = json!({"filter": {"id": {"$in": ids(101)}}});
    let refused = stage.client.refused("query_users", values).await;
    assert_eq!((refused.code.as_str(), &refused.details["limit"]), ("limit_exceeded", &json!(100)));
    assert_eq!(stage.written().await, before);

    stage.client.get("upsert_users", json!({"users": users(100)})).await;
    stage.client.get("heartbeat", json!({"connections": connections(1000)})).await;
    stage.client.get("delete_users", json!({"ids": ids(100)})).await;
}

#[tokio::test]
async fn the_connection_after_the_fiftieth_is_refused_and_changes_nothing() {
    let mut stage = Stage::start(NO_GRACE).await;
    for n in 0..50 {
        stage.client.connect_user("john", &n.to_string()).await;
    }
    stage.events.arrived();
    let (before, shown) = (stage.written().await, stage.client.see("john").await);
    let one_more = json!({"user": {"id": "john", "status": "new"}, "connection_id": "50"});
    let refused = stage.client.refused("connect", one_more).await;
    assert_eq!(refused.code, "limit_exceeded");
    assert_eq!(refused.details["limit"], 50);
    assert_eq!((stage.written().await, stage.client.see("john").await), (before, shown));
    assert_eq!(stage.events.arrived().len(), 0);
    // One that exists is refreshed, and one that ended makes room.
    stage.client.connect_user("john", "7").await;
    stage.client.disconnect("john", "7").await;
    stage.client.connect_user("john", "50").await;
}

#[tokio::test]
async fn a_status_of_1_kib_and_a_user_of_5_kib_are_the_most() {
    let mut stage = Stage::start(NO_GRACE).await;
    let client = stage.client.clone();
    client.upsert(json!({"id": "john", "status": "é".repeat(512)})).await;
    let too_long = json!({"users": [{"id": "john", "status": "é".repeat(512) + "x"}]});
    let refused = client.refused("upsert_users", too_long).await;
    assert_eq!(refused.what(), ("too_large", Some("users[0].status")));
    assert_eq!(refused.details["limit"], 1024);

    client.upsert(json!({"id": "jack", "bio": ""})).await;
    let empty = client.see("jack").await.unwrap().to_string().len();
    let bio = |length: usize| json!({"id": "jack", "bio": "x".repeat(length)});
    client.upsert(bio(5 * 1024 - empty)).await;
    assert_eq!(client.see("jack").await.unwrap().to_string().len(), 5 * 1024);
    stage.events.arrived();
    let before = stage.written().await;
    for (operation, body) in [
        ("upsert_users", json!({"users": [{"id": "jane"}, bio(5 * 1024 - empty + 1)]})),
        ("connect", json!({"user": bio(5 * 1024 - empty + 1)})),
    ] {
        let refused = client.refused(operation, body).await;
        assert_eq!(refused.code, "too_large", "{refused:?}");
        assert_eq!(refused.details["limit"], 5 * 1024);
    }
    assert_eq!(stage.written().await, before, "all users are checked before the first is written");
    assert_eq!(client.see("jane").await, None);
}

#[tokio::test]
async fn an_answer_larger_than_the_server_takes_says_which_limit_to_lower() {
    let server =
        Server::start_with(Options { config: "max_payload: 65536\n".into(), ..Options::default() });
    let stage = Stage::on(server.await, NO_GRACE).await;
    for n in 0..40 {
        stage.client.upsert(json!({"id": format!("u{n}"), "bio": "x".repeat(4000)})).await;
    }
    let refused = stage.client.refused("query_users", json!({"limit": 40})).await;
    assert_eq!(refused.code, "too_large");
    assert!(refused.message.contains("limit"), "{refused:?}");
    assert_eq!(stage.client.query(json!({"limit": 10})).await.len(), 10);
}

#[tokio::test]
async fn explain_of_nobody_is_user_not_found() {
    let stage = Stage::start(NO_GRACE).await;
    let refused = stage.client.refused("explain", json!({"user_id": "nobody"})).await;
    assert_eq!((refused.status, refused.code.as_str()), (404, "user_not_found"));
}

#[tokio::test]
async fn a_subject_that_names_no_operation_is_an_invalid_request() {
    let stage = Stage::start(NO_GRACE).await;
    for subject in
        ["nothing", "Connect", "connect.john.x", "query_users.a.b.c", "*", ">", "connect.>"]
    {
        let body = json!({"user": {"id": "j"}}).to_string().into_bytes();
        let answer = stage.client.raw(format!("presence.v1.{subject}"), body).await;
        let refused: Refused = crate::support::client::read(&answer).unwrap_err();
        let codes = ["invalid_request", "invalid_id"];
        assert!(codes.contains(&refused.code.as_str()), "{subject}: {refused:?}");
    }
}
