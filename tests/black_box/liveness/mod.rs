//! Users who are gone go offline in time; users who are there stay online, whatever dies.

mod cut_short;
mod explain;
mod faults;
mod hearing;
mod heartbeats;
mod invisible;
mod lapses;
mod refresh;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Client, Daemon, Event, Events, Refused, Settings};

const LEASE: Duration = Duration::from_secs(2);

/// After one lease, and this, a silent user is offline.
const LATEST: Duration = Duration::from_secs(2);

/// The amount by which a bound may be exceeded where daemons or NATS were away.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);

/// A short lease, and a grace that would be noticed if a lapse took it.
const SHORT: Settings<'static> = &[
    ("LIVENESS__LEASE", "2s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
    ("LIVENESS__OFFLINE_GRACE", "1m"),
];

/// Connects `user-0`, `user-1` … on a shared lease, each with the connection `c`. Open requests are
/// repeated, as the protocol requires.
async fn connect_on(client: &Client, lease: &str, users: usize) {
    let mut ids: Vec<_> = (0..users).map(|n| format!("user-{n}")).collect();
    let start = Instant::now();
    while !ids.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "{} are left to connect", ids.len());
        let chunk = &ids[..ids.len().min(1000)];
        let ops = chunk.iter().map(
            |id| json!({"op": "connect", "user": {"id": id}, "connection_id": "c", "lease": lease}),
        );
        let answer = client.get("batch", json!({"ops": ops.collect::<Vec<_>>()})).await;
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), chunk.len());
        let open = |result: &Value| {
            let error = result.get("error").map(Refused::read);
            error
                .inspect(|refused| assert!(refused.status == 503 || refused.status == 409))
                .is_some()
        };
        let left: Vec<_> = chunk
            .iter()
            .zip(results)
            .filter(|(_, result)| open(result))
            .map(|(id, _)| id.clone())
            .collect();
        let done = chunk.len();
        ids.splice(..done, left);
    }
}

/// Waits until daemons that have just started end leases.
async fn hear(daemons: &mut [Daemon]) {
    for daemon in daemons {
        daemon.logs("has heard undisturbed for a lease").await;
    }
}

/// Waits for that many users to go offline, and for nothing else to happen; each with the time.
async fn all_offline(events: &mut Events, users: usize, until: Instant) -> Vec<(Event, Instant)> {
    let mut gone: Vec<(Event, Instant)> = Vec::new();
    while gone.len() < users {
        let event = events.next_within(until.saturating_duration_since(Instant::now())).await;
        assert!(!event.online, "{event:?}");
        assert!(gone.iter().all(|(other, _)| other.id != event.id), "twice: {event:?}");
        gone.push((event, Instant::now()));
    }
    gone
}

/// The answer to a client about a connection.
async fn unknown(client: &Client, user: &str, connection: &str) -> Value {
    let body = json!({"user_id": user, "connection_id": connection});
    client.get("heartbeat", body).await["unknown"].take()
}

/// Only these users, and none of them before its lease was over.
fn only_the(prefix: &str, gone: &[(Event, Instant)], not_before: Instant) {
    for (event, at) in gone {
        let early = not_before.saturating_duration_since(*at);
        assert!(event.id.starts_with(prefix), "who was there went offline: {event:?}");
        assert!(early.is_zero(), "{early:?} too early: {event:?}");
    }
}
