//! What users cost, beside the raw operation on NATS that each is made of, in one run: writes,
//! memory, start-up, queries, heartbeats, and the lapse of one large lease. Prints; asserts nothing
//! about time. Absolute numbers are the machine's; the ratios are ours.
//!
//! Run with `cargo bench --bench capacity`; `USERS=1000000` asks for more than 100 000, and
//! `cargo bench --bench capacity -- heartbeats` for some of the [`PARTS`] only.

#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks of the daemon in one place; a measurement has its own"
)]

mod common;

use std::future::{Future, IntoFuture};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer, kv};
use async_nats::{Client, ConnectOptions};
use common::{ask, memory, ready, serve, start_server};
use futures_util::stream::{FuturesUnordered, StreamExt};
use presenced::dev::server::NatsServer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many requests are under way at a time.
const IN_FLIGHT: usize = 256;
/// How many of them a measurement makes.
const REQUESTS: usize = 50_000;
/// Connections on the lease that lapses.
const ON_ONE_LEASE: usize = 50_000;
/// How many heartbeats a measurement sends, and how many of a list.
const HEARTBEATS: usize = 500_000;
const IN_LIST: usize = 1000;
/// What can be asked for. Users are connected for any but the last.
const PARTS: [&str; 5] = ["writes", "queries", "heartbeats", "start", "lapse"];

#[tokio::main]
async fn main() -> Result<()> {
    let users = std::env::var("USERS").map_or(Ok(100_000), |users| users.parse::<usize>())?;
    let parts = parts()?;
    let folder = tempfile::tempdir()?;
    let server = start_server(&folder.path().join("js")).await?;
    let nats = ConnectOptions::new().subscription_capacity(1 << 20).connect(server.url()).await?;
    println!("{:<52}{:>12}{:>12}{:>8}", "", "presenced/s", "raw/s", "ratio");
    if parts != ["lapse"] {
        serving(&server, &nats, folder.path(), users, &parts).await?;
    }
    if parts.contains(&"lapse") {
        lapse(&server, &nats, folder.path()).await?;
    }
    server.stop().await
}

/// The parts that are asked for: all, if none is named.
fn parts() -> Result<Vec<&'static str>> {
    // Cargo adds `--bench`.
    let named: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let unknown = named.iter().find(|name| !PARTS.contains(&name.as_str()));
    anyhow::ensure!(unknown.is_none(), "{unknown:?} is none of {PARTS:?}");
    let is_wanted = |part: &&str| named.is_empty() || named.iter().any(|name| name == part);
    Ok(PARTS.into_iter().filter(is_wanted).collect())
}

