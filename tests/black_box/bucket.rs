//! The bucket vanishes under two daemons at work: what comes after it is a new truth.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::json;

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Events, Pair, eventually};

/// Daemons make a bucket again that has been missing for five seconds.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);

async fn is_unknown(client: &Client) -> bool {
    let bound = Duration::from_secs(3);
    let connection = json!({"user_id": "john", "connection_id": "c"});
    let answer = client.attempt("heartbeat", connection.clone(), bound).await;
    matches!(answer, Some(Ok(body)) if body["unknown"] == json!([connection]))
}

/// All users are absent; a user that connects again is seen on both daemons.
async fn begin_again(pair: &Pair) {
    for client in pair.clients() {
        eventually("the old connection is unknown", RECOVERY_TIMEOUT, async || {
            is_unknown(client).await.then_some(())
        })
        .await;
        assert_eq!(client.query(json!({"presence": true})).await.len(), 0);
    }
    let mut events = Events::of_all(&pair.one).await;
    for (client, id) in pair.clients().into_iter().zip(["john", "jack"]) {
        client.connect_user(id, "c2").await;
        assert!(events.next().await.online);
    }
    for client in pair.clients() {
        let both = client.see_all(&["john", "jack"]).await;
        assert!(both.len() == 2 && both.iter().all(|user| user["online"] == true), "{both:?}");
    }
}

#[tokio::test]
async fn a_deleted_bucket_is_made_again_and_all_users_are_absent() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..50 {
        pair.one.connect_user(&format!("u{n}"), "c").await;
    }
    pair.one.connect_user("john", "c").await;
    let js = jetstream::new(pair.one.nats.clone());
    js.delete_stream("KV_presence").await.unwrap();
    begin_again(&pair).await;
}

#[tokio::test]
async fn a_bucket_that_was_replaced_at_once_is_a_new_truth() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..50 {
        pair.one.connect_user(&format!("u{n}"), "c").await;
    }
    pair.one.connect_user("john", "c").await;
    let js = jetstream::new(pair.one.nats.clone());
    let config = js.get_stream("KV_presence").await.unwrap().cached_info().config.clone();
    js.delete_stream("KV_presence").await.unwrap();
    js.create_stream(config).await.unwrap();
    begin_again(&pair).await;
}

#[tokio::test]
async fn while_the_bucket_is_gone_requests_are_unavailable_in_time() {
    let pair = Pair::start(&[("LIMITS__REQUEST_TIMEOUT", "1s")]).await;
    pair.one.connect_user("john", "c").await;
    let js = jetstream::new(pair.one.nats.clone());
    js.delete_stream("KV_presence").await.unwrap();
    let bound = Duration::from_millis(1500);
    for (operation, body) in [
        ("connect", json!({"user": {"id": "jack"}, "connection_id": "c"})),
        ("query_users", json!({"presence": true})),
    ] {
        let answer = pair.one.attempt(operation, body, bound).await;
        let refused = answer.expect("an answer in time").unwrap_err();
        assert_eq!(refused.code, "unavailable", "{operation}: {refused:?}");
    }
}
