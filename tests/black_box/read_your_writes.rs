//! Writes on one daemon are read on the other.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::Pair;
use crate::support::stage::NO_GRACE;

#[tokio::test]
async fn a_query_with_min_rev_sees_the_write_on_the_other_daemon() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..200 {
        let (writer, reader) =
            if n % 2 == 0 { (&pair.one, &pair.two) } else { (&pair.two, &pair.one) };
        let answer = writer.upsert(json!({"id": "john", "status": n.to_string()})).await;
        let query = json!({"filter": {"id": "john"}, "min_rev": answer["rev"]});
        assert_eq!(reader.query(query).await[0]["status"], n.to_string());
    }
}

#[tokio::test]
async fn every_write_returns_a_revision_that_shows_it() {
    let pair = Pair::start(NO_GRACE).await;
    let seen = async |rev: &serde_json::Value| {
        let query = json!({"filter": {"id": "john"}, "min_rev": rev});
        pair.two.query(query).await.pop()
    };
    let connected = pair.one.connect_user("john", "c").await;
    assert_eq!(seen(&connected["rev"]).await.unwrap()["online"], true);
    let disconnected = pair.one.disconnect("john", "c").await;
    assert_eq!(seen(&disconnected["rev"]).await.unwrap()["online"], false);
    let unchanged = pair.two.disconnect("john", "c").await;
    assert_eq!(seen(&unchanged["rev"]).await.unwrap()["online"], false);
    let deleted = pair.one.get("delete_users", json!({"ids": ["john"]})).await;
    assert_eq!(seen(&deleted["rev"]).await, None);
}

#[tokio::test]
async fn a_revision_of_the_future_is_unavailable_within_the_request_timeout() {
    let pair = Pair::start(&[("LIMITS__REQUEST_TIMEOUT", "1s")]).await;
    let start = Instant::now();
    let refused = pair.one.refused("query_users", json!({"min_rev": 1_000_000})).await;
    assert_eq!((refused.status, refused.code.as_str()), (503, "unavailable"));
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_query_with_presence_sees_all_that_was_stored_before_it() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..100 {
        let status = n.to_string();
        pair.one.upsert(json!({"id": "john", "status": status})).await;
        assert_eq!(pair.two.see("john").await.unwrap()["status"], status);
    }
}