/// All that one daemon is measured by while it serves `users`.
async fn serving(
    server: &NatsServer,
    nats: &Client,
    folder: &Path,
    users: usize,
    parts: &[&str],
) -> Result<()> {
    let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    // Nobody lapses while others are measured.
    let settings = format!(
        "[metrics]\nlisten = \"{metrics}\"\n[liveness]\nlease = \"1day\"\nheartbeat_interval = \"1h\"\n"
    );
    let mut daemon = serve(server, folder, &settings)?;
    ready(nats).await;
    let js = jetstream::new(nats.clone());

    let mut all = users;
    let mut pipelined_writes = None;
    if parts.contains(&"writes") {
        let raw = raw_bucket(&js).await?;
        let put = rate(REQUESTS, |n| put(&raw, n)).await?;
        let read_and_update = rate(REQUESTS, |n| read_and_update(&raw, n)).await?;
        let connects = rate(REQUESTS, |n| connect(nats, n)).await?;
        line("connects, 256 in flight / kv.put", connects, put);
        line("connects, 256 in flight / read, then update", connects, read_and_update);
        all += REQUESTS;
        pipelined_writes = Some(pipelined(&js, users).await?);
    }
    let empty = memory(&daemon)?;
    let filled = Instant::now();
    batches(nats, users, "user", Some("all")).await?;
    if let Some(raw) = pipelined_writes {
        line("connects in batches / pipelined writes", per_second(users, filled.elapsed()), raw);
    }
    let used = memory(&daemon)? - empty;
    let info = ask(nats, "$JS.API.STREAM.INFO.KV_presence", &Value::Null).await?;
    let stored = info["state"]["bytes"].as_u64().context("no size")? / all as u64;
    if parts.contains(&"queries") {
        let echo = echo(nats).await?;
        let by_id = rate(REQUESTS, |n| query(nats, vec![n % users])).await?;
        line("queries by id, 256 in flight / echo", by_id, echo);
        let hundred = |n: usize| query(nats, (0..100).map(|m| (n * 100 + m) % users).collect());
        let by_100 = 100.0 * rate(REQUESTS / 20, hundred).await?;
        println!("{:<52}{by_100:>12.0}", "users per second, 100 at a time");
    }
    if parts.contains(&"heartbeats") {
        all += heartbeats(nats, &metrics, users).await?;
    }
    println!(
        "\n{users} users: {} bytes of memory and {stored} bytes of storage each",
        used * 1024 / users as u64
    );
    daemon.kill().await?;
    if parts.contains(&"start") {
        start(server, nats, &js, folder, &settings, all).await?;
    }
    Ok(())
}

/// A daemon starts with so many users in the bucket.
async fn start(
    server: &NatsServer,
    nats: &Client,
    js: &jetstream::Context,
    folder: &Path,
    settings: &str,
    all: usize,
) -> Result<()> {
    let replay = replay(js).await?;
    let started = Instant::now();
    let mut daemon = serve(server, folder, settings)?;
    ready(nats).await;
    let start = started.elapsed();
    println!(
        "ready after {start:.2?}, raw replay {replay:.2?}: {:.2}",
        start.as_secs_f64() / replay.as_secs_f64()
    );
    println!("memory after a start: {} bytes each", memory(&daemon)? * 1024 / all as u64);
    daemon.kill().await?;
    Ok(())
}

fn line(what: &str, ours: f64, raw: f64) {
    println!("{what:<52}{ours:>12.0}{raw:>12.0}{:>8.2}", ours / raw);
}

fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// How many of these are done per second, [`IN_FLIGHT`] at a time.
async fn rate<F: Future<Output = Result<()>>>(
    count: usize,
    one: impl Fn(usize) -> F,
) -> Result<f64> {
    let start = Instant::now();
    let (mut under_way, mut next) = (FuturesUnordered::new(), 0);
    while next < count || !under_way.is_empty() {
        while next < count && under_way.len() < IN_FLIGHT {
            under_way.push(one(next));
            next += 1;
        }
        if let Some(done) = under_way.next().await {
            done?;
        }
    }
    Ok(per_second(count, start.elapsed()))
}

async fn raw_bucket(js: &jetstream::Context) -> Result<kv::Store> {
    let config = kv::Config { bucket: "raw".to_owned(), history: 1, ..kv::Config::default() };
    Ok(js.create_key_value(config).await?)
}

/// About as long as the record of a user with one connection.
fn record(n: usize) -> String {
    json!({"v": 1, "created_at": 1_700_000_000_000_u64, "updated_at": 1_700_000_000_000_u64,
        "last_active": 1_700_000_000_000_u64, "version": 1_700_000_000_000_u64,
        "connections": [{"id": format!("c{n}"), "lease": "all", "connects": 1}]})
    .to_string()
}

async fn put(raw: &kv::Store, n: usize) -> Result<()> {
    raw.put(format!("user.raw{n}"), record(n).into()).await?;
    Ok(())
}

/// What a service would do by itself.
async fn read_and_update(raw: &kv::Store, n: usize) -> Result<()> {
    let key = format!("user.raw{n}");
    let entry = raw.entry(key.as_str()).await?.context("it was put")?;
    raw.update(&key, record(n).into(), entry.revision).await?;
    Ok(())
}

