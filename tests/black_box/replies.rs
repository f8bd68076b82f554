//! Requests whose answer would be written to a place that is not the requester's are dropped:
//! neither executed nor answered.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::support::Stage;
use crate::support::stage::NO_GRACE;

const FORBIDDEN: [&str; 12] = [
    "$KV.presence.user.x",
    "$JS.API.STREAM.DELETE.KV_presence",
    "$x",
    "user.presence.changed.john",
    "user.presence.changed",
    "channel.presence.changed.messaging.x",
    "channel.presence.changed",
    "presence.internal.v1.x",
    "presence.internal.v1.beacon",
    "presence.v1.connect",
    "presence.v1.connect.john",
    "presence.v1",
];

#[tokio::test]
async fn a_request_with_a_forbidden_reply_subject_is_dropped() {
    let mut stage = Stage::start(NO_GRACE).await;
    let (client, nats) = (stage.client.clone(), stage.client.nats.clone());
    let mut heard = nats.subscribe(">").await.unwrap();
    client.settle().await;
    let before = stage.written().await;
    for (n, reply) in FORBIDDEN.into_iter().enumerate() {
        let user = format!("forged-{n}");
        for body in [json!({"user": {"id": user}}), json!({"user": 7})] {
            let (subject, body) = (client.subject("connect"), body.to_string().into());
            nats.publish_with_reply(subject, reply, body).await.unwrap();
        }
    }
    // A later request over the same connection reaches the one daemon later.
    client.connect_user("john", "c").await;
    client.settle().await;
    assert_eq!(stage.events.only().id, "john");
    assert_eq!(stage.written().await, before + 1);
    assert_eq!(client.query(json!({"presence": true})).await.len(), 1);
    while let Some(Some(message)) = tokio::task::unconstrained(heard.next()).now_or_never() {
        let body = String::from_utf8_lossy(&message.payload);
        let is_answer = body.contains("\"me\"") || body.contains("\"error\"");
        let is_forbidden = FORBIDDEN.contains(&message.subject.as_str());
        assert!(!is_answer || !is_forbidden, "answered on {}: {body}", message.subject);
    }
}

#[tokio::test]
async fn a_name_that_only_begins_alike_is_no_forbidden_reply() {
    let stage = Stage::start(NO_GRACE).await;
    let (client, nats) = (&stage.client, &stage.client.nats);
    for reply in
        ["presence.v2.x", "presence.v10", "user.presence.changedx", "presence.internal.v10"]
    {
        let mut answers = nats.subscribe(reply).await.unwrap();
        let body = json!({"user": {"id": "john"}}).to_string().into();
        nats.publish_with_reply(client.subject("connect"), reply, body).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(5), answers.next()).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer on {reply}")).unwrap();
        crate::support::client::read(&answer).unwrap();
    }
}

#[tokio::test]
async fn a_request_without_a_reply_subject_is_executed() {
    let mut stage = Stage::start(NO_GRACE).await;
    let body = json!({"user": {"id": "john"}, "connection_id": "c"}).to_string().into();
    stage.client.nats.publish(stage.client.subject("connect"), body).await.unwrap();
    assert_eq!(stage.events.next().await.id, "john");
}
