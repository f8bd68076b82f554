//! The replica is read again while clients go on. `REBUILD_USERS=100000` tries it with more users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{HEALED, answer, noticed};
use crate::support::heart::Heart;
use crate::support::http::Http;
use crate::support::{Client, Daemon, Events, Server, Settings, eventually};

const SETTINGS: Settings<'static> = &[
    ("METRICS__LISTEN", "127.0.0.1:0"),
    ("LIVENESS__LEASE", "4s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ("LIVENESS__OFFLINE_GRACE", "0s"),
];

/// The number of requests under way at a time.
const CLIENTS: usize = 8;

/// The longest time for a request; beyond it, it counts as unanswered.
const BOUND: Duration = Duration::from_secs(5);

fn users() -> usize {
    std::env::var("REBUILD_USERS").map_or(3000, |text| text.parse().unwrap())
}

async fn connect_all(client: &Client, users: usize) {
    let ids: Vec<_> = (0..users).collect();
    for ids in ids.chunks(200) {
        let connect = |n| {
            json!({"op": "connect", "user": {"id": format!("u{n}")}, "connection_id": "1",
                "lease": "gateway"})
        };
        let ops: Vec<_> = ids.iter().map(connect).collect();
        let body = json!({"ops": ops, "me": false});
        eventually("all of a batch are connected", HEALED, async || {
            let answer = client.ask("batch", body.clone()).await.ok()?;
            let results = answer["results"].as_array().unwrap();
            results.iter().all(|result| result.get("error").is_none()).then_some(())
        })
        .await;
    }
}

/// The numbers of requests during a rebuild, by their end.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    unavailable: AtomicU64,
    unanswered: AtomicU64,
}

/// Asks again and again until it is over.
async fn go_on(client: Client, number: usize, tally: Arc<Tally>, over: Arc<AtomicBool>) {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let (operation, body) = match number % 2 {
            0 => ("query_users", json!({"filter": {"id": "u1"}, "presence": true})),
            _ => {
                let user = json!({"id": format!("w{number}"), "status": format!("{count}")});
                ("upsert_users", json!({"users": [user]}))
            }
        };
        let outcome = match client.attempt(operation, body, BOUND).await {
            None => &tally.unanswered,
            Some(Ok(_)) => &tally.answered,
            Some(Err(refused)) if refused.status >= 429 => &tally.unavailable,
            Some(Err(refused)) => panic!("{operation}: {refused:?}"),
        };
        outcome.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether `/readyz` names the bucket before it is over.
async fn becomes_unready(http: Http, over: Arc<AtomicBool>) -> bool {
    while !over.load(Ordering::Relaxed) {
        let page = http.get("/readyz").await;
        if page.status == 503 && page.body.contains("bucket") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

#[tokio::test]
async fn clients_go_on_while_the_replicas_are_read_again() {
    let users = users();
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, SETTINGS).await, Daemon::spawn(&server, SETTINGS).await];
    let probes = [Http::of(&mut daemons[0]).await, Http::of(&mut daemons[1]).await];
    let client = Client::connect(&server).await;
    let _heart = Heart::of_lease(&client, "gateway");
    connect_all(&client, users).await;
    client.upsert(json!({"id": "gone"})).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let (tally, over) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let tasks = (0..CLIENTS)
        .map(|n| tokio::spawn(go_on(client.clone(), n, Arc::clone(&tally), Arc::clone(&over))));
    let tasks: Vec<_> = tasks.collect();

    let unready = probes.map(|http| tokio::spawn(becomes_unready(http, Arc::clone(&over))));
    let purge = json!({"filter": "$KV.presence.user.gone"}).to_string();
    let purged = Instant::now();
    client.nats.request("$JS.API.STREAM.PURGE.KV_presence", purge.into()).await.unwrap();
    eventually("a daemon notices", HEALED, async || {
        daemons.iter().any(|daemon| !noticed(daemon).is_empty()).then_some(())
    })
    .await;
    let whole = |daemon: &Daemon| {
        let begun = noticed(daemon).len();
        let lines = daemon.lines();
        let ended = lines.iter().filter(|line| line.to_string().contains("was read again")).count();
        begun == ended
    };
    let bound = HEALED.max(Duration::from_millis(users as u64));
    eventually("all replicas are whole", bound, async || daemons.iter().all(whole).then_some(()))
        .await;
    let healed = purged.elapsed();
    // Everybody who beats would have lapsed by then, if the beats had been forgotten.
    tokio::time::sleep(Duration::from_secs(6)).await;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    for unready in unready {
        assert!(unready.await.unwrap(), "a daemon that reads the bucket again is not ready");
    }

    let count = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
    let Tally { answered, unavailable, unanswered } = &*tally;
    eprintln!(
        "{users} users: whole after {healed:?}; answered {}, unavailable {}",
        count(answered),
        count(unavailable)
    );
    assert_eq!(count(unanswered), 0);
    assert!(count(answered) > 100);
    let offline: Vec<_> = events.arrived().into_iter().filter(|event| !event.online).collect();
    let writers = |id: &str| id.starts_with('w');
    assert!(offline.iter().all(|event| writers(&event.id)), "{:?}", offline.first());
    let online = json!({"filter": {"online": true}, "presence": true});
    for _ in 0..20 {
        let counted = answer(&client, "count_users", online.clone(), HEALED).await;
        assert_eq!(counted["count"], users);
    }
}