async fn connect(nats: &Client, n: usize) -> Result<()> {
    let body = json!({"user": {"id": format!("single{n}")}, "connection_id": "c"});
    ask(nats, "presence.v1.connect", &body).await.map(|_| ())
}

async fn pipelined(js: &jetstream::Context, users: usize) -> Result<f64> {
    let start = Instant::now();
    let mut acks = FuturesUnordered::new();
    for n in 0..users {
        let sent = js.publish(format!("$KV.raw.user.p{n}"), record(n).into()).await?;
        acks.push(sent.into_future());
        if acks.len() >= 4096 {
            acks.next().await.transpose()?;
        }
    }
    while acks.next().await.transpose()?.is_some() {}
    Ok(per_second(users, start.elapsed()))
}

/// Connects that many users in batches, on one lease, or each on its own.
async fn batches(nats: &Client, users: usize, name: &str, lease: Option<&str>) -> Result<()> {
    let op = |n: usize| {
        let user = json!({"id": format!("{name}{n}")});
        let mut op = json!({"op": "connect", "user": user, "connection_id": "c"});
        if let Some(lease) = lease {
            op["lease"] = lease.into();
        }
        op
    };
    let starts: Vec<_> = (0..users).step_by(1000).collect();
    let mut under_way = futures_util::stream::iter(starts)
        .map(|start| async move {
            let ops: Vec<_> = (start..users.min(start + 1000)).map(op).collect();
            let answer = ask(nats, "presence.v1.batch", &json!({ "ops": ops })).await?;
            let mut results = answer["results"].as_array().into_iter().flatten();
            let failed = results.find(|result| result.get("error").is_some());
            anyhow::ensure!(failed.is_none(), "{failed:?}");
            Ok(())
        })
        .buffer_unordered(4);
    while under_way.next().await.transpose()?.is_some() {}
    Ok(())
}

async fn query(nats: &Client, users: Vec<usize>) -> Result<()> {
    let ids: Vec<_> = users.iter().map(|n| format!("user{n}")).collect();
    let body = json!({"filter": {"id": {"$in": ids}}, "limit": 100});
    let answer = nats.request("presence.v1.query_users", body.to_string().into()).await?;
    anyhow::ensure!(answer.payload.starts_with(b"{\"users\":[{"), "not found");
    Ok(())
}

/// Requests that are answered with what they ask.
async fn echo(nats: &Client) -> Result<f64> {
    let mut asked = nats.subscribe("echo").await?;
    let answering = nats.clone();
    let task = tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            if let Some(reply) = message.reply {
                let _ = answering.publish(reply, message.payload).await;
            }
        }
    });
    let one = |_| async {
        nats.request("echo", vec![b'x'; 200].into()).await?;
        Ok(())
    };
    let rate = rate(REQUESTS, one).await;
    task.abort();
    rate
}

/// Heartbeats until the daemon has heard them all, and the same messages to a subscriber: single
/// ones, and in lists. Returns how many users it connected for that.
async fn heartbeats(nats: &Client, metrics: &str, users: usize) -> Result<usize> {
    // Connected on their own: a heartbeat of who hangs on a shared lease does nothing.
    let own = users.min(REQUESTS);
    batches(nats, own, "own", None).await?;
    let body = |n: usize| json!({"user_id": format!("own{}", n % own), "connection_id": "c"});
    let single: Vec<bytes::Bytes> =
        (0..HEARTBEATS).map(|n| body(n).to_string().into_bytes().into()).collect();
    let list = |n: usize| {
        let connections: Vec<_> = (n * IN_LIST..(n + 1) * IN_LIST).map(body).collect();
        json!({ "connections": connections }).to_string().into_bytes().into()
    };
    let lists: Vec<bytes::Bytes> = (0..HEARTBEATS / IN_LIST).map(list).collect();
    // So many under way at a time fit the daemon's subscription: what does not is dropped.
    for (what, bodies, each, under_way) in [
        ("heartbeats / publish to one subscriber", single, 1, 8192),
        ("heartbeats in lists of 1000 / the same", lists, IN_LIST, 64),
    ] {
        let raw = to_subscriber(nats, &bodies).await?;
        let heard = to_daemon(nats, metrics, &bodies, each, under_way).await?;
        let count = bodies.len() * each;
        line(what, per_second(count, heard), per_second(count, raw));
    }
    Ok(own)
}

