//! A rolling upgrade under load, and back: daemons are replaced one after another.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::heart::Heart;
use crate::support::{Client, Daemon, Event, Events, Server, Settings, eventually};

const LEASE: Duration = Duration::from_secs(2);

const SETTINGS: Settings<'static> = &[
    ("LIVENESS__LEASE", "2s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ("LIVENESS__OFFLINE_GRACE", "1s"),
    ("LIVENESS__LAST_ACTIVE_REFRESH", "3s"),
];

const CLIENTS: usize = 16;
/// The time for which a client waits for an answer before it repeats the request.
const ANSWER: Duration = Duration::from_secs(3);

/// The build from which the upgrade starts.
fn old_build() -> PathBuf {
    let named = std::env::var_os("UPGRADE_FROM").map(PathBuf::from);
    named.unwrap_or_else(new_build)
}

fn new_build() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_presenced"))
}

/// The outcomes of a client's requests.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    repeated: u64,
    lost: u64,
}

/// Changes one user again and again, and repeats a request once.
async fn work(client: Client, id: String, until: tokio_util::sync::CancellationToken) -> Tally {
    let mut tally = Tally::default();
    while !until.is_cancelled() {
        let body = json!({"users": [{"id": id, "status": tally.done.to_string()}]});
        let first = client.attempt("upsert_users", body.clone(), ANSWER).await;
        if !matches!(first, Some(Ok(_))) {
            tally.repeated += 1;
            let wait = match first {
                Some(Err(refused)) => refused.details["retry_after_ms"].as_u64().unwrap_or(100),
                _ => 0,
            };
            sleep(Duration::from_millis(wait)).await;
            if !matches!(client.attempt("upsert_users", body, ANSWER).await, Some(Ok(_))) {
                tally.lost += 1;
            }
        }
        tally.done += 1;
        sleep(Duration::from_millis(5)).await;
    }
    tally
}

/// Repeats a request until it is done.
async fn done(client: &Client, operation: &str, body: serde_json::Value) {
    eventually(&format!("{operation} {body} is done"), 4 * ANSWER, async || {
        client.attempt(operation, body.clone(), ANSWER).await?.ok().map(drop)
    })
    .await;
}

async fn launch(server: &Server, build: PathBuf) -> Daemon {
    let mut daemon = Daemon::launch_program(&build, &server.url(), SETTINGS, "");
    daemon.ready(server).await;
    daemon
}

#[tokio::test]
async fn leaves_reloads_and_ends_of_a_status_meet_an_upgrade_and_the_way_back() {
    let server = Server::start().await;
    let mut daemons = vec![launch(&server, old_build()).await, launch(&server, old_build()).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let heart = Heart::of_lease(&client, "gw");
    let connect = |user: &str, connection: &str| {
        let user = json!({"id": user});
        json!({"user": user, "connection_id": connection, "lease": "gw"})
    };
    let builds = [new_build, new_build, old_build, old_build, new_build, new_build];
    for (round, build) in builds.into_iter().enumerate() {
        sleep(LEASE + LEASE / 4).await;
        let [leaves, reloads] = ["leaves", "reloads"].map(|name| format!("{name}-{round}"));
        for user in [&leaves, &reloads] {
            done(&client, "connect", connect(user, "page-1")).await;
        }
        if round == 2 {
            // Both daemons know of it; it ends while older ones are about.
            let end = std::time::SystemTime::now() + LEASE;
            let end = humantime::format_rfc3339_millis(end).to_string();
            let user = json!({"id": "ends", "status": "lunch", "status_expires_at": end});
            done(&client, "upsert_users", json!({"users": [user]})).await;
        }
        let leave = |user: &str| json!({"user_id": user, "connection_id": "page-1"});
        let stopped = daemons.remove(0);
        tokio::join!(stopped.stop(), async {
            done(&client, "disconnect", leave(&leaves)).await;
            done(&client, "disconnect", leave(&reloads)).await;
            done(&client, "connect", connect(&reloads, "page-2")).await;
        });
        daemons.push(launch(&server, build()).await);
    }
    let mut heard = Vec::new();
    let count = |heard: &[Event], user: &str, online: bool| {
        heard.iter().filter(|event| event.id == user && event.online == online).count()
    };
    eventually("the status has ended, and who left last is offline", 4 * LEASE, async || {
        heard.extend(events.arrived());
        let status = client.see("ends").await?["status"].take();
        (status.is_null() && count(&heard, "leaves-5", false) > 0).then_some(())
    })
    .await;
    for round in 0..builds.len() {
        let [leaves, reloads] = ["leaves", "reloads"].map(|name| format!("{name}-{round}"));
        assert_eq!(count(&heard, &leaves, true), 1, "{leaves}");
        assert_eq!(count(&heard, &leaves, false), 1, "{leaves}");
        assert_eq!(count(&heard, &reloads, true), 1, "{reloads}");
        assert_eq!(count(&heard, &reloads, false), 0, "{reloads}");
        assert_eq!(client.see(&reloads).await.unwrap()["online"], true, "{reloads}");
        let left = client.see(&leaves).await.unwrap();
        let [since, active] = ["offline_since", "last_active"].map(|name| left[name].as_str());
        assert!(since.is_some() && since >= active, "{left}");
    }
    assert_eq!(count(&heard, "ends", false), 2, "its status was set, and ended once");
    heart.stop(&client).await;
}

#[tokio::test]
async fn daemons_are_upgraded_and_taken_back_one_by_one_and_nobody_notices() {
    let server = Server::start().await;
    let mut daemons = vec![launch(&server, old_build()).await, launch(&server, old_build()).await];
    let client = Client::connect(&server).await;
    for n in 0..20 {
        client.connect_user(&format!("own-{n}"), "c").await;
        let body =
            json!({"user": {"id": format!("shared-{n}")}, "connection_id": "c", "lease": "gw"});
        client.get("connect", body).await;
    }
    let own: Vec<_> =
        (0..20).map(|n| json!({"user_id": format!("own-{n}"), "connection_id": "c"})).collect();
    let hearts =
        [Heart::of_lease(&client, "gw"), Heart::beat(&client, json!({"connections": own}))];
    let until = tokio_util::sync::CancellationToken::new();
    let workers: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(work(client.clone(), format!("busy-{n}"), until.clone())))
        .collect();
    let mut events = Events::of_all(&client).await;
    let began = Instant::now();

    for build in [new_build(), new_build(), old_build(), old_build()] {
        // One that has been up for a lease stays while the other is replaced.
        sleep(LEASE + LEASE / 4).await;
        daemons.remove(0).stop().await;
        daemons.push(launch(&server, build).await);
    }
    sleep(LEASE).await;

    until.cancel();
    let mut total = Tally::default();
    for worker in workers {
        let tally = worker.await.unwrap();
        total.done += tally.done;
        total.repeated += tally.repeated;
        total.lost += tally.lost;
    }
    println!("{total:?} in {:?}", began.elapsed());
    assert_eq!(total.lost, 0, "{total:?}");
    assert!(total.done > 100, "{total:?}");
    let offline: Vec<_> = events
        .arrived()
        .into_iter()
        .filter(|event| !event.online && !event.id.starts_with("busy"))
        .collect();
    assert!(offline.is_empty(), "{offline:?}");
    for n in 0..20 {
        for id in [format!("own-{n}"), format!("shared-{n}")] {
            assert_eq!(client.see(&id).await.unwrap()["online"], true, "{id}");
        }
    }
    for heart in hearts {
        heart.stop(&client).await;
    }
}
