//! Channels: they are made, their members join and leave in order, and they are deleted; on two
//! daemons.

use async_nats::jetstream;
use serde_json::{Value, json};

use crate::support::channels::{ids, members, of};
use crate::support::server::last_seq;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Pair, keys};

#[tokio::test]
async fn a_watch_makes_a_channel_once_and_its_data_counts_only_then() {
    let pair = Pair::start(NO_GRACE).await;
    let data = json!({"data": {"members": ["john", "jack", "john"], "color": "green"}});
    let made = pair.one.get("watch_channel", of("c", data)).await;
    assert_eq!(keys(&made), ["channel"].into());
    let channel = &made["channel"];
    assert_eq!(
        keys(channel),
        [
            "type",
            "id",
            "cid",
            "member_count",
            "members",
            "color",
            "last_message_at",
            "created_at",
            "updated_at"
        ]
        .into()
    );
    assert_eq!(channel["cid"], "messaging:c");
    assert_eq!((&channel["type"], &channel["id"]), (&json!("messaging"), &json!("c")));
    assert_eq!((&channel["color"], &channel["member_count"]), (&json!("green"), &json!(2)));
    assert_eq!(channel["last_message_at"], Value::Null);
    assert_eq!(channel["created_at"], channel["updated_at"]);
    assert_eq!(members(channel), ["john", "jack"]);

    let written = last_seq(&pair.one.nats).await;
    let other = json!({"data": {"members": ["x"], "color": "red", "more": 1}, "presence": true});
    for client in pair.clients() {
        let again = client.get("watch_channel", of("c", other.clone())).await;
        assert_eq!(again["channel"], *channel);
    }
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

#[tokio::test]
async fn the_second_request_for_a_channel_gets_that_of_the_first() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..30 {
        let id = format!("c{n}");
        let made = |by: &str| of(&id, json!({"data": {"members": [by], "by": by}}));
        let (a, b) = tokio::join!(
            pair.one.get("watch_channel", made("a")),
            pair.two.get("watch_channel", made("b")),
        );
        assert_eq!(a["channel"], b["channel"]);
        let by = a["channel"]["by"].as_str().unwrap();
        assert_eq!(members(&a["channel"]), [by]);
    }
}

#[tokio::test]
async fn members_are_edited_in_order_of_joining_and_repeats_are_ignored() {
    let pair = Pair::start(NO_GRACE).await;
    for (edit, expected) in [
        (json!({"members": ["c", "a", "c"]}), &["c", "a"][..]),
        (json!({"add_members": ["b", "a", "b"]}), &["c", "a", "b"]),
        (json!({"remove_members": ["c", "nobody", "c"]}), &["a", "b"]),
        (json!({"add_members": ["c"], "remove_members": ["a"]}), &["b", "c"]),
        (json!({"members": ["d", "b"], "add_members": ["e", "d"]}), &["d", "b", "e"]),
        (json!({"data": {"color": "green"}}), &["d", "b", "e"]),
        (json!({"add_members": [], "remove_members": []}), &["d", "b", "e"]),
        (json!({"members": []}), &[]),
    ] {
        for (client, other) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
            let channel = client.channel("c", edit.clone()).await;
            assert_eq!(members(&channel), expected, "{edit}");
            assert_eq!(other.watch("c").await["channel"], channel, "{edit}");
        }
    }
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let pair = Pair::start(NO_GRACE).await;
    let body =
        json!({"members": ["a", "b"], "data": {"n": 1, "last_message_at": "2020-01-01T00:00:00Z"}});
    let first = pair.one.get("upsert_channel", of("c", body.clone())).await;
    let written = last_seq(&pair.one.nats).await;
    for client in pair.clients() {
        for body in [
            &body,
            &json!({}),
            &json!({"add_members": ["b", "a"]}),
            &json!({"remove_members": ["x"], "data": {"absent": null}}),
            &json!({"data": {"last_message_at": "2019-01-01T00:00:00Z"}}),
        ] {
            let again = client.get("upsert_channel", of("c", body.clone())).await;
            assert_eq!(again, first, "{body}");
        }
    }
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

#[tokio::test]
async fn two_daemons_that_add_members_at_the_same_time_lose_none() {
    let pair = Pair::start(NO_GRACE).await;
    let add = |client: &Client, n: usize| {
        let (client, body) = (client.clone(), json!({"add_members": [format!("u{n}")]}));
        async move { client.channel("c", body).await }
    };
    let adding = (0..60).map(|n| add(pair.clients()[n % 2], n));
    let answers = futures_util::future::join_all(adding).await;
    for (n, channel) in answers.iter().enumerate() {
        assert!(members(channel).contains(&format!("u{n}").as_str()), "{channel}");
    }
    let one = pair.one.watch("c").await;
    assert_eq!(one["channel"]["member_count"], 60);
    assert_eq!(pair.two.watch("c").await, one);
    let (a, b) = tokio::join!(
        pair.one.channel("c", json!({"remove_members": ids(0..30)})),
        pair.two.channel("c", json!({"remove_members": ids(30..60), "add_members": ["x"]})),
    );
    assert!(a["member_count"] == 1 || b["member_count"] == 1);
    assert_eq!(members(&pair.one.watch("c").await["channel"]), ["x"]);
}

