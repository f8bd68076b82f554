//! The users whom a watch of a channel follows: the rule of ten, and the union over the channels of
//! a query.

use serde_json::{Value, json};

use crate::support::channels::{ids, members, of, pair_with_types, user};
use crate::support::server::last_seq;
use crate::support::stage::NO_GRACE;
use crate::support::{Pair, keys};

/// A presence block.
fn block(users: &[String], truncated: bool, not_watched: &[String]) -> Value {
    let subjects: Vec<_> = users.iter().map(|id| format!("user.presence.changed.{id}")).collect();
    json!({
        "users": users, "subjects": subjects, "truncated": truncated, "not_watched": not_watched
    })
}

#[tokio::test]
async fn the_first_ten_members_are_watched_and_the_rest_is_named() {
    let pair = Pair::start(NO_GRACE).await;
    for (count, limit, expected) in [
        (0, 100, block(&[], false, &[])),
        (2, 1, block(&ids(0..2), false, &[])),
        (10, 100, block(&ids(0..10), false, &[])),
        (11, 100, block(&ids(0..10), true, &ids(10..11))),
        (25, 100, block(&ids(0..10), true, &ids(10..25))),
        (25, 12, block(&ids(0..10), true, &ids(10..12))),
        (25, 10, block(&ids(0..10), true, &[])),
        (25, 3, block(&ids(0..10), true, &[])),
    ] {
        let id = format!("c{count}");
        pair.one.channel(&id, json!({"members": ids(0..count)})).await;
        let body = of(&id, json!({"presence": true, "member_limit": limit}));
        let watched = pair.two.get("watch_channel", body).await;
        assert_eq!(watched["presence"], expected, "{count} of which {limit} are shown");
        assert_eq!(watched["channel"]["member_count"], count);
        assert_eq!(members(&watched["channel"]), ids(0..count.min(limit)));
        assert!(watched["channel"].get("presence").is_none());

        let body = json!({"filter": {"id": id}, "presence": true, "member_limit": limit});
        let found = pair.two.get("query_channels", body).await;
        assert_eq!(found["presence"], expected);
        assert_eq!(found["channels"][0]["presence"], expected);
        assert_eq!(members(&found["channels"][0]), ids(0..count.min(limit)));
    }
}

#[tokio::test]
async fn more_than_a_hundred_members_are_counted_and_a_hundred_are_shown() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ids(0..100)})).await;
    let channel = pair.one.channel("c", json!({"add_members": ids(100..130)})).await;
    let watched = pair.two.watch("c").await;
    assert_eq!(watched["channel"], channel);
    assert_eq!(channel["member_count"], 130);
    assert_eq!(watched["channel"]["member_count"], 130);
    assert_eq!(members(&watched["channel"]), ids(0..100));
    assert_eq!(members(&channel), ids(0..100));
    assert_eq!(watched["presence"], block(&ids(0..10), true, &ids(10..100)));
}

#[tokio::test]
async fn chosen_users_are_watched_in_order_of_joining_and_nothing_is_truncated() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ids(0..25)})).await;
    for (chosen, expected) in
        [(vec!["u24", "u3", "u24"], vec!["u3", "u24"]), (vec![], vec![]), (vec!["u0"], vec!["u0"])]
    {
        let body = of("c", json!({"presence": true, "users": chosen, "member_limit": 2}));
        let watched = pair.two.get("watch_channel", body).await;
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(watched["presence"], block(&expected, false, &[]));
    }
    let ten = of("c", json!({"presence": true, "users": ids(15..25)}));
    assert_eq!(pair.one.get("watch_channel", ten).await["presence"]["users"], json!(ids(15..25)));
}

#[tokio::test]
async fn eleven_chosen_users_are_too_many_and_a_stranger_is_invalid() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ids(0..25)})).await;
    let written = last_seq(&pair.one.nats).await;
    for presence in [true, false] {
        let body = of("c", json!({"presence": presence, "users": ids(0..11)}));
        let refused = pair.two.refused("watch_channel", body).await;
        assert_eq!(refused.what(), ("too_many_users", Some("users")));
        assert_eq!((refused.status, &refused.details["limit"]), (400, &json!(10)));
        let body = of("c", json!({"presence": presence, "users": ["u1", "stranger"]}));
        let refused = pair.two.refused("watch_channel", body).await;
        assert_eq!(refused.what(), ("invalid_request", Some("users")));
    }
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

