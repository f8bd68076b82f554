//! The channels that a query finds, their order and their number.

use serde_json::{Value, json};

use crate::support::channels::{ids, members, of};
use crate::support::server::last_seq;
use crate::support::stage::NO_GRACE;
use crate::support::{Pair, Stage};

/// Channels `a` to `e`; `e` is of another type.
async fn some_channels(pair: &Pair) {
    for (id, body) in [
        (
            "a",
            json!({
                "members": ["john", "jack"],
                "data": {"color": "green", "n": 1, "last_message_at": "2020-01-01T00:00:00Z"}
            }),
        ),
        (
            "b",
            json!({
                "members": ["jack", "john"],
                "data": {"color": "Dark Blue", "n": 2.5, "tags": ["x", 1]}
            }),
        ),
        (
            "c",
            json!({
                "members": ["john"],
                "data": {"color": "green", "vip": true, "last_message_at": "2021-01-01T00:00:00Z"}
            }),
        ),
        ("d", json!({"members": ids(0..12), "data": {"n": "3"}})),
    ] {
        pair.one.channel(id, body).await;
    }
    pair.two.get("upsert_channel", json!({"type": "team", "id": "e"})).await;
}

#[tokio::test]
async fn each_filter_finds_what_it_says_on_both_daemons() {
    let pair = Pair::start(NO_GRACE).await;
    some_channels(&pair).await;
    for (filter, expected) in [
        (json!({}), &["a", "b", "c", "d", "e"][..]),
        (json!({"id": "a"}), &["a"]),
        (json!({"id": {"$gt": "b", "$lte": "d"}}), &["c", "d"]),
        (json!({"cid": "messaging:b"}), &["b"]),
        (json!({"cid": {"$in": ["messaging:b", "team:e", "team:b", "x", ":", ""]}}), &["b", "e"]),
        (json!({"cid": {"$gt": "messaging:d"}}), &["e"]),
        (json!({"cid": {"$autocomplete": "TEAM"}}), &["e"]),
        (json!({"type": "team"}), &["e"]),
        (json!({"type": {"$ne": "messaging"}}), &["e"]),
        (json!({"type": "messaging", "id": {"$nin": ["a", "b"]}}), &["c", "d"]),
        (json!({"members": ["jack", "john"]}), &["a", "b"]),
        (json!({"members": {"$eq": ["john", "jack", "john"]}}), &["a", "b"]),
        (json!({"members": ["john"]}), &["c"]),
        (json!({"members": []}), &["e"]),
        (json!({"members": {"$in": ["john", "u11"]}}), &["a", "b", "c", "d"]),
        (json!({"members": {"$in": []}}), &[]),
        (json!({"members": {"$contains": "u0"}}), &["d"]),
        (json!({"members": {"$contains": "nobody"}}), &[]),
        (json!({"members": {"$contains": ""}}), &[]),
        (json!({"members": {"$contains": "john"}, "color": "green"}), &["a", "c"]),
        (json!({"$nor": [{"members": {"$contains": "john"}}]}), &["d", "e"]),
        (json!({"$or": [{"members": ["john"]}, {"cid": "team:e"}]}), &["c", "e"]),
        (json!({"$and": [{"cid": "messaging:a"}, {"members": ["john"]}]}), &[]),
        (json!({"member_count": 2}), &["a", "b"]),
        (json!({"member_count": {"$gte": 2}}), &["a", "b", "d"]),
        (json!({"member_count": {"$in": [0, 12.0]}}), &["d", "e"]),
        (json!({"color": "green"}), &["a", "c"]),
        (json!({"color": {"$autocomplete": "blu"}}), &["b"]),
        (json!({"color": {"$exists": false}}), &["d", "e"]),
        (json!({"n": {"$gt": 1}}), &["b"]),
        (json!({"vip": true}), &["c"]),
        (json!({"tags": {"$contains": 1}}), &["b"]),
        (json!({"last_message_at": {"$exists": true}}), &["a", "c"]),
        (json!({"last_message_at": {"$gt": "2020-01-01T01:00:00+01:00"}}), &["c"]),
        (json!({"last_message_at": "2020-01-01T00:00:00Z"}), &["a"]),
        (json!({"created_at": {"$lt": "2020-01-01T00:00:00Z"}}), &[]),
        (json!({"updated_at": {"$gt": "2020-01-01T00:00:00Z"}}), &["a", "b", "c", "d", "e"]),
    ] {
        for client in pair.clients() {
            let body = json!({"filter": filter, "sort": {"id": 1}});
            assert_eq!(client.find(body).await, expected, "{filter}");
        }
    }
}