async fn to_subscriber(nats: &Client, bodies: &[bytes::Bytes]) -> Result<Duration> {
    let mut heard = nats.subscribe("raw.heartbeat").await?;
    let start = Instant::now();
    for body in bodies {
        nats.publish("raw.heartbeat", body.clone()).await?;
    }
    for _ in bodies {
        heard.next().await.context("the subscription ended")?;
    }
    Ok(start.elapsed())
}

async fn to_daemon(
    nats: &Client,
    metrics: &str,
    bodies: &[bytes::Bytes],
    each: usize,
    under_way: usize,
) -> Result<Duration> {
    let before = heard_so_far(metrics).await?;
    let (start, mut sent) = (Instant::now(), 0);
    for portion in bodies.chunks(under_way / 4) {
        for body in portion {
            nats.publish("presence.v1.heartbeat", body.clone()).await?;
        }
        nats.flush().await?;
        sent += portion.len();
        // The last portions are waited for, too.
        let left = if sent == bodies.len() { 0 } else { under_way - under_way / 4 };
        let wanted = before + (sent.saturating_sub(left) * each) as u64;
        while heard_so_far(metrics).await? < wanted {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(60), "heartbeats were dropped");
            // Asking all the time takes the processor away from what is measured.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(start.elapsed())
}

async fn heard_so_far(metrics: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(metrics).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    let series = "presence_heartbeats_total{kind=\"connection\"} ";
    let value = page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or("0");
    Ok(value.parse()?)
}

/// How long it takes to read all that the bucket holds, as a start has to.
async fn replay(js: &jetstream::Context) -> Result<Duration> {
    let start = Instant::now();
    let stream = js.get_stream("KV_presence").await?;
    let config = consumer::push::OrderedConfig {
        deliver_subject: "raw.replay".to_owned(),
        deliver_policy: consumer::DeliverPolicy::LastPerSubject,
        filter_subject: "$KV.presence.>".to_owned(),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        if message?.info().map_err(anyhow::Error::from_boxed)?.pending == 0 {
            break;
        }
    }
    Ok(start.elapsed())
}

/// A gateway with many connections on one lease dies.
async fn lapse(server: &NatsServer, nats: &Client, dir: &Path) -> Result<()> {
    let settings =
        "[store]\nbucket = \"lapse\"\n[liveness]\nlease = \"10s\"\nheartbeat_interval = \"5s\"\n";
    let mut daemon = serve(server, dir, settings)?;
    ready(nats).await;
    batches(nats, ON_ONE_LEASE, "gone", Some("dying")).await?;
    let mut events = nats.subscribe("user.presence.changed.>").await?;
    ask(nats, "presence.v1.heartbeat", &json!({"lease": "dying"})).await?;
    let last = Instant::now();
    let (mut offline, mut first) = (0, None);
    while offline < ON_ONE_LEASE {
        let event = events.next().await.context("the subscription ended")?;
        if event.payload.windows(14).any(|part| part == b"\"online\":false")
            && event.subject.contains(".gone")
        {
            first.get_or_insert_with(|| last.elapsed());
            offline += 1;
        }
    }
    println!(
        "{ON_ONE_LEASE} connections on a lease of 10 s lapse: the first after {:.2?}, the last after {:.2?}",
        first.unwrap_or_default(),
        last.elapsed()
    );
    daemon.kill().await?;
    Ok(())
}
