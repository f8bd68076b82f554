//! Trusted services: any user, all events, and nothing of the daemons' own.

use std::time::Duration;

use serde_json::{Value, json};

use super::guarded::{Guarded, written};
use crate::support::{Events, eventually};

#[tokio::test]
async fn act_for_any_user_hear_all_events_and_find_the_daemons() {
    let (server, daemon, service) = Guarded::served(&[("LIVENESS__OFFLINE_GRACE", "0s")]).await;
    let mut events = service.hear("user.presence.changed.*").await;
    service.client.connect_user("john", "c").await;
    service.client.connect_user("jack", "c").await;
    // Through the second door as well, as a gateway may for the user whose socket it holds.
    service.client.of("anna").get("connect", json!({"connection_id": "c"})).await;
    let heard = events.subjects();
    assert_eq!(heard, ["john", "jack", "anna"].map(|id| format!("user.presence.changed.{id}")));
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        for whom in ["", ".presence"] {
            let subject = format!("$SRV.{verb}{whom}");
            let answer = service.nats().request(subject, Vec::new().into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{kind}_response"));
        }
    }
    daemon.stop().await;
    assert_eq!(service.refusals(), Vec::<String>::new());
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn reach_neither_the_bucket_nor_what_daemons_say() {
    let (server, daemon, service) = Guarded::served(&[]).await;
    service.client.connect_user("john", "c").await;
    let insider = server.as_daemon().await;
    let mut internal = insider.hear("presence.internal.v1.presence.beacon").await;
    let before = written(&insider).await;

    let get = json!({"last_by_subj": "$KV.presence.user.john"});
    service.may_not_say("$JS.API.STREAM.MSG.GET.KV_presence", get).await;
    service.may_not_say("$JS.API.DIRECT.GET.KV_presence.$KV.presence.user.john", json!({})).await;
    service.may_not_say("$JS.API.STREAM.INFO.KV_presence", json!({})).await;
    service.may_not_say("$JS.API.CONSUMER.CREATE.KV_presence", json!({})).await;
    service.may_not_say("$KV.presence.user.john", json!({})).await;
    let beacon = json!({"daemon": "00000000000000ff"});
    service.may_not_say("presence.internal.v1.presence.beacon", beacon.clone()).await;
    let event = json!({"type": "user.presence.changed", "user": {"id": "john", "online": false}});
    service.may_not_say("user.presence.changed.john", event).await;
    let mut bucket = service.may_not_hear("$KV.presence.>").await;
    let mut beacons = service.may_not_hear("presence.internal.v1.>").await;
    let mut requests = service.may_not_hear("presence.v1.>").await;
    let mut stolen = service.may_not_join("presence.v1.>", "presenced").await;
    let mut answers = service.may_not_hear("_INBOX_other.>").await;

    service.client.upsert(json!({"id": "john", "status": "hi"})).await;
    assert_eq!(written(&insider).await, before + 1);
    for ears in [&mut bucket, &mut beacons, &mut requests, &mut stolen, &mut answers] {
        assert_eq!(ears.heard(), []);
    }
    assert!(internal.heard().iter().all(|(_, body)| body["daemon"] != beacon["daemon"]));
    assert_eq!(service.refusals(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test]
async fn receive_events_as_the_protocol_has_them() {
    let (_server, daemon, service) = Guarded::served(&[]).await;
    let mut events = Events::unsettled(&service.client, "user.presence.changed.*").await;
    service.client.connect_user("john", "c").await;
    assert!(events.only().online);
    daemon.stop().await;
}

#[tokio::test]
async fn hear_the_counts_that_daemons_announce() {
    let settings = [("CHANNEL_TYPES__TEAM__OCCUPANCY_INTERVAL", "200ms")];
    let (server, daemon, service) = Guarded::served(&settings).await;
    let mut counts = service.hear("channel.presence.changed.*.*").await;
    let channel = json!({"type": "team", "id": "a", "members": ["john"]});
    service.client.get("upsert_channel", channel).await;
    let heard = eventually("a count", Duration::from_secs(8), async || {
        Some(counts.subjects()).filter(|subjects| !subjects.is_empty())
    });
    assert_eq!(heard.await[0], "channel.presence.changed.team.a");
    service.may_not_say("channel.presence.changed.team.a", json!({})).await;
    daemon.stop().await;
    assert_eq!(server.violations().len(), 1, "that of the service");
}
