//! The data of channels: custom fields, their size, and times.

use serde_json::{Value, json};

use crate::support::channels::of;
use crate::support::server::last_seq;
use crate::support::stage::NO_GRACE;
use crate::support::wait::a_later_millisecond;
use crate::support::{Pair, Stage};

#[tokio::test]
async fn data_is_updated_in_part_and_null_removes() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    let all = json!({
        "a": 1, "b": [1, {"x": "ü\n"}], "online": true, "status": "x", "version": 7, "users": 1
    });
    let channel = one.channel("c", json!({"data": all})).await;
    for (name, value) in all.as_object().unwrap() {
        assert_eq!(&channel[name], value);
    }
    let channel = two.channel("c", json!({"data": {"a": null, "c": {"d": null}}})).await;
    assert!(channel.get("a").is_none());
    assert_eq!((&channel["b"], &channel["c"]), (&all["b"], &json!({"d": null})));
    assert_eq!(one.watch("c").await["channel"], channel);
}

#[tokio::test]
async fn updated_at_moves_only_when_something_changes_and_created_at_never() {
    let pair = Pair::start(NO_GRACE).await;
    let mut before = pair.one.channel("c", json!({"members": ["a"], "data": {"n": 1}})).await;
    for (change, moves) in [
        (json!({"data": {"n": 1}}), false),
        (json!({"data": {"n": 2}}), true),
        (json!({"add_members": ["a"]}), false),
        (json!({"add_members": ["b"]}), true),
        (json!({"remove_members": ["b"]}), true),
        (json!({"data": {"last_message_at": "2020-01-01T00:00:00Z"}}), true),
        (json!({"data": {"last_message_at": "2020-01-01T01:00:00+01:00"}}), false),
    ] {
        a_later_millisecond().await;
        let after = pair.two.channel("c", change.clone()).await;
        assert_eq!(after["created_at"], before["created_at"], "{change}");
        assert_eq!(after["updated_at"] != before["updated_at"], moves, "{change}");
        assert!(after["updated_at"].as_str() >= before["updated_at"].as_str(), "{change}");
        before = after;
    }
}

#[tokio::test]
async fn data_takes_at_most_five_kibibytes() {
    let stage = Stage::start(NO_GRACE).await;
    // {"x":"…"} has eight bytes besides the text.
    let data = |bytes: usize| json!({"data": {"x": "y".repeat(bytes - 8)}});
    for operation in ["upsert_channel", "watch_channel"] {
        let before = stage.written().await;
        let refused = stage.client.refused(operation, of(operation, data(5121))).await;
        assert_eq!(refused.what(), ("too_large", Some("data")), "{operation}");
        assert_eq!(refused.details["limit"], 5120);
        assert_eq!(stage.written().await, before);
        stage.client.get(operation, of(operation, data(5120))).await;
    }
    let more = of("upsert_channel", json!({"data": {"y": 1}}));
    assert_eq!(stage.client.refused("upsert_channel", more).await.code, "too_large");
    let less = json!({"data": {"x": null, "last_message_at": "2020-01-01T00:00:00Z"}});
    stage.client.channel("upsert_channel", less).await;
}

#[tokio::test]
async fn any_form_of_a_time_is_taken_and_shown_in_utc_with_milliseconds() {
    let pair = Pair::start(NO_GRACE).await;
    for (n, (given, shown)) in [
        ("2019-01-07T13:17:42.375Z", "2019-01-07T13:17:42.375Z"),
        ("2019-01-07T13:17:42Z", "2019-01-07T13:17:42.000Z"),
        ("2019-01-07t13:17:42z", "2019-01-07T13:17:42.000Z"),
        ("2019-01-07T15:17:42.5+02:00", "2019-01-07T13:17:42.500Z"),
        ("2019-01-07T07:47:42.123999999-05:30", "2019-01-07T13:17:42.123Z"),
        ("2020-02-29T23:59:59.999-00:00", "2020-02-29T23:59:59.999Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{n}");
        let channel = pair.one.channel(&id, json!({"data": {"last_message_at": given}})).await;
        assert_eq!(channel["last_message_at"], shown, "{given}");
        assert_eq!(pair.two.watch(&id).await["channel"], channel);
    }
    let stays_rfc3339 = json!({"data": {"last_message_at": "9999-12-31T23:59:59-14:00"}});
    let shown = pair.one.channel("late", stays_rfc3339).await["last_message_at"].take();
    assert!(shown.as_str().unwrap().starts_with("9999-12-31T23:59:59"), "{shown}");
}

#[tokio::test]
async fn last_message_at_never_moves_backwards() {
    let pair = Pair::start(NO_GRACE).await;
    let at = |time: Value| json!({"data": {"last_message_at": time}});
    let (early, late) = ("2019-01-07T13:17:42.375Z", "2019-01-07T13:17:42.376Z");
    pair.one.channel("c", at(json!(late))).await;
    for client in pair.clients() {
        assert_eq!(client.channel("c", at(json!(early))).await["last_message_at"], late);
        assert_eq!(client.watch("c").await["channel"]["last_message_at"], late);
    }
    let later = "2030-01-01T00:00:00.000Z";
    assert_eq!(pair.two.channel("c", at(json!(later))).await["last_message_at"], later);
    assert_eq!(pair.one.channel("c", at(Value::Null)).await["last_message_at"], Value::Null);
}

#[tokio::test]
async fn what_is_no_data_of_a_channel_is_named_and_nothing_is_written() {
    let stage = Stage::start(NO_GRACE).await;
    let before = last_seq(&stage.client.nats).await;
    let long = "x".repeat(300);
    for operation in ["upsert_channel", "watch_channel"] {
        for (data, field) in [
            (json!(null), "data"),
            (json!([]), "data"),
            (json!("x"), "data"),
            (json!({"type": "x"}), "data.type"),
            (json!({"id": "x"}), "data.id"),
            (json!({"cid": "x"}), "data.cid"),
            (json!({"member_count": 1}), "data.member_count"),
            (json!({"created_at": "2020-01-01T00:00:00Z"}), "data.created_at"),
            (json!({"updated_at": null}), "data.updated_at"),
            (json!({"presence": {}}), "data.presence"),
            (json!({"presence_disabled": true}), "data.presence_disabled"),
            (json!({"": 1}), "data."),
            (json!({"$x": 1}), "data.$x"),
            (json!({"last_message_at": 5}), "data.last_message_at"),
            (json!({"last_message_at": ""}), "data.last_message_at"),
            (json!({"last_message_at": "yesterday"}), "data.last_message_at"),
            (json!({"last_message_at": "2020-01-01"}), "data.last_message_at"),
            (json!({"last_message_at": "2020-01-01T00:00:00"}), "data.last_message_at"),
            (json!({"last_message_at": long}), "data.last_message_at"),
        ] {
            let body = of("c", json!({"data": data}));
            let refused = stage.client.refused(operation, body).await;
            assert_eq!(refused.what(), ("invalid_request", Some(field)), "{operation} {data}");
        }
    }
    let members = of("c", json!({"data": {"members": ["a"]}}));
    let refused = stage.client.refused("upsert_channel", members).await;
    assert_eq!(refused.what(), ("invalid_request", Some("data.members")));
    assert_eq!(last_seq(&stage.client.nats).await, before);
}
