//! Channels through the second door: a client is told only of the channels that it is in.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::channels::{members, of, pair_with_types};
use crate::support::client::read;
use crate::support::server::last_seq;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Pair, keys};

/// An answer to a watch, byte for byte. Its headers have no order.
async fn watched(client: &Client, body: &Value) -> (BTreeSet<String>, Vec<u8>) {
    let answer = client.raw(client.subject("watch_channel"), body.to_string().into_bytes()).await;
    let headers = answer.headers.unwrap_or_default();
    let headers = headers.iter().map(|(name, values)| format!("{name}: {values:?}")).collect();
    (headers, answer.payload.to_vec())
}

#[tokio::test]
async fn a_channel_of_others_and_one_that_is_missing_are_the_same_byte_for_byte() {
    let pair = Pair::start(NO_GRACE).await;
    let data = json!({"color": "green", "big": "x".repeat(4000)});
    pair.one.channel("there", json!({"members": ["john"], "data": data})).await;
    let written = last_seq(&pair.one.nats).await;
    for client in pair.clients() {
        let eve = client.of("eve");
        for more in [
            json!({}),
            json!({"presence": true}),
            json!({"users": ["john"]}),
            json!({"users": ["eve"], "presence": true}),
            json!({"users": ["nobody"], "member_limit": 1}),
            json!({"as": "eve", "data": {"members": ["eve"], "color": "red"}}),
            json!({"data": {"members": ["john"], "big": "x".repeat(6000)}}),
        ] {
            let there = watched(&eve, &of("there", more.clone())).await;
            assert_eq!(there, watched(&eve, &of("elsewhere", more.clone())).await, "{more}");
            let refused = eve.refused("watch_channel", of("there", more)).await;
            assert_eq!((refused.status, &*refused.code), (404, "channel_not_found"));
        }
    }
    assert_eq!(last_seq(&pair.one.nats).await, written);
}

#[tokio::test]
async fn a_member_watches_and_loses_it_with_its_membership() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, john) = (&pair.one, pair.two.of("john"));
    one.channel("c", json!({"members": ["jack", "john"]})).await;
    let answer =
        john.get("watch_channel", of("c", json!({"users": ["jack"], "presence": true}))).await;
    assert_eq!(keys(&answer), ["channel", "presence"].into());
    assert_eq!(members(&answer["channel"]), ["jack", "john"]);
    assert_eq!(answer["presence"]["users"], json!(["jack"]));
    for n in 0..20 {
        let id = format!("c{n}");
        one.channel(&id, json!({"members": ["john"]})).await;
        john.get("watch_channel", of(&id, json!({}))).await;
        one.channel(&id, json!({"remove_members": ["john"]})).await;
        let refused = john.refused("watch_channel", of(&id, json!({}))).await;
        assert_eq!(refused.code, "channel_not_found");
    }
    assert_eq!(john.find(json!({})).await, ["c"]);
}

#[tokio::test]
async fn a_query_finds_only_channels_that_the_user_is_in_whatever_it_asks_for() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("johns", json!({"members": ["john"], "data": {"color": "green"}})).await;
    pair.one.channel("both", json!({"members": ["john", "eve"], "data": {"color": "blue"}})).await;
    pair.one.channel("nobodys", json!({"data": {"color": "green"}})).await;
    for client in pair.clients() {
        let eve = client.of("eve");
        for (filter, found) in [
            (json!({}), &["both"][..]),
            (json!({"cid": "messaging:johns"}), &[]),
            (json!({"cid": {"$in": ["messaging:johns", "messaging:both"]}}), &["both"]),
            (json!({"$or": [{"cid": "messaging:johns"}, {"cid": "messaging:nobodys"}]}), &[]),
            (json!({"members": {"$contains": "john"}}), &["both"]),
            (json!({"members": {"$in": ["john", "nobody"]}}), &["both"]),
            (json!({"members": ["john"]}), &[]),
            (json!({"members": []}), &[]),
            (json!({"$nor": [{"members": {"$contains": "eve"}}]}), &[]),
            (json!({"$nor": [{"cid": "messaging:both"}]}), &[]),
            (json!({"$nor": [{"color": "blue"}, {"type": "x"}]}), &[]),
            (json!({"color": {"$ne": "blue"}}), &[]),
            (json!({"member_count": {"$lt": 2}}), &[]),
        ] {
            for sort in [json!({"cid": 1}), json!({"color": -1}), json!({"member_count": 1})] {
                let body = json!({"filter": filter, "sort": sort});
                assert_eq!(eve.find(body.clone()).await, found, "{body}");
            }
        }
        let answer = eve.get("query_channels", json!({"presence": true})).await;
        assert_eq!(answer["presence"]["users"], json!(["john", "eve"]));
        let stranger = client.of("stranger");
        assert_eq!(stranger.find(json!({})).await.len(), 0);
    }
}