#[tokio::test]
async fn filters_follow_the_members_as_they_come_and_go() {
    let pair = Pair::start(NO_GRACE).await;
    let of_john = json!({"filter": {"members": {"$contains": "john"}}});
    for round in 0..3 {
        pair.one.channel("c", json!({"add_members": ["jack", "john"]})).await;
        assert_eq!(pair.two.find(of_john.clone()).await, ["c"], "{round}");
        pair.one.channel("c", json!({"remove_members": ["john"]})).await;
        assert_eq!(pair.two.find(of_john.clone()).await.len(), 0, "{round}");
    }
    pair.one.channel("c", json!({"members": ["john"]})).await;
    pair.two.get("delete_channel", of("c", json!({}))).await;
    for client in pair.clients() {
        assert_eq!(client.find(of_john.clone()).await.len(), 0);
    }
}

#[tokio::test]
async fn the_newest_message_comes_first_unless_another_order_is_asked_for() {
    let pair = Pair::start(NO_GRACE).await;
    some_channels(&pair).await;
    for (sort, expected) in [
        (json!({}), ["c", "a", "b", "d", "e"]),
        (json!({"last_message_at": 1}), ["a", "c", "b", "d", "e"]),
        (json!([{"member_count": -1}, {"id": -1}]), ["d", "b", "a", "c", "e"]),
        (json!([{"field": "type", "direction": -1}]), ["e", "a", "b", "c", "d"]),
        (json!({"cid": -1}), ["e", "d", "c", "b", "a"]),
        (json!({"color": 1}), ["b", "a", "c", "d", "e"]),
        (json!({"color": -1}), ["a", "c", "b", "d", "e"]),
        (json!({"n": 1}), ["a", "b", "d", "c", "e"]),
        (json!({"n": -1}), ["d", "b", "a", "c", "e"]),
    ] {
        assert_eq!(pair.two.find(json!({"sort": sort})).await, expected, "{sort}");
    }
    let by_default = pair.two.find(json!({})).await;
    assert_eq!(by_default, ["c", "a", "b", "d", "e"]);
}

#[tokio::test]
async fn pages_are_ten_channels_unless_another_limit_is_asked_for() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..35 {
        pair.one.channel(&format!("c{n:02}"), json!({"members": ["john"]})).await;
    }
    let expected =
        |range: std::ops::Range<usize>| range.map(|n| format!("c{n:02}")).collect::<Vec<_>>();
    for (body, range) in [
        (json!({}), 0..10),
        (json!({"limit": 1}), 0..1),
        (json!({"limit": 30}), 0..30),
        (json!({"limit": 30, "offset": 30}), 30..35),
        (json!({"offset": 5}), 5..15),
        (json!({"offset": 1000}), 0..0),
    ] {
        for filter in [json!({}), json!({"members": ["john"]})] {
            let mut body = body.clone();
            body["filter"] = filter;
            assert_eq!(pair.two.find(body.clone()).await, expected(range.clone()), "{body}");
        }
        assert_eq!(pair.two.of("john").find(body).await, expected(range));
    }
}

