//! `last_active` of who is connected does not grow old.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{SHORT, connect_on};
use crate::support::heart::Heart;
use crate::support::wait::wall_ms;
use crate::support::{Client, Stage};

const REFRESH: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(9);

fn age_ms(user: &Value) -> u64 {
    let at: DateTime<Utc> = user["last_active"].as_str().unwrap().parse().unwrap();
    wall_ms().saturating_sub(u64::try_from(at.timestamp_millis()).unwrap())
}

async fn never_older(client: &Client, ids: &[&str], bound: Duration) -> u64 {
    let (start, mut oldest) = (Instant::now(), 0);
    while start.elapsed() < WATCHED {
        for user in client.see_all(ids).await {
            oldest = oldest.max(age_ms(&user));
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(u128::from(oldest) <= bound.as_millis(), "{oldest} ms old");
    oldest
}

#[tokio::test]
async fn it_is_never_older_than_the_refresh_and_an_interval_and_that_is_no_event() {
    let settings = [SHORT, &[("LIVENESS__LAST_ACTIVE_REFRESH", "2s")]].concat();
    let mut stage = Stage::start(&settings).await;
    stage.client.connect_user("john", "c").await;
    connect_on(&stage.client, "gw", 20).await;
    assert_eq!(stage.events.arrived().len(), 21);
    let _hearts = [Heart::of(&stage.client, "john", "c"), Heart::of_lease(&stage.client, "gw")];
    let ids: Vec<_> = (0..20).map(|n| format!("user-{n}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let (own, shared) = tokio::join!(
        never_older(&stage.client, &["john"], REFRESH + INTERVAL),
        never_older(&stage.client, &ids, REFRESH + Duration::from_secs(2)),
    );
    let least = u64::try_from(REFRESH.as_millis()).unwrap() / 2;
    assert!(own > least && shared > least, "it is refreshed only when it is due: {own}, {shared}");
    assert_eq!(stage.events.arrived().len(), 0);
    let users = stage.client.query(json!({"filter": {"online": true}, "presence": true})).await;
    assert_eq!(users.len(), 21);
}