#[tokio::test]
async fn a_deleted_channel_is_gone_on_all_daemons_and_can_be_made_again() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    one.channel("c", json!({"members": ["john"], "data": {"color": "green"}})).await;
    let deleted = two.get("delete_channel", of("c", json!({}))).await;
    assert_eq!(keys(&deleted), ["deleted", "rev"].into());
    assert_eq!(deleted["deleted"], true);
    for filter in [json!({}), json!({"cid": "messaging:c"}), json!({"members": ["john"]})] {
        let body = json!({"filter": filter, "min_rev": deleted["rev"]});
        assert_eq!(one.get("query_channels", body).await["channels"], json!([]));
    }
    let again = one.get("delete_channel", of("c", json!({}))).await;
    assert_eq!(again["deleted"], false);
    let again = one.get("watch_channel", of("c", json!({}))).await;
    assert_eq!(
        (&again["channel"]["member_count"], &again["channel"]["color"]),
        (&json!(0), &Value::Null)
    );
}

#[tokio::test]
async fn at_most_a_hundred_members_are_named_in_a_call() {
    let pair = Pair::start(NO_GRACE).await;
    let channel = pair.one.channel("c", json!({"members": ids(0..100)})).await;
    assert_eq!((&channel["member_count"], members(&channel).len()), (&json!(100), 100));
    let written = last_seq(&pair.one.nats).await;
    for name in ["members", "add_members", "remove_members"] {
        let refused = pair.one.refused("upsert_channel", of("c", json!({name: ids(0..101)}))).await;
        assert_eq!(refused.what(), ("limit_exceeded", Some(name)));
        assert_eq!(refused.details["limit"], 100);
    }
    let data = json!({"data": {"members": ids(0..101)}});
    let refused = pair.one.refused("watch_channel", of("d", data)).await;
    assert_eq!(refused.what(), ("limit_exceeded", Some("data.members")));
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

/// Stores a channel as a daemon would have, and waits until both have seen it.
async fn store(pair: &Pair, id: &str, members: &[String]) {
    let js = jetstream::new(pair.one.nats.clone());
    let record = json!({"v": 1, "created_at": 1, "updated_at": 1, "members": members}).to_string();
    let key = format!("$KV.presence.channel.messaging.{id}");
    let rev = js.publish(key, record.into()).await.unwrap().await.unwrap().sequence;
    for client in pair.clients() {
        client.get("watch_channel", of(id, json!({"min_rev": rev}))).await;
    }
}

#[tokio::test]
async fn ten_thousand_members_work_and_one_more_is_refused() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    store(&pair, "c", &ids(0..9_900)).await;
    let channel = one.channel("c", json!({"add_members": ids(9_900..10_000)})).await;
    assert_eq!(
        (&channel["member_count"], members(&channel)),
        (&json!(10_000), { members(&channel)[..100].to_vec() })
    );
    let watched = two.of("u9999").get("watch_channel", of("c", json!({"presence": true}))).await;
    assert_eq!(watched["channel"]["member_count"], 10_000);
    assert_eq!(two.find(json!({"filter": {"members": {"$contains": "u9999"}}})).await, ["c"]);
    assert_eq!(two.find(json!({"filter": {"members": ids(0..10_000)}})).await, ["c"]);
    let chosen = json!({"presence": true, "users": ["u9999", "u0"]});
    let watched = two.get("watch_channel", of("c", chosen)).await;
    assert_eq!(watched["presence"]["users"], json!(["u0", "u9999"]));

    let written = last_seq(&one.nats).await;
    let refused =
        two.refused("upsert_channel", of("c", json!({"add_members": ["one more"]}))).await;
    assert_eq!(refused.what(), ("too_large", Some("members")));
    assert_eq!(refused.details["limit"], 10_000);
    one.channel("c", json!({"add_members": ["u5"]})).await;
    assert_eq!(last_seq(&one.nats).await, written);
    let swapped = json!({"add_members": ["one more"], "remove_members": ["u0"]});
    assert_eq!(two.channel("c", swapped).await["member_count"], 10_000);
}

#[tokio::test]
async fn the_ids_of_all_members_take_at_most_half_a_mebibyte() {
    let pair = Pair::start(NO_GRACE).await;
    let long = |n: usize| format!("{n:0>255}");
    // 2056 ids of 255 bytes leave room for 8 bytes.
    store(&pair, "c", &(0..2056).map(long).collect::<Vec<_>>()).await;
    let refused =
        pair.one.refused("upsert_channel", of("c", json!({"add_members": ["123456789"]}))).await;
    assert_eq!(refused.what(), ("too_large", Some("members")));
    assert_eq!(refused.details["limit"], 512 * 1024);
    let channel = pair.two.channel("c", json!({"add_members": ["12345678"]})).await;
    assert_eq!(channel["member_count"], 2057);
}