#[tokio::test]
async fn member_limit_bounds_the_members_of_each_channel() {
    let pair = Pair::start(NO_GRACE).await;
    some_channels(&pair).await;
    let body = json!({"member_limit": 1, "sort": {"id": 1}, "presence": true});
    let found = pair.two.get("query_channels", body).await;
    let shown: Vec<_> = found["channels"].as_array().unwrap().iter().map(members).collect();
    assert_eq!(shown, [vec!["john"], vec!["jack"], vec!["john"], vec!["u0"], vec![]]);
    let watched = &found["channels"][3]["presence"];
    assert_eq!((&watched["users"], &watched["not_watched"]), (&json!(ids(0..10)), &json!([])));
    assert_eq!(watched["truncated"], true);
}

#[tokio::test]
async fn limits_of_numbers_are_named() {
    let stage = Stage::start(NO_GRACE).await;
    for (field, most) in [("limit", 30), ("offset", 1000), ("member_limit", 100)] {
        let refused = stage.client.refused("query_channels", json!({field: most + 1})).await;
        assert_eq!(refused.what(), ("limit_exceeded", Some(field)));
        assert_eq!(refused.details["limit"], most);
        for wrong in [json!(-1), json!(1.5), json!("1"), json!(null), json!([1]), json!(true)] {
            let refused = stage.client.refused("query_channels", json!({field: wrong})).await;
            assert_eq!(refused.what(), ("invalid_request", Some(field)), "{wrong}");
        }
    }
    for field in ["limit", "member_limit"] {
        let refused = stage.client.refused("query_channels", json!({field: 0})).await;
        assert_eq!(refused.what(), ("invalid_request", Some(field)));
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_filter_or_a_sort_is_named() {
    let stage = Stage::start(NO_GRACE).await;
    let many = ids(0..101);
    for (filter, code, path) in [
        (json!({"members": "john"}), "invalid_filter", "members"),
        (json!({"members": {"$ne": ["john"]}}), "invalid_filter", "members.$ne"),
        (json!({"members": {"$contains": ["john"]}}), "invalid_filter", "members.$contains"),
        (json!({"members": null}), "invalid_filter", "members"),
        (json!({"members": {"$exists": true}}), "invalid_filter", "members.$exists"),
        (json!({"member_count": "2"}), "invalid_filter", "member_count"),
        (json!({"last_message_at": {"$in": []}}), "invalid_filter", "last_message_at.$in"),
        (json!({"presence": true}), "invalid_filter", "presence"),
        (json!({"$nor": [{}, {"type": {"$regex": "."}}]}), "invalid_filter", "$nor[1].type.$regex"),
        (json!({"members": {"$in": many}}), "limit_exceeded", "members.$in"),
    ] {
        let refused = stage.client.refused("query_channels", json!({"filter": filter})).await;
        assert_eq!(refused.what(), (code, Some(path)), "{filter}");
    }
    for sort in [json!({"members": 1}), json!({"cid": 2}), json!("cid"), json!({"presence": 1})] {
        let refused = stage.client.refused("query_channels", json!({"sort": sort})).await;
        assert_eq!(refused.code, "invalid_sort", "{sort}");
    }
}

#[tokio::test]
async fn min_rev_reads_what_was_written_on_the_other_daemon() {
    let pair = Pair::start(&[("LIMITS__REQUEST_TIMEOUT", "1s")]).await;
    for n in 0..50 {
        let body = of("c", json!({"members": [format!("u{n}")], "data": {"n": n}}));
        let rev = pair.one.get("upsert_channel", body).await["rev"].take();
        let watched = pair.two.get("watch_channel", of("c", json!({"min_rev": rev}))).await;
        assert_eq!(watched["channel"]["n"], n);
        let filter = json!({"members": {"$contains": format!("u{n}")}});
        let body = json!({"filter": filter, "min_rev": rev});
        let found = pair.two.get("query_channels", body).await;
        assert_eq!(found["channels"], json!([watched["channel"]]));
    }
    let never: Value = json!(last_seq(&pair.one.nats).await + 1000);
    for operation in ["watch_channel", "query_channels"] {
        let body = json!({"min_rev": never});
        let body = if operation == "watch_channel" { of("d", body) } else { body };
        assert_eq!(pair.two.refused(operation, body).await.code, "unavailable");
    }
}
