//! Two daemons, 32 clients and the same 20 users for half a minute. The users connect, idle, leave,
//! reload, choose, become invisible and set statuses that end. No acknowledged change is lost, and
//! watchers come to see the state that queries show.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::events::{announced, latest};
use crate::support::{Client, Event, Events, Pair, Server, eventually};

const CLIENTS: usize = 32;
const USERS: usize = 20;
const DEVICES: [&str; 3] = ["desktop", "mobile", "web"];
const WHILE: Duration = Duration::from_secs(30);

/// The facts that one client knows of one user: its own field, and its own connection.
#[derive(Default, Clone)]
struct Ledger {
    field: u64,
    connected: bool,
    /// The number of its connections that have ended: an id is never used again.
    ended: u64,
}

#[derive(Default)]
struct Report {
    ledgers: Vec<Ledger>,
    answered: u64,
    refused: BTreeMap<String, u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_the_last_event_is_what_a_query_says() {
    let seed = std::env::var("HAMMER_SEED").map_or(1, |seed| seed.parse().unwrap());
    let server = Server::start().await;
    // With every field announced, the newest event shows all of the user.
    let file = "[users]\nannounced_fields = [\"*\"]\n";
    let pair = Pair::with_file(server, &[("LIVENESS__OFFLINE_GRACE", "100ms")], file).await;
    let mut events = Events::of_all(&pair.one).await;
    let until = Instant::now() + WHILE;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let daemons = [pair.one.clone(), pair.two.clone()];
            tokio::spawn(hammer(n, Rng::with_seed(seed * 1000 + n as u64), daemons, until))
        })
        .collect();
    let mut heard = BTreeMap::new();
    while Instant::now() < until {
        // Taken as they come, so that none is dropped.
        heard = merge(heard, events.arrived());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut reports = Vec::new();
    for client in clients {
        reports.push(client.await.unwrap());
    }
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let refused: Vec<_> = reports.iter().flat_map(|report| &report.refused).collect();
    println!("seed {seed}: {answered} answers; refused: {refused:?}");
    for user in 0..USERS {
        check_ledgers(&pair.one, user, &reports).await;
        agrees(&pair, user, &mut heard, &mut events).await;
    }
}

/// One client: one request after the other, each to any of the daemons.
async fn hammer(n: usize, mut rng: Rng, daemons: [Client; 2], until: Instant) -> Report {
    let mut report = Report { ledgers: vec![Ledger::default(); USERS], ..Report::default() };
    let mut counter = 0;
    while Instant::now() < until {
        counter += 1;
        let user = rng.usize(..USERS);
        let (operation, body, after) = request(n, user, counter, &report.ledgers[user], &mut rng);
        // Whatever is open after a refusal is settled by repeating, as a client does.
        while let Err(refused) = daemons[rng.usize(..2)].ask(operation, body.clone()).await {
            let may_be_repeated = ["contended", "overloaded", "unavailable"];
            assert!(may_be_repeated.contains(&refused.code.as_str()), "{operation}: {refused:?}");
            *report.refused.entry(refused.code).or_default() += 1;
        }
        report.answered += 1;
        report.ledgers[user] = after;
    }
    report
}

