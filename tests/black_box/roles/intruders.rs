//! Users' own clients that want more than they are given. Each denial is checked by what the server
//! says, and by its effect.

use serde_json::{Value, json};

use super::guarded::{Guarded, Member, channel, written};
use crate::support::Daemon;

/// A user's client among users who are no business of it.
struct Scene {
    john: Member,
    jack: Member,
    service: Member,
    insider: Member,
    _server: Guarded,
    _daemon: Daemon,
}

impl Scene {
    async fn set() -> Self {
        let settings = &[("LIVENESS__OFFLINE_GRACE", "0s"), ("LIMITS__REQUEST_TIMEOUT", "10s")];
        let (server, daemon, service) = Guarded::served(settings).await;
        let (john, jack) = (server.john_in_a_browser().await, server.jack().await);
        let insider = server.as_daemon().await;
        john.client.get("connect", json!({"connection_id": "c"})).await;
        jack.client.get("connect", json!({"connection_id": "c"})).await;
        channel(&service, "theirs", &["jack", "anna"]).await;
        Self { john, jack, service, insider, _server: server, _daemon: daemon }
    }

    /// Something that changes nothing, of which all that was sent before has arrived when it is
    /// answered.
    async fn settle(&self) {
        self.john.client.get("heartbeat", json!({"connection_id": "c"})).await;
        self.jack.client.get("heartbeat", json!({"connection_id": "c"})).await;
    }