#[tokio::test]
async fn a_query_there_sees_all_that_was_stored_before_it() {
    let pair = Pair::start(NO_GRACE).await;
    let john = pair.two.of("john");
    for n in 0..50 {
        pair.one.channel(&format!("c{n:02}"), json!({"members": ["john"]})).await;
        let newest = json!({"sort": {"id": -1}, "limit": 1});
        let found = john.get("query_channels", newest).await;
        assert_eq!(found["channels"][0]["id"], format!("c{n:02}"));
    }
}

#[tokio::test]
async fn a_type_may_let_clients_make_channels_and_be_in_them() {
    let pair = pair_with_types(NO_GRACE).await;
    let team = |id: &str, more: Value| {
        let mut body = of(id, more);
        body["type"] = json!("team");
        body
    };
    let john = pair.one.of("john");
    for (id, data, expected) in [
        ("a", json!({}), &["john"][..]),
        ("b", json!({"members": ["jack", "ann"], "color": "green"}), &["john", "jack", "ann"]),
        ("c", json!({"members": ["jack", "john"]}), &["jack", "john"]),
    ] {
        let body = team(id, json!({"data": data, "presence": true}));
        let made = john.get("watch_channel", body).await;
        assert_eq!(members(&made["channel"]), expected);
        assert_eq!(made["presence"]["users"], json!(expected));
        assert_eq!(made["channel"]["color"], data["color"]);
        let again = pair.two.of("john").get("watch_channel", team(id, json!({}))).await;
        assert_eq!(again["channel"], made["channel"]);
        let refused =
            pair.two.of("eve").refused("watch_channel", team(id, json!({"data": data}))).await;
        assert_eq!(refused.code, "channel_not_found");
    }
    let refused = john.refused("watch_channel", of("a", json!({}))).await;
    assert_eq!(refused.code, "channel_not_found", "another type is not to be made by clients");
}

#[tokio::test]
async fn of_two_clients_that_make_the_same_channel_one_does_not_learn_of_it() {
    let pair = pair_with_types(NO_GRACE).await;
    for n in 0..20 {
        let body = json!({"type": "team", "id": format!("c{n}")});
        let (a, b) = (pair.one.of("a"), pair.two.of("b"));
        let answers =
            tokio::join!(a.ask("watch_channel", body.clone()), b.ask("watch_channel", body));
        let ((Ok(made), Err(refused)) | (Err(refused), Ok(made))) = answers else {
            panic!("not one of each: {answers:?}");
        };
        assert_eq!(
            (&made["channel"]["member_count"], &*refused.code),
            (&json!(1), "channel_not_found")
        );
    }
}

#[tokio::test]
async fn trusted_fields_are_forbidden_in_the_data_of_a_client() {
    let pair = pair_with_types(&[("LIMITS__TRUSTED_FIELDS", "role")]).await;
    let written = last_seq(&pair.one.nats).await;
    let body = json!({"type": "team", "id": "c", "data": {"role": "admin", "color": "green"}});
    let refused = pair.one.of("john").refused("watch_channel", body.clone()).await;
    assert_eq!(refused.what(), ("forbidden_field", Some("data.role")));
    assert_eq!(last_seq(&pair.one.nats).await, written);
    let made = pair.one.get("watch_channel", body).await;
    assert_eq!(made["channel"]["role"], "admin");
}

#[tokio::test]
async fn another_viewer_a_revision_and_the_trusted_operations_are_refused() {
    let pair = pair_with_types(NO_GRACE).await;
    let john = pair.one.of("john");
    let written = last_seq(&pair.one.nats).await;
    for (operation, body) in
        [("watch_channel", json!({"type": "team", "id": "c"})), ("query_channels", json!({}))]
    {
        let with = |name: &str, value: Value| {
            let mut body = body.clone();
            body[name] = value;
            body
        };
        let refused = john.refused(operation, with("as", json!("jack"))).await;
        assert_eq!(refused.what(), ("identity_mismatch", Some("as")));
        let refused = john.refused(operation, with("min_rev", json!(1))).await;
        assert_eq!(refused.what(), ("invalid_request", Some("min_rev")));
        let refused = john.refused(operation, with("lease", json!("l"))).await;
        assert_eq!(refused.what(), ("identity_mismatch", Some("lease")), "in every operation");
    }
    for operation in ["upsert_channel", "delete_channel"] {
        let refused = john.refused(operation, of("c", json!({}))).await;
        assert_eq!(refused.code, "invalid_request");
    }
    assert_eq!(last_seq(&pair.one.nats).await, written);
    let subject = format!("{}.=6Aohn", pair.one.subject("watch_channel"));
    let answer = pair.one.raw(subject, of("c", json!({})).to_string().into_bytes()).await;
    assert_eq!(read(&answer).unwrap_err().code, "invalid_id");
}