#[tokio::test]
async fn a_channel_is_not_made_for_a_watch_of_someone_who_would_be_no_member() {
    let pair = Pair::start(NO_GRACE).await;
    let written = last_seq(&pair.one.nats).await;
    let stranger = json!({"data": {"members": ["a"]}, "users": ["a", "b"], "presence": true});
    let refused = pair.one.refused("watch_channel", of("c", stranger)).await;
    assert_eq!(refused.what(), ("invalid_request", Some("users")));
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

#[tokio::test]
async fn without_presence_there_is_no_block() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ids(0..25)})).await;
    for asked in [json!({}), json!({"presence": false})] {
        let watched = pair.one.get("watch_channel", of("c", asked.clone())).await;
        assert_eq!(keys(&watched), ["channel"].into());
        let found = pair.one.get("query_channels", asked).await;
        assert_eq!(keys(&found), ["channels", "more"].into());
        assert!(found["channels"][0].get("presence").is_none());
    }
}

#[tokio::test]
async fn the_union_names_each_user_once_in_the_order_of_the_answer() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    one.channel("a", json!({"members": ["x", "u1"]})).await;
    one.channel("b", json!({"members": ids(0..12)})).await;
    one.channel("c", json!({"members": ["u11", "x", "y"]})).await;
    let body = json!({"presence": true, "sort": {"id": 1}});
    let found = two.get("query_channels", body).await;
    let channels = &found["channels"];
    assert_eq!(channels[1]["presence"], block(&ids(0..10), true, &ids(10..12)));
    assert_eq!(channels[2]["presence"]["users"], json!(["u11", "x", "y"]));
    let followed = ["x", "u1", "u0", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u11", "y"];
    let followed = followed.map(str::to_owned);
    assert_eq!(found["presence"], block(&followed, true, &["u10".to_owned()]));
    let none = two.get("query_channels", json!({"presence": true, "filter": {"id": "?"}})).await;
    assert_eq!(none, json!({"channels": [], "more": false, "presence": block(&[], false, &[])}));
}

#[tokio::test]
async fn subjects_are_tokens_whatever_the_ids_are() {
    let pair = Pair::start(NO_GRACE).await;
    let odd = ["a.b", "*", ">", "ü", "a b", "="];
    pair.one.channel("c", json!({"members": odd})).await;
    let watched = pair.two.watch("c").await;
    assert_eq!(watched["presence"]["users"], json!(odd));
    let tokens = ["a=2Eb", "=2A", "=3E", "=C3=BC", "a=20b", "=3D"];
    let subjects = tokens.map(|token| format!("user.presence.changed.{token}"));
    assert_eq!(watched["presence"]["subjects"], json!(subjects));
}

#[tokio::test]
async fn a_type_without_presence_shows_and_watches_none() {
    let pair = pair_with_types(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    let john = json!({"user": {"id": "john", "status": "s", "name": "J"}, "connection_id": "c"});
    one.get("connect", john).await;
    one.get("connect", json!({"user": {"id": "ann", "invisible": true}, "connection_id": "c"}))
        .await;
    let channel = json!({"type": "livestream", "id": "c"});
    let with = |more: Value| {
        let mut body = channel.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    one.get("upsert_channel", with(json!({"members": ["john", "ann", "nobody"]}))).await;
    one.channel("normal", json!({"members": ["john"]})).await;

    let empty = block(&[], false, &[]);
    let check = |channel: &Value| {
        assert_eq!(channel["presence_disabled"], true);
        assert_eq!(keys(user(channel, "john")), ["id", "name", "created_at", "updated_at"].into());
        assert_eq!(keys(user(channel, "ann")), ["id", "created_at", "updated_at"].into());
        assert_eq!(*user(channel, "nobody"), json!({"id": "nobody"}));
    };
    for asked in [json!({}), json!({"as": "ann"}), json!({"as": "john", "users": ["john"]})] {
        let mut asked = with(asked);
        check(&two.get("watch_channel", asked.clone()).await["channel"]);
        asked["presence"] = json!(true);
        let watched = two.get("watch_channel", asked).await;
        check(&watched["channel"]);
        assert_eq!(watched["presence"], empty);
    }
    check(&two.of("ann").get("watch_channel", channel.clone()).await["channel"]);
    check(&two.get("upsert_channel", channel.clone()).await["channel"]);
    let body = json!({"presence": true, "sort": {"type": 1}});
    let found = two.get("query_channels", body).await;
    check(&found["channels"][0]);
    assert_eq!(found["channels"][0]["presence"], empty);
    assert!(found["channels"][1].get("presence_disabled").is_none());
    assert_eq!(found["presence"], block(&["john".to_owned()], false, &[]));
}
