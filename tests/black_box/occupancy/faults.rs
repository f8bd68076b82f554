//! Announced counts while daemons lag, die and start.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{BOUND, Counts, TYPES};
use crate::support::channels::of;
use crate::support::http::have_met;
use crate::support::lag::Lag;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Server, Settings};

#[tokio::test]
async fn a_daemon_that_lags_announces_no_old_count() {
    let server = Server::start().await;
    let lag = Lag::start(server.address()).await;
    let metrics = ("METRICS__LISTEN", "127.0.0.1:0");
    let settings = |prefix| [NO_GRACE, &[("SUBJECTS__PREFIX", prefix), metrics]].concat();
    let launch = |url: &str, settings: Settings<'_>| Daemon::launch_with_file(url, settings, TYPES);
    let mut daemons =
        [launch(&lag.url(), &settings("one")), launch(&server.url(), &settings("two"))];
    for daemon in &mut daemons {
        daemon.ready(&server).await;
    }
    have_met(&mut daemons).await;
    let client = Client::trusted(server.connect().await, "two");
    let mut counts = Counts::hear(&client).await;
    // Half of these are the first daemon's to announce.
    let channels: Vec<_> = (0..10).map(|n| format!("c{n}")).collect();
    for channel in &channels {
        client.channel(channel, json!({"members": ["ann"]})).await;
    }
    for _ in &channels {
        counts.next().await;
    }
    lag.begin();
    client.connect_user("ann", "c").await;
    for _ in &channels {
        assert_eq!(counts.next().await["online_count"], 1);
    }
    counts.silent_for(Duration::from_millis(1500)).await;
    lag.end();
    client.disconnect("ann", "c").await;
    for _ in &channels {
        assert_eq!(counts.next().await["online_count"], 0);
    }
    counts.silent_for(Duration::from_millis(1500)).await;
}

#[tokio::test]
async fn the_last_count_of_a_channel_is_announced_also_by_a_daemon_that_starts() {
    let types = TYPES.replace("500ms", "5s");
    let server = Server::start().await;
    let url = server.url();
    let start = || Daemon::launch_with_file(&url, NO_GRACE, &types);
    let mut daemon = start();
    daemon.ready(&server).await;
    let client = Client::connect(&server).await;
    let mut counts = Counts::hear(&client).await;
    client.connect_user("ann", "c").await;
    for channel in ["deleted", "emptied"] {
        client.channel(channel, json!({"members": ["ann"]})).await;
        counts.until(channel, 1).await;
    }
    client.get("delete_channel", of("deleted", json!({}))).await;
    client.channel("emptied", json!({"members": []})).await;
    daemon.kill();
    // One takes the place of the other before it has announced anything.
    let (mut second, mut third) = (start(), start());
    second.ready(&server).await;
    third.ready(&server).await;
    second.kill();
    let mut last = [counts.next().await, counts.next().await];
    last.sort_by_key(|channel| channel["id"].to_string());
    for (channel, id) in last.iter().zip(["deleted", "emptied"]) {
        let told = ["id", "online_count", "member_count"].map(|field| channel[field].clone());
        assert_eq!(told, [json!(id), json!(0), json!(0)]);
    }
}

#[tokio::test]
async fn counts_are_announced_while_daemons_die_and_agree_in_the_end() {
    agree_after_kills("500ms").await;
}

#[tokio::test]
async fn counts_of_the_shortest_interval_are_announced_while_daemons_die_and_agree_in_the_end() {
    agree_after_kills("100ms").await;
}

async fn agree_after_kills(interval: &str) {
    let server = Server::start().await;
    let (url, types) = (server.url(), TYPES.replace("500ms", interval));
    let start = || Daemon::launch_with_file(&url, NO_GRACE, &types);
    let mut daemons = [start(), start()];
    for daemon in &mut daemons {
        daemon.ready(&server).await;
    }
    let client = Client::connect(&server).await;
    let mut counts = Counts::hear(&client).await;
    for round in 0..7 {
        change_all(&client, round).await;
        let killed = match round {
            // All at once.
            3 => &mut daemons[..],
            _ => &mut daemons[round % 2..=round % 2],
        };
        killed.iter_mut().for_each(Daemon::kill);
        for daemon in killed {
            *daemon = start();
            daemon.ready(&server).await;
        }
    }
    let newest = newest(&mut counts).await;
    for n in 0..CHANNELS {
        let query = json!({
            "filter": {"cid": format!("messaging:c{n}")}, "online_count": true, "presence": true
        });
        let found = client.get("query_channels", query).await;
        let channel = &found["channels"][0];
        let count = |field: &str| channel[field].as_u64().unwrap_or(0);
        assert_eq!(newest[&n].1, [count("online_count"), count("member_count")], "{n}: {channel}");
    }
}

const CHANNELS: usize = 20;

/// Users come and go and hide, and channels are edited, deleted and made again.
async fn change_all(client: &Client, round: usize) {
    let attempt = async |operation: &str, body: Value| {
        client.attempt(operation, body, Duration::from_millis(500)).await
    };
    for n in 0..CHANNELS {
        let (id, connection) = (format!("u{n}"), format!("c{round}-{n}"));
        if (n + round).is_multiple_of(3) {
            let upsert = json!({"users": [{"id": id, "invisible": round.is_multiple_of(2)}]});
            attempt("upsert_users", upsert).await;
        }
        let user = json!({"user": {"id": id}, "connection_id": connection});
        attempt("connect", user).await;
        if (n + round).is_multiple_of(2) {
            let body = json!({"user_id": id, "connection_id": connection});
            attempt("disconnect", body).await;
        }
        let channel = format!("c{n}");
        let members: Vec<_> = (0..5).map(|member| format!("u{}", (n + member) % 20)).collect();
        match (n + round) % 4 {
            0 => attempt("delete_channel", of(&channel, json!({}))).await,
            1 => attempt("upsert_channel", of(&channel, json!({"members": []}))).await,
            _ => attempt("upsert_channel", of(&channel, json!({"members": members}))).await,
        };
    }
}

/// The newest state of each channel that a receiver knows: version, members online, members.
async fn newest(counts: &mut Counts) -> BTreeMap<usize, (u64, [u64; 2])> {
    let deadline = Instant::now() + BOUND;
    let mut newest = BTreeMap::new();
    while let Ok(Some(message)) = timeout_at(deadline, counts.subscriber.next()).await {
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        let number = |field: &str| body["channel"][field].as_u64().unwrap();
        let n = body["channel"]["id"].as_str().unwrap()[1..].parse().unwrap();
        let told = (number("version"), ["online_count", "member_count"].map(number));
        let known = newest.entry(n).or_insert(told);
        if told.0 > known.0 {
            *known = told;
        }
    }
    newest
}
