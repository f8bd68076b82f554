//! Audits: events that do not arrive are found by queries.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use presenced_client::{CustomFields, Patch, Service, Watch, WatchState};
use serde_json::Value;
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);
const AUDIT: Option<Duration> = Some(Duration::from_millis(200));

async fn is<F: CustomFields, K>(watch: &Watch<F, K>, wanted: fn(&WatchState) -> bool) {
    let mut states = watch.states();
    let found = async { drop(states.wait_for(wanted).await.unwrap()) };
    let found = tokio::time::timeout(SOON, found).await;
    assert!(found.is_ok(), "{:?}", watch.state());
}

#[tokio::test]
async fn a_missed_event_is_shown_and_degrades_the_watch_until_a_round_misses_none() {
    let server = Server::start().await;
    let _daemon = Daemon::start_with(&server.url(), &[("SUBJECTS__EVENTS", "elsewhere")]).await;
    let service = Service::builder(server.connect().await).audit(AUDIT).build();
    let upsert = async |status: &str| {
        service.upsert([Patch::new().status(status).of("jack").unwrap()]).await.unwrap();
    };
    upsert("one").await;
    let watch = service.watch(["jack"]).unwrap();
    let all = service.watch_all();
    watch.live().await.unwrap();
    all.live().await.unwrap();
    assert_eq!((watch.state(), all.state()), (WatchState::Live, WatchState::Live));
    upsert("two").await;
    is(&watch, |state| matches!(state, WatchState::Degraded(_))).await;
    watch.live().await.unwrap();
    assert_eq!(watch.get("jack").unwrap().status.as_deref(), Some("two"));
    eventually("the watch of all shows it", SOON, async || {
        all.get("jack").filter(|jack| jack.status.as_deref() == Some("two"))
    })
    .await;
    assert!(service.stats().missed > 0);
    is(&watch, |state| *state == WatchState::Live).await;
    is(&all, |state| *state == WatchState::Live).await;
}

#[tokio::test]
async fn audits_go_round_all_users_one_chunk_after_the_other() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let nats = server.connect().await;
    let service = Service::builder(nats.clone()).audit(AUDIT).build();
    let names: BTreeSet<_> = (0..250).map(|n| format!("u{n}")).collect();
    let watch = service.watch(&names).unwrap();
    watch.live().await.unwrap();
    let mut queries = nats.subscribe("presence.v1.query_users").await.unwrap();
    for round in 0..2 {
        let mut asked = BTreeSet::new();
        for _ in 0..3 {
            let query = tokio::time::timeout(SOON, queries.next()).await.unwrap().unwrap();
            let body: Value = serde_json::from_slice(&query.payload).unwrap();
            let ids = body["filter"]["id"]["$in"].as_array().unwrap();
            asked.extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
        }
        assert_eq!(asked, names, "round {round}");
    }
}
