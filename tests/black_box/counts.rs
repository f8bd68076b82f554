//! `online_count`: how many members of a channel the viewer sees online.

use serde_json::{Value, json};

use crate::support::channels::{of, pair_with_types};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Stage};

/// The counts that a watch and a query show, which must be the same.
async fn counts(client: &Client, viewer: Option<&str>) -> (Value, Value) {
    let mut body = json!({"presence": true, "online_count": true, "member_limit": 1});
    if let Some(viewer) = viewer {
        body["as"] = json!(viewer);
    }
    let watched = client.get("watch_channel", of("c", body.clone())).await["channel"].take();
    body["filter"] = json!({"cid": "messaging:c"});
    let found = client.get("query_channels", body).await["channels"][0].take();
    let shown =
        |channel: &Value| (channel["online_count"].clone(), channel["member_count"].clone());
    assert_eq!(shown(&watched), shown(&found));
    shown(&watched)
}

#[tokio::test]
async fn all_members_are_counted_and_invisible_ones_only_for_themselves() {
    let stage = Stage::start(NO_GRACE).await;
    let client = &stage.client;
    client.channel("c", json!({"members": ["ann", "bob", "eve", "nobody"]})).await;
    assert_eq!(counts(client, None).await, (json!(0), json!(4)));
    client.connect_user("ann", "c").await;
    client.connect_user("bob", "c").await;
    client.connect_user("stranger", "c").await;
    let unseen = json!({"user": {"id": "eve", "invisible": true}, "connection_id": "c"});
    client.get("connect", unseen).await;
    for (viewer, count) in [(None, 2), (Some("ann"), 2), (Some("stranger"), 2), (Some("eve"), 3)] {
        assert_eq!(counts(client, viewer).await.0, count, "{viewer:?}");
    }
    client.upsert(json!({"id": "bob", "invisible": true})).await;
    assert_eq!(counts(client, None).await.0, 1);
    client.get("delete_users", json!({"ids": ["ann"]})).await;
    assert_eq!(counts(client, Some("bob")).await.0, 1);
    let own = client.of("eve").get("watch_channel", of("c", json!({"online_count": true}))).await;
    assert_eq!(own["channel"]["online_count"], 1);
}

#[tokio::test]
async fn a_count_is_shown_where_it_is_asked_for_and_the_type_has_presence() {
    let pair = pair_with_types(NO_GRACE).await;
    let plain = pair.one.channel("c", json!({"members": ["ann"]})).await;
    assert!(plain.get("online_count").is_none());
    let made = json!({"type": "messaging", "id": "new", "online_count": true,
        "data": {"members": ["ann"]}});
    let made = pair.two.get("watch_channel", made).await;
    assert_eq!(made["channel"]["online_count"], 0, "of a channel that the request makes");
    let live = json!({"type": "livestream", "id": "l", "online_count": true});
    let live = pair.one.get("watch_channel", live).await;
    assert_eq!(live["channel"]["presence_disabled"], true);
    assert!(live["channel"].get("online_count").is_none(), "{live}");
    let wrong = of("c", json!({"online_count": 1}));
    let refused = pair.one.refused("watch_channel", wrong).await;
    assert_eq!(refused.what(), ("invalid_request", Some("online_count")));
}

#[tokio::test]
async fn thousands_of_members_are_counted() {
    let stage = Stage::start(NO_GRACE).await;
    for batch in 0..15 {
        let ids: Vec<_> = (0..100).map(|n| format!("u{}", 100 * batch + n)).collect();
        stage.client.channel("c", json!({"add_members": ids})).await;
        let connect = |id: &String| json!({"op": "connect", "user": {"id": id}, "lease": "gw"});
        let ops: Vec<_> = ids.iter().step_by(2).map(connect).collect();
        stage.client.get("batch", json!({"ops": ops})).await;
    }
    assert_eq!(counts(&stage.client, None).await, (json!(750), json!(1500)));
}
