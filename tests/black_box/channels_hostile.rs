//! Hostile requests about channels: they write nothing, and their fault is named.

use async_nats::jetstream;
use serde_json::{Value, json};

use crate::support::channels::{members, of};
use crate::support::client::{read, token};
use crate::support::server::{Options, last};
use crate::support::stage::NO_GRACE;
use crate::support::{Pair, Server, Stage};

const OPERATIONS: [&str; 4] =
    ["upsert_channel", "delete_channel", "watch_channel", "query_channels"];

#[tokio::test]
async fn what_is_no_object_is_an_invalid_request() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    for operation in OPERATIONS {
        for body in [&b""[..], b"[]", b"null", b"\"x\"", b"{", b"{}x", b"\xff"] {
            let answer = stage.client.raw(stage.client.subject(operation), body.to_vec()).await;
            assert_eq!(read(&answer).unwrap_err().what(), ("invalid_request", None), "{operation}");
        }
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn a_field_that_is_missing_unknown_or_of_a_wrong_type_is_named() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    for operation in &OPERATIONS[..3] {
        for (body, field) in
            [(json!({}), "type"), (json!({"type": "t"}), "id"), (json!({"id": "c"}), "type")]
        {
            let refused = stage.client.refused(operation, body).await;
            assert_eq!(refused.what(), ("invalid_request", Some(field)), "{operation}");
        }
    }
    let types = [
        json!(null),
        json!(1),
        json!("x"),
        json!(true),
        json!([1]),
        json!({"x": 1}),
        json!([null]),
    ];
    for (operation, field, fits) in [
        ("upsert_channel", "type", 2),
        ("upsert_channel", "id", 2),
        ("upsert_channel", "data", 5),
        ("upsert_channel", "members", 9),
        ("upsert_channel", "add_members", 9),
        ("upsert_channel", "remove_members", 9),
        ("delete_channel", "type", 2),
        ("watch_channel", "data", 5),
        ("watch_channel", "presence", 3),
        ("watch_channel", "users", 9),
        ("watch_channel", "member_limit", 1),
        ("watch_channel", "as", 2),
        ("watch_channel", "min_rev", 1),
        ("query_channels", "presence", 3),
        ("query_channels", "as", 2),
        ("query_channels", "min_rev", 1),
    ] {
        for (_, value) in types.iter().enumerate().filter(|(n, _)| *n != fits) {
            let mut body =
                if operation == "query_channels" { json!({}) } else { of("c", json!({})) };
            body[field] = value.clone();
            let refused = stage.client.refused(operation, body).await;
            assert_eq!(refused.code, "invalid_request", "{operation} {field} {value}: {refused:?}");
            let named = refused.details["field"].as_str().unwrap_or_default();
            assert!(named.starts_with(field), "{operation} {field} {value}: {refused:?}");
        }
    }
    for (operation, field) in OPERATIONS.into_iter().flat_map(|operation| {
        ["color", "Type", "channel", "rev", "user_id", "add_member"].map(|field| (operation, field))
    }) {
        let mut body = if operation == "query_channels" { json!({}) } else { of("c", json!({})) };
        body[field] = json!(1);
        let refused = stage.client.refused(operation, body).await;
        assert_eq!(refused.what(), ("invalid_request", Some(field)), "{operation}");
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn odd_ids_are_ids_and_stand_as_tokens_in_keys() {
    let pair = Pair::start(NO_GRACE).await;
    let longest = "ü".repeat(127) + ".";
    for (kind, id) in [
        ("a.b", "c.d"),
        ("*", ">"),
        (">", "*"),
        (" ", " x "),
        ("$JS", "$KV.presence.>"),
        ("=", "=2E"),
        ("channel", "a:b:c"),
        ("\"", "\\\"{}"),
        ("類", "😀"),
        ("_", "-"),
        (&longest, &longest),
    ] {
        let body = json!({"type": kind, "id": id, "members": [id], "data": {kind: id}});
        let body = if kind.starts_with('$') {
            json!({"type": kind, "id": id, "members": [id]})
        } else {
            body
        };
        let made = pair.one.get("upsert_channel", body).await["channel"].take();
        assert_eq!((&made["type"], &made["id"]), (&json!(kind), &json!(id)));
        assert_eq!(
            (made["cid"].as_str(), members(&made)),
            (Some(&*format!("{kind}:{id}")), vec![id])
        );
        let key = format!("channel.{}.{}", token(kind), token(id));
        assert!(last(&pair.one.nats, &key).await.is_some(), "{key}");
        for filter in [json!({"cid": made["cid"]}), json!({"members": [id]}), json!({"type": kind})]
        {
            assert_eq!(pair.two.find(json!({"filter": filter})).await, [id], "{filter}");
        }
        let own = pair.two.of(id).get("watch_channel", json!({"type": kind, "id": id})).await;
        assert_eq!(own["channel"]["cid"], made["cid"]);
        let deleted = pair.two.get("delete_channel", json!({"type": kind, "id": id})).await;
        assert_eq!(deleted["deleted"], true);
    }
}

#[tokio::test]
async fn what_is_no_id_is_invalid_id_and_names_the_field() {
    let stage = Stage::start(NO_GRACE).await;
    let before = stage.written().await;
    let long = "x".repeat(256);
    for operation in &OPERATIONS[..3] {
        for bad in ["", "\0", "a\nb", "\u{7f}", "\u{9f}", &long] {
            for field in ["type", "id"] {
                let mut body = of("c", json!({}));
                body[field] = json!(bad);
                let refused = stage.client.refused(operation, body).await;
                assert_eq!(refused.what(), ("invalid_id", Some(field)), "{operation} {bad:?}");
            }
        }
        let colon = json!({"type": "a:b", "id": "c"});
        let refused = stage.client.refused(operation, colon).await;
        assert_eq!(refused.what(), ("invalid_id", Some("type")));
    }
    for (operation, body, field) in [
        ("upsert_channel", json!({"members": ["a", ""]}), "members[1]"),
        ("upsert_channel", json!({"add_members": [long]}), "add_members[0]"),
        ("upsert_channel", json!({"remove_members": ["\t"]}), "remove_members[0]"),
        ("watch_channel", json!({"data": {"members": [""]}}), "data.members[0]"),
        ("watch_channel", json!({"users": ["a", ""]}), "users[1]"),
        ("watch_channel", json!({"as": ""}), "as"),
    ] {
        let refused = stage.client.refused(operation, of("c", body)).await;
        assert_eq!(refused.what(), ("invalid_id", Some(field)), "{operation}");
    }
    assert_eq!(stage.written().await, before);
}

#[tokio::test]
async fn an_answer_beyond_max_payload_says_which_limit_to_lower() {
    let config = "max_payload: 65536\n".to_owned();
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let stage = Stage::on(server, NO_GRACE).await;
    let ids: Vec<_> = (0..40).map(|n| format!("u{n}")).collect();
    for chunk in ids.chunks(10) {
        let large = |id: &String| json!({"id": id, "x": "y".repeat(4000)});
        let users: Vec<_> = chunk.iter().map(large).collect();
        stage.client.get("upsert_users", json!({"users": users})).await;
    }
    let data = json!({"data": {"members": ids}, "member_limit": 3});
    stage.client.get("watch_channel", of("c", data)).await;
    for (operation, body) in [
        ("watch_channel", of("c", json!({"presence": true}))),
        ("query_channels", json!({"presence": true})),
    ] {
        let refused = stage.client.refused(operation, body.clone()).await;
        assert_eq!((refused.status, refused.what()), (413, ("too_large", Some("member_limit"))));
        assert!(refused.message.contains("`member_limit`"), "{refused:?}");
        let mut less = body;
        less["member_limit"] = json!(10);
        stage.client.get(operation, less).await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_unavailable_and_never_overwritten() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    let js = jetstream::new(client.nats.clone());
    let newer = json!({"v": 2, "created_at": 1, "members": ["john"]}).to_string();
    for (id, text) in [("x", "hello"), ("y", newer.as_str()), ("z", "")] {
        let key = format!("channel.messaging.{id}");
        let stored =
            js.publish(format!("$KV.presence.{key}"), text.to_owned().into()).await.unwrap();
        let rev = stored.await.unwrap().sequence;
        for operation in ["upsert_channel", "delete_channel", "watch_channel"] {
            let refused = client.refused(operation, of(id, json!({}))).await;
            assert_eq!(refused.code, "unavailable", "{operation} {text}");
        }
        assert_eq!(client.of("john").find(json!({})).await.len(), 0);
        let message = last(&client.nats, &key).await.unwrap();
        assert_eq!((message.sequence, &message.payload[..]), (rev, text.as_bytes()));
    }
    client.channel("good", json!({"members": ["john"]})).await;
    assert_eq!(client.find(json!({})).await, ["good"], "others are served");
}

#[tokio::test]
async fn what_another_version_stored_is_kept() {
    let stage = Stage::start(NO_GRACE).await;
    let js = jetstream::new(stage.client.nats.clone());
    let record =
        json!({"v": 1, "created_at": 5, "updated_at": 6, "members": ["a"], "team": {"x": [1]}});
    let subject = "$KV.presence.channel.messaging.c";
    js.publish(subject, record.to_string().into()).await.unwrap().await.unwrap();
    stage.client.watch("c").await;
    stage.client.channel("c", json!({"add_members": ["b"], "data": {"n": 1}})).await;
    let message = last(&stage.client.nats, "channel.messaging.c").await.unwrap();
    let stored: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&stored["team"], &stored["members"]), (&record["team"], &json!(["a", "b"])));
    assert!(message.headers.get("Presence-Writer").is_some());
}
