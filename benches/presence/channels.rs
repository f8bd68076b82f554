//! The cost of channel queries in processor time and memory, in a daemon that holds 100 000
//! channels.

use std::future::IntoFuture;
use std::time::Instant;

use crate::machine::{Daemon, Machine, ask, cpu, memory};
use anyhow::Result;
use async_nats::{Client, jetstream};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

const CHANNELS: usize = 100_000;
const MEMBERS: usize = 10;
/// A user in every twentieth channel, as a bot may be.
const BOTS: usize = 20;

pub async fn run() -> Result<()> {
    let machine = Machine::start().await?;
    let nats = machine.client().await?;
    let daemon = machine.serve("").await?;
    let empty = memory(daemon.id()?)?;
    fill(&nats).await?;
    let seen = json!({"filter": {"cid": format!("messaging:c{}", CHANNELS - 1)}, "presence": true});
    let last = ask(&nats, "presence.v1.query_channels", &seen).await?;
    assert_eq!(last["channels"].as_array().map(Vec::len), Some(1), "{last}");
    let grown = memory(daemon.id()?)?.saturating_sub(empty);
    println!("{CHANNELS} channels of {MEMBERS} members: {} MB", grown / 1_000_000);

    println!("{:<44}{:>12}{:>12}", "", "daemon µs", "round µs");
    let of_one = json!({"filter": {"members": {"$contains": "u77"}}});
    let page = json!({"filter": {"members": {"$contains": "u77"}}, "presence": true, "limit": 30});
    let fifty: Vec<_> = (0..50).map(|n| format!("u{}", n * 7)).collect();
    for (what, subject, body, times) in [
        ("nothing (a cid that is none)", "", json!({"filter": {"cid": "x:y"}}), 3000),
        ("one channel by cid", "", json!({"filter": {"cid": "messaging:c5"}}), 3000),
        ("one user's channels", "", of_one.clone(), 3000),
        ("one user's channels, with presence", "", page, 1000),
        ("one user's channels, second door", ".u77", json!({}), 1000),
        ("channels of 50 users, $in", "", json!({"filter": {"members": {"$in": fifty}}}), 300),
        ("a bot's channels, second door", ".bot", json!({}), 20),
        ("all channels, by a custom field", "", json!({"filter": {"color": "none"}}), 20),
    ] {
        let subject = format!("presence.v1.query_channels{subject}");
        measure(&daemon, &nats, what, &subject, &body, times).await?;
    }
    let watch = json!({"type": "messaging", "id": "c5", "presence": true});
    measure(&daemon, &nats, "watch_channel", "presence.v1.watch_channel", &watch, 1000).await?;
    behind_a_hostile_one(&nats).await?;
    daemon.kill().await?;
    machine.server.stop().await
}

/// Stores the channels as daemons would have.
async fn fill(nats: &Client) -> Result<()> {
    let js = jetstream::new(nats.clone());
    for chunk in (0..CHANNELS).collect::<Vec<_>>().chunks(1000) {
        let mut stored = Vec::new();
        for &n in chunk {
            let mut members: Vec<_> =
                (0..MEMBERS).map(|m| format!("u{}", (n + m * 7919) % CHANNELS)).collect();
            if n % BOTS == 0 {
                members[MEMBERS - 1] = "bot".to_owned();
            }
            let record = json!({"v": 1, "created_at": n, "updated_at": n, "last_message_at": n,
                "custom": {"color": "green", "name": format!("Channel {n}")}, "members": members});
            let subject = format!("$KV.presence.channel.messaging.c{n}");
            stored.push(js.publish(subject, record.to_string().into()).await?);
        }
        try_join_all(stored.into_iter().map(IntoFuture::into_future)).await?;
    }
    Ok(())
}

/// Asks again and again, one at a time.
async fn measure(
    daemon: &Daemon,
    nats: &Client,
    what: &str,
    subject: &str,
    body: &Value,
    times: u32,
) -> Result<()> {
    ask(nats, subject, body).await?;
    let (used, start) = (cpu(daemon.id()?)?, Instant::now());
    for _ in 0..times {
        ask(nats, subject, body).await?;
    }
    let round = start.elapsed() / times;
    let of_daemon = (cpu(daemon.id()?)? - used) / times;
    println!("{what:<44}{:>12}{:>12}", of_daemon.as_micros(), round.as_micros());
    Ok(())
}

/// Measures the wait of a small request behind one for 40 000 channels, each held against 400
/// lists.
async fn behind_a_hostile_one(nats: &Client) -> Result<()> {
    let list = |n: usize| (n * 100..(n + 1) * 100).map(|n| format!("messaging:c{n}"));
    let lists: Vec<_> =
        (0..400).map(|n| json!({"cid": {"$in": list(n).collect::<Vec<_>>()}})).collect();
    let hostile = json!({"filter": {"$or": lists, "color": "none"}});
    let small = json!({"filter": {"cid": "x:y"}});
    let subject = "presence.v1.query_channels";
    let start = Instant::now();
    let waited = async {
        ask(nats, subject, &small).await?;
        anyhow::Ok(start.elapsed())
    };
    let (hostile, waited) = tokio::join!(ask(nats, subject, &hostile), waited);
    hostile?;
    println!("behind a hostile query of {:?}: {:?}", start.elapsed(), waited?);
    Ok(())
}
