//! A daemon dies in the middle of ending a shared lease.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{AFTER_A_FAULT, LATEST, LEASE, SHORT, connect_on};
use crate::support::heart::Heart;
use crate::support::{Client, Events, Pair, eventually};

const USERS: usize = 3000;
/// Those who do not come back; the first, and every fifth.
const GONE: usize = 5;

fn comes_back(user: usize) -> bool {
    !user.is_multiple_of(GONE)
}

/// The daemon that answers a client.
async fn answering(client: &Client) -> Value {
    client.connect_user("someone", "c").await;
    client.get("explain", json!({"user_id": "someone"})).await["seen_by"].take()
}

/// Connects those users again who come back.
async fn reconnect(client: &Client) {
    let back: Vec<_> = (0..USERS).filter(|user| comes_back(*user)).collect();
    for chunk in back.chunks(1000) {
        let ops: Vec<_> = chunk
            .iter()
            .map(|n| format!("user-{n}"))
            .map(|id| {
                let user = json!({"id": id});
                json!({"op": "connect", "user": user, "connection_id": "c", "lease": "gw"})
            })
            .collect();
        eventually("all are connected", Duration::from_secs(20), async || {
            let answer = client.get("batch", json!({"ops": ops})).await;
            let results = answer["results"].as_array().unwrap();
            results.iter().all(|result| result.get("error").is_none()).then_some(())
        })
        .await;
    }
}

/// Waits until somebody goes offline.
async fn somebody_goes(events: &mut Events) {
    let until = Instant::now() + LEASE + LATEST + AFTER_A_FAULT;
    while events.next_within(until.saturating_duration_since(Instant::now())).await.online {}
}

#[tokio::test]
async fn the_other_ends_the_rest_of_the_lease_but_nobody_who_connected_again() {
    let mut pair = Pair::start(SHORT).await;
    let ids = [answering(&pair.one).await, answering(&pair.two).await];
    let mut endings = pair.one.nats.subscribe("presence.internal.v1.*.ending").await.unwrap();
    // Both have been up for a lease.
    sleep(LEASE + LATEST).await;
    connect_on(&pair.one, "gw", USERS).await;
    let mut events = Events::of_all(&pair.one).await.newer_only();
    somebody_goes(&mut events).await;
    let ending: Value = serde_json::from_slice(&endings.next().await.unwrap().payload).unwrap();
    let dying = usize::from(ending["daemon"] != ids[0]);
    assert_eq!(ending["daemon"], ids[dying], "one of the two began");
    pair.daemons[dying].kill();
    let other = pair.clients()[1 - dying].clone();
    // The other may hear of the end a moment after the subscriber.
    eventually("its end has begun", LATEST, async || {
        let answer = other.get("heartbeat", json!({"lease": "gw"})).await;
        (answer["unknown"] == json!(["gw"]) && answer["held"] == json!(0)).then_some(())
    })
    .await;

    reconnect(&other).await;
    let _heart = Heart::of_lease(&other, "gw");
    let back = (0..USERS).filter(|user| comes_back(*user)).count();
    eventually("only who came back is on it", LEASE + LATEST + AFTER_A_FAULT, async || {
        let answer = other.get("heartbeat", json!({"lease": "gw"})).await;
        (answer["unknown"] == json!([]) && answer["held"] == json!(back)).then_some(())
    })
    .await;
    // Ends that the dead daemon had stored and not announced are announced by the other when it
    // misses it.
    let mut times = HashMap::<String, usize>::new();
    eventually("all who are gone are shown offline", AFTER_A_FAULT, async || {
        for event in events.arrived().into_iter().filter(|event| !event.online) {
            *times.entry(event.id).or_default() += 1;
        }
        let gone = |user: &usize| !comes_back(*user);
        let shown = |user: usize| times.contains_key(&format!("user-{user}"));
        // One of them was seen before the other daemon was killed.
        ((0..USERS).filter(gone).filter(|user| !shown(*user)).count() <= 1).then_some(())
    })
    .await;
    assert!(times.values().all(|times| *times == 1), "nobody goes offline twice");
}