    fn nothing_else_was_refused(&self) {
        for member in [&self.john, &self.jack, &self.service, &self.insider] {
            assert_eq!(member.refusals(), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn do_not_reach_the_bucket() {
    let scene = Scene::set().await;
    let (john, before) = (&scene.john, written(&scene.insider).await);
    let get = json!({"last_by_subj": "$KV.presence.user.jack"});
    john.may_not_say("$JS.API.STREAM.MSG.GET.KV_presence", get).await;
    john.may_not_say("$JS.API.DIRECT.GET.KV_presence.$KV.presence.user.jack", json!({})).await;
    john.may_not_say("$JS.API.STREAM.INFO.KV_presence", json!({})).await;
    john.may_not_say("$JS.API.INFO", json!({})).await;
    let consumer = json!({"stream_name": "KV_presence", "config": {"ack_policy": "none",
        "deliver_policy": "all", "deliver_subject": "_INBOX_john.stolen"}});
    john.may_not_say("$JS.API.CONSUMER.CREATE.KV_presence", consumer).await;
    john.may_not_say("$KV.presence.user.jack", json!({})).await;
    let mut records = john.may_not_hear("$KV.presence.>").await;
    scene.service.client.upsert(json!({"id": "jack", "status": "hi"})).await;
    scene.settle().await;
    assert_eq!(written(&scene.insider).await, before + 1);
    assert_eq!(records.heard(), []);
    scene.nothing_else_was_refused();
}

#[tokio::test]
async fn hear_no_events_requests_or_answers_of_others() {
    let scene = Scene::set().await;
    let (john, jack) = (&scene.john, &scene.jack);
    let mut ears = Vec::new();
    for subject in [
        "user.presence.changed.anna",
        "user.presence.changed.*",
        "user.presence.changed.>",
        "presence.v1.>",
        "presence.v1.*.jack",
        "_INBOX_jack.>",
        "_INBOX_service.>",
        "_INBOX_*.>",
        "_R_.>",
        "$SRV.>",
        ">",
    ] {
        ears.push(john.may_not_hear(subject).await);
    }
    // Jack was not granted the events of John.
    let mut johns = jack.may_not_hear("user.presence.changed.john").await;
    let mut heard_by_service = scene.service.hear("user.presence.changed.*").await;
    scene.service.client.connect_user("anna", "c").await;
    john.client.get("upsert_users", json!({"users": [{"status": "hi"}]})).await;
    jack.client.get("upsert_users", json!({"users": [{"name": "Jack"}]})).await;
    scene.settle().await;
    let told = ["user.presence.changed.anna", "user.presence.changed.john"];
    scene.service.client.see("john").await;
    assert_eq!(heard_by_service.subjects(), told);
    for ears in &mut ears {
        assert_eq!(ears.heard(), []);
    }
    assert_eq!(johns.heard(), []);
    scene.nothing_else_was_refused();
}

#[tokio::test]
async fn do_not_act_for_others_nor_through_the_door_of_services() {
    let scene = Scene::set().await;
    let (john, before) = (&scene.john, written(&scene.insider).await);
    for operation in [
        "connect",
        "update_connection",
        "disconnect",
        "heartbeat",
        "upsert_users",
        "query_users",
        "count_users",
        "query_channels",
        "watch_channel",
        "batch",
        "delete_users",
        "upsert_channel",
        "delete_channel",
        "explain",
    ] {
        let body = json!({"user_id": "jack", "connection_id": "c"});
        john.may_not_say(&format!("presence.v1.{operation}"), body).await;
        john.may_not_say(&format!("presence.v1.{operation}.jack"), json!({})).await;
    }
    // Operations that no client uses have no second door at all, nor has everyone the right to read
    // all.
    for operation in
        ["query_users", "count_users", "batch", "delete_users", "upsert_channel", "explain"]
    {
        john.may_not_say(&format!("presence.v1.{operation}.john"), json!({})).await;
    }
    for verb in ["PING", "INFO", "STATS"] {
        john.may_not_say(&format!("$SRV.{verb}"), json!({})).await;
        john.may_not_say(&format!("$SRV.{verb}.presence"), json!({})).await;
    }
    // Within its own subjects it is the service that refuses.
    let client = &john.client;
    let of_jack = json!({"user_id": "jack", "connection_id": "c"});
    for (operation, body) in [
        ("heartbeat", of_jack.clone()),
        ("disconnect", of_jack),
        ("upsert_users", json!({"users": [{"id": "jack", "status": "x"}]})),
        ("query_channels", json!({"as": "jack"})),
        ("watch_channel", json!({"type": "messaging", "id": "theirs", "as": "jack"})),
        ("connect", json!({"connection_id": "c2", "lease": "gateway"})),
    ] {
        assert_eq!(client.refused(operation, body).await.code, "identity_mismatch");
    }
    let theirs = json!({"type": "messaging", "id": "theirs", "presence": true});
    assert_eq!(client.refused("watch_channel", theirs).await.code, "channel_not_found");
    let found = client.get("query_channels", json!({"presence": true})).await;
    assert_eq!(found["channels"], json!([]));
    assert_eq!(written(&scene.insider).await, before);
    scene.nothing_else_was_refused();
}

#[tokio::test]
async fn spoof_neither_events_nor_beacons_nor_heartbeats() {
    let scene = Scene::set().await;
    let john = &scene.john;
    let mut events = scene.service.hear("user.presence.changed.*").await;
    let mut own_events = scene.jack.hear("user.presence.changed.jack").await;
    let mut internal = scene.insider.hear("presence.internal.v1.>").await;
    let mut heartbeats = scene.insider.hear("presence.v1.heartbeat.*").await;
    let event =
        json!({"type": "user.presence.changed", "user": {"id": "jack", "version": u64::MAX}});
    john.may_not_say("user.presence.changed.jack", event.clone()).await;
    john.may_not_say("user.presence.changed.john", event).await;
    let forged = json!({"daemon": "00000000000000ff", "leaving": true});
    for what in [
        "presence.beacon",
        "presence.lapse",
        "presence.ending",
        "presence.objection.00000000000000ff",
        "fence.1",
    ] {
        john.may_not_say(&format!("presence.internal.v1.{what}"), forged.clone()).await;
    }
    let probe = json!("probe 0 1");
    john.may_not_say("presence.v1.heartbeat.jack", json!({"connection_id": "c"})).await;
    john.may_not_say("presence.v1.heartbeat.probe", probe.clone()).await;
    john.may_not_say("presence.v1.heartbeat", probe).await;
    scene.settle().await;
    scene.service.client.see("john").await;
    written(&scene.insider).await;
    assert_eq!(events.heard(), []);
    assert_eq!(own_events.heard(), []);
    assert!(internal.heard().iter().all(|(_, body)| body["daemon"] != forged["daemon"]));
    // Only those that they sent for themselves.
    let mut heard = heartbeats.subjects();
    heard.retain(|subject| subject != "presence.v1.heartbeat.probe");
    assert_eq!(heard, ["presence.v1.heartbeat.john", "presence.v1.heartbeat.jack"]);
    scene.nothing_else_was_refused();
}

#[tokio::test]
async fn turn_no_answer_into_a_request_or_an_event_of_another() {
    let scene = Scene::set().await;
    let before = written(&scene.insider).await;
    let mut events = scene.jack.hear("user.presence.changed.jack").await;
    let answered = [
        ("heartbeat", json!({"connection_id": "c"})),
        ("query_channels", json!({"filter": {"id": "nowhere"}})),
        ("connect", json!({"connection_id": "c"})),
    ];
    for (operation, body) in answered {
        for reply in [
            "user.presence.changed.jack",
            "presence.v1.disconnect.jack",
            "presence.v1.upsert_users.jack",
            "presence.v1.connect.jack",
            "presence.v1.disconnect",
            "presence.internal.v1.presence.beacon",
            "$KV.presence.user.jack",
        ] {
            let subject = scene.john.client.subject(operation);
            let payload = body.to_string().into();
            let nats = scene.john.nats();
            nats.publish_with_reply(subject, reply.to_owned(), payload).await.unwrap();
        }
    }
    scene.settle().await;
    // Nothing but the refreshes that John asked for, and nothing that Jack would take for an event.
    let record = scene.service.client.see("jack").await.unwrap();
    assert_eq!((&record["online"], &record["status"]), (&json!(true), &Value::Null));
    let connections = scene.service.client.get("explain", json!({"user_id": "jack"})).await;
    assert_eq!(connections["connections"].as_array().unwrap().len(), 1);
    assert_eq!(connections["rev"].as_u64().unwrap_or(u64::MAX).min(before), connections["rev"]);
    // The server lets a client name any place in its account for the answer, this one too.
    for (_, body) in events.heard() {
        assert_ne!(body["type"], "user.presence.changed", "{body}");
        assert!(body.get("user").is_none(), "{body}");
    }
    scene.nothing_else_was_refused();
}

#[tokio::test]
async fn whose_permissions_are_too_wide_are_still_held_by_their_account() {
    let all = |text: String| {
        let publish = text.replacen("\"presence.v1.connect.john\"", "\">\"", 1);
        publish.replacen("\"_INBOX_john.>\"", "\">\"", 1)
    };
    let (server, daemon, service) = Guarded::start_with(all).await.serve(&[]).await;
    let (john, operator) = (server.john().await, server.operator().await);
    let insider = server.as_daemon().await;
    service.client.connect_user("jack", "c").await;
    let mut ears = Vec::new();
    for subject in ["$KV.presence.>", "presence.internal.v1.>", "presence.v1.>", "$SRV.>"] {
        ears.push(john.hear(subject).await);
        ears.push(operator.hear(subject).await);
    }
    ears.push(operator.hear("user.presence.changed.>").await);
    let before = written(&insider).await;
    for subject in [
        "presence.v1.connect",
        "presence.v1.explain",
        "presence.v1.delete_users.john",
        "$JS.API.STREAM.INFO.KV_presence",
        "$JS.API.STREAM.MSG.GET.KV_presence",
    ] {
        let body = json!({"user_id": "jack", "user": {"id": "jack"}, "last_by_subj": "x"});
        // Nobody is there; what John says is heard by himself at most.
        let answer = john.nats().request(subject, body.to_string().into()).await;
        let text = answer.map(|answer| String::from_utf8_lossy(&answer.payload).into_owned());
        assert!(text.as_ref().map_or(true, |text| text.contains("not enabled")), "{text:?}");
    }
    ears.iter_mut().for_each(|ears| ears.heard().clear());
    john.nats().publish("$KV.presence.user.jack", "{}".into()).await.unwrap();
    john.nats().publish("presence.internal.v1.presence.beacon", "{}".into()).await.unwrap();
    john.client.get("connect", json!({"connection_id": "c"})).await;
    service.client.upsert(json!({"id": "jack", "status": "hi"})).await;
    assert_eq!(written(&insider).await, before + 2);
    operator.nats().request("$SYS.REQ.SERVER.PING", Vec::new().into()).await.unwrap();
    john.client.get("heartbeat", json!({"connection_id": "c"})).await;
    let own = [
        "$KV.presence.user.jack",
        "presence.internal.v1.presence.beacon",
        "presence.v1.connect.john",
    ];
    let heard: Vec<_> = ears.iter_mut().flat_map(|ears| ears.subjects()).collect();
    let others = |subject: &&String| {
        !own.contains(&subject.as_str()) && *subject != "presence.v1.heartbeat.john"
    };
    assert_eq!(heard.iter().filter(others).collect::<Vec<_>>(), Vec::<&String>::new());
    daemon.stop().await;
}