/// A random request, and what is true when it was acknowledged.
fn request(
    n: usize,
    user: usize,
    counter: u64,
    before: &Ledger,
    rng: &mut Rng,
) -> (&'static str, Value, Ledger) {
    let (id, field) = (format!("u{user}"), format!("l{n}"));
    let connection = format!("c{n}-{}", before.ended);
    let named = json!({"user_id": id, "connection_id": connection});
    let status = if rng.bool() { json!(null) } else { json!(rng.u8(..5).to_string()) };
    let device = DEVICES[rng.usize(..DEVICES.len())];
    let (noted, connected) =
        (Ledger { field: counter, ..before.clone() }, Ledger { connected: true, ..before.clone() });
    let gone = Ledger { connected: false, ended: before.ended + 1, ..before.clone() };
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    let upsert = |name: &str, value: Value| {
        let user = with(json!({"id": id}), name, value);
        ("upsert_users", json!({"users": [user]}), before.clone())
    };
    match rng.usize(..16) {
        0..3 => {
            let user = json!({"id": id, "status": status});
            let connect = json!({"user": user, "connection_id": connection, "idle": rng.bool()});
            ("connect", with(connect, "device", json!(device)), connected)
        }
        3 => ("disconnect", named, gone),
        4 => ("disconnect", with(named, "grace_ms", json!(rng.u16(..300))), gone),
        5 => {
            // A page that is loaded again.
            let next = format!("c{n}-{}", gone.ended);
            let connect = json!({"op": "connect", "user": {"id": id}, "connection_id": next});
            let ops = [with(named, "op", json!("disconnect")), connect];
            ("batch", json!({"ops": ops}), Ledger { connected: true, ..gone })
        }
        6..8 => ("upsert_users", json!({"users": [{"id": id, field: counter}]}), noted),
        8 => upsert("invisible", json!(rng.bool())),
        9 => upsert("availability", json!(["auto", "away", "busy"][rng.usize(..3)])),
        10 => {
            let end = SystemTime::now() + Duration::from_millis(rng.u64(4000..7000));
            let end = humantime::format_rfc3339_millis(end).to_string();
            let user = json!({"id": id, "status": "for a while", "status_expires_at": end});
            ("upsert_users", json!({"users": [user]}), before.clone())
        }
        11..13 => ("update_connection", with(named, "idle", json!(rng.bool())), before.clone()),
        13 => {
            let connect = json!({"op": "connect", "user": {"id": id}, "connection_id": connection});
            let upsert = json!({"op": "upsert_users", "users": [{"id": id, field: counter}]});
            let both = Ledger { field: counter, connected: true, ..before.clone() };
            ("batch", json!({"ops": [connect, upsert]}), both)
        }
        14 => ("heartbeat", named, before.clone()),
        _ => {
            let filter = json!({"id": {"$in": [id, "u0", "u1"]}});
            ("query_users", json!({"filter": filter, "presence": rng.bool()}), before.clone())
        }
    }
}

/// All that was acknowledged to any client is stored.
async fn check_ledgers(client: &Client, user: usize, reports: &[Report]) {
    let id = format!("u{user}");
    let shown = client.see(&id).await.unwrap();
    let explained = client.get("explain", json!({"user_id": id})).await;
    let connections = explained["connections"].as_array().unwrap();
    for (n, report) in reports.iter().enumerate() {
        let ledger = &report.ledgers[user];
        let field = shown[format!("l{n}")].as_u64().unwrap_or(0);
        assert_eq!(field, ledger.field, "the field of client {n} of {id}");
        let connection = format!("c{n}-{}", ledger.ended);
        let connected = connections.iter().any(|each| each["connection_id"] == connection);
        assert_eq!(connected, ledger.connected, "the connection of client {n} of {id}");
    }
}

/// The newest event of the user comes to equal what each daemon says when asked, and both daemons
/// come to say the same.
async fn agrees(
    pair: &Pair,
    user: usize,
    heard: &mut BTreeMap<String, Event>,
    events: &mut Events,
) {
    let id = format!("u{user}");
    for client in pair.clients() {
        eventually(
            &format!("events and queries agree on {id}"),
            Duration::from_secs(5),
            async || {
                *heard = merge(std::mem::take(heard), events.arrived());
                let user = client.see(&id).await?;
                (announced(&user) == announced(&heard.get(&id)?.user)).then_some(())
            },
        )
        .await;
    }
    eventually(&format!("the daemons agree on {id}"), Duration::from_secs(5), async || {
        (pair.one.see(&id).await? == pair.two.see(&id).await?).then_some(())
    })
    .await;
}

fn merge(heard: BTreeMap<String, Event>, more: Vec<Event>) -> BTreeMap<String, Event> {
    latest(heard.into_values().chain(more))
}
