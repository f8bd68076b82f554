//! The role that backs up, restores and edits the bucket.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::guarded::Guarded;
use crate::support::within;

const BOUND: Duration = Duration::from_secs(20);

async fn api(nats: &async_nats::Client, what: &str, body: Value) -> Value {
    let payload = body.to_string().into_bytes().into();
    let reply = nats.request(format!("$JS.API.STREAM.{what}.KV_presence"), payload).await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert!(answer.get("error").is_none(), "{what}: {answer}");
    answer
}

#[tokio::test]
async fn the_keeper_saves_edits_and_restores_the_bucket_and_reads_no_record() {
    let (guarded, daemon, service) = Guarded::served(&[]).await;
    let body = json!({"users": [{"id": "john", "status": "saved"}]}).to_string();
    let upsert = service.nats().request("presence.v1.upsert_users", body.into());
    within("the user is stored", BOUND, upsert).await.unwrap();
    let keeper = guarded.keeper().await;
    let nats = keeper.nats();

    let inbox = nats.new_inbox();
    let mut arriving = nats.subscribe(inbox.clone()).await.unwrap();
    let body = json!({"deliver_subject": inbox, "no_consumers": true});
    let snapshot = api(nats, "SNAPSHOT", body).await;
    let mut chunks = Vec::new();
    loop {
        let chunk = within("a chunk of the snapshot", BOUND, arriving.next()).await.unwrap();
        if chunk.payload.is_empty() {
            break;
        }
        if let Some(acknowledge) = chunk.reply {
            nats.publish(acknowledge, Bytes::new()).await.unwrap();
        }
        chunks.push(chunk.payload);
    }
    let mut config = api(nats, "INFO", json!({})).await["config"].clone();
    config["description"] = json!("edited");
    assert_eq!(api(nats, "UPDATE", config).await["config"]["description"], "edited");

    daemon.stop().await;
    api(nats, "DELETE", json!({})).await;
    let about = json!({"config": snapshot["config"], "state": snapshot["state"]});
    let answer = api(nats, "RESTORE", about).await;
    let to = answer["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in chunks.into_iter().chain([Bytes::new()]) {
        nats.request(to.clone(), chunk).await.unwrap();
    }
    assert_eq!(api(nats, "INFO", json!({})).await["state"]["messages"], 1);
    let _daemon = guarded.daemon(&[], &service).await;
    assert_eq!(service.client.see("john").await.unwrap()["status"], "saved");

    for subject in ["$JS.API.STREAM.MSG.GET.KV_presence", "$JS.API.DIRECT.GET.KV_presence"] {
        let read = nats.request(subject, r#"{"seq":1}"#.into());
        let read = tokio::time::timeout(Duration::from_secs(2), read).await;
        assert!(!matches!(read, Ok(Ok(_))), "{subject}: {read:?}");
    }
}

#[tokio::test]
async fn the_keeper_writes_no_record_hears_nobody_and_touches_no_other_stream() {
    let (guarded, _daemon, _service) = Guarded::served(&[]).await;
    let keeper = guarded.keeper().await;
    keeper.may_not_say("$KV.presence.user.john", json!({})).await;
    keeper.may_not_say("$JS.API.STREAM.PURGE.KV_presence", json!({})).await;
    keeper.may_not_say("$JS.API.STREAM.CREATE.OTHER", json!({"name": "OTHER"})).await;
    keeper.may_not_say("$JS.API.STREAM.DELETE.OTHER", json!({})).await;
    keeper.may_not_say("presence.v1.upsert_users", json!({"users": [{"id": "john"}]})).await;
    for subject in ["presence.v1.>", "user.presence.changed.*", "$KV.presence.>"] {
        keeper.may_not_hear(subject).await;
    }
}
