//! Members in the answers about channels: deleted users, invisible users, and their viewers.

use serde_json::{Value, json};

use crate::support::channels::{members, of, user};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Events, Pair};

/// The channel `messaging:c`, by a watch and by queries that lead to it on different ways; all
/// must show the same.
async fn shown(client: &Client, viewer: Option<&str>) -> Value {
    let mut body = json!({"presence": true});
    if let Some(viewer) = viewer {
        body["as"] = json!(viewer);
    }
    let watched = client.get("watch_channel", of("c", body.clone())).await["channel"].take();
    for filter in [json!({}), json!({"cid": "messaging:c"}), json!({"members": {"$in": ["john"]}})]
    {
        body["filter"] = filter;
        let mut found = client.get("query_channels", body.clone()).await["channels"][0].take();
        found.as_object_mut().unwrap().remove("presence");
        assert_eq!(found, watched);
    }
    watched
}

/// A member who does not exist.
fn gone(id: &str, version: &Value) -> Value {
    json!({"id": id, "online": false, "status": null, "last_active": null,
        "offline_since": null, "availability": "offline", "version": version})
}

#[tokio::test]
async fn members_are_shown_as_they_are_on_both_daemons() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ["john", "jack"]})).await;
    let nobody = |id| gone(id, &json!(0));
    let channel = shown(&pair.two, None).await;
    assert_eq!(
        (user(&channel, "john"), user(&channel, "jack")),
        (&nobody("john"), &nobody("jack"))
    );
    pair.one.connect_user("john", "c").await;
    pair.two.upsert(json!({"id": "jack", "status": "s", "name": "Jack"})).await;
    for client in pair.clients() {
        let channel = shown(client, None).await;
        for id in ["john", "jack"] {
            assert_eq!(*user(&channel, id), client.see(id).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_deleted_member_is_offline_with_the_version_that_the_deletion_left() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ["john", "jack"]})).await;
    pair.one
        .get("connect", json!({"user": {"id": "john", "status": "s"}, "connection_id": "c"}))
        .await;
    let mut events = Events::of_all(&pair.one).await;
    pair.one.get("delete_users", json!({"ids": ["john"]})).await;
    let nobody = gone("john", &json!(events.only().version));
    for client in pair.clients() {
        for viewer in [None, Some("john")] {
            let channel = shown(client, viewer).await;
            assert_eq!(members(&channel), ["john", "jack"]);
            assert_eq!(*user(&channel, "john"), nobody);
        }
    }
}

#[tokio::test]
async fn an_invisible_member_is_offline_in_every_answer_but_its_own() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ["john", "jack"]})).await;
    pair.one.connect_user("jack", "c").await;
    pair.one
        .get("connect", json!({"user": {"id": "john", "invisible": true}, "connection_id": "c"}))
        .await;
    for client in pair.clients() {
        for viewer in [None, Some("jack"), Some("stranger")] {
            let channel = shown(client, viewer).await;
            let john = user(&channel, "john");
            assert_eq!((&john["online"], &john["last_active"]), (&json!(false), &Value::Null));
            assert!(john.get("invisible").is_none());
            assert_eq!(*john, client.see("john").await.unwrap());
        }
        let own = shown(client, Some("john")).await;
        assert_eq!(*user(&own, "john"), client.see_as("john", "john").await.unwrap());
        assert_eq!(user(&own, "john")["online"], true);
        assert_eq!(user(&own, "john")["invisible"], true);
        let by_jack = client.of("jack").get("watch_channel", of("c", json!({}))).await;
        assert_eq!(user(&by_jack["channel"], "john")["online"], false);
        let own = client.of("john").get("watch_channel", of("c", json!({}))).await;
        assert_eq!(user(&own["channel"], "john")["online"], true);
        let upserted = client.channel("c", json!({})).await;
        assert_eq!(user(&upserted, "john")["online"], false);
    }
}

#[tokio::test]
async fn actions_of_invisible_users_change_no_byte_that_others_see_of_channels() {
    let pair = Pair::start(NO_GRACE).await;
    let (one, two) = (&pair.one, &pair.two);
    one.upsert(json!({"id": "john", "invisible": true, "status": "s"})).await;
    one.channel("c", json!({"members": ["john", "jack"]})).await;
    one.channel("d", json!({"members": ["jack"]})).await;
    let jack = two.of("jack");
    let sorts = [json!({"updated_at": -1}), json!({"member_count": 1}), json!({"cid": -1})];
    let mut told = Vec::new();
    for round in 0..3 {
        let mut answers = vec![
            two.raw(
                two.subject("watch_channel"),
                of("c", json!({"presence": true})).to_string().into(),
            )
            .await,
        ];
        for sort in &sorts {
            let body = json!({"presence": true, "sort": sort}).to_string();
            for client in [two, &jack] {
                answers
                    .push(client.raw(client.subject("query_channels"), body.clone().into()).await);
            }
        }
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.payload).collect();
        if round == 0 {
            told = answers;
        } else {
            assert_eq!(answers, told, "round {round}");
        }
        if round == 0 {
            one.connect_user("john", "c").await;
            one.get("heartbeat", json!({"user_id": "john", "connection_id": "c"})).await;
        } else {
            one.disconnect("john", "c").await;
        }
    }
}

#[tokio::test]
async fn no_filter_or_order_of_channels_knows_of_online() {
    let pair = Pair::start(NO_GRACE).await;
    pair.one.channel("c", json!({"members": ["john"]})).await;
    pair.one.channel("d", json!({"members": ["jack"], "data": {"online": true}})).await;
    pair.one.connect_user("john", "c").await;
    for filter in [json!({"online": true}), json!({"online": {"$exists": true}})] {
        assert_eq!(pair.two.find(json!({"filter": filter})).await, ["d"], "a custom field");
    }
    for field in ["last_active", "invisible", "status", "members.user.online"] {
        let filter = json!({field: {"$exists": true}});
        assert_eq!(pair.two.find(json!({"filter": filter})).await.len(), 0, "{field}");
        assert_eq!(pair.two.find(json!({"sort": {field: -1}})).await, ["c", "d"]);
    }
}
