//! Very many users on one machine: memory, start, scans, the death of a gateway, an idle cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::Client;
use futures_util::StreamExt;

use crate::machine::{Daemon, LONG_LEASE, Machine, cpu, memory};
use crate::measure::Latency;
use crate::presence::{batch, connect, heartbeat_of_lease, scan};
use crate::raw;

/// Users of one gateway.
const GATEWAY: usize = 50_000;
const IN_BATCH: usize = 500;
const BATCHES: usize = 8;
const SCANS: usize = 20;
/// Connects under way while something else is measured.
const CONNECTS: usize = 16;
/// The time for which an idle cell is looked at, with heartbeats of its leases at the usual
/// interval.
const IDLE: Duration = Duration::from_secs(40);
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A lease short enough to wait for its end.
const SHORT_LEASE: &str = "[liveness]\nlease = \"10s\"\nheartbeat_interval = \"4s\"\n\
     [limits]\nrequest_timeout = \"30s\"\n";

/// Connects that many users by gateways' leases, and measures.
pub async fn run(users: usize) -> Result<()> {
    let machine = Machine::start().await?;
    let nats = machine.client().await?;
    let daemon = machine.serve(LONG_LEASE).await?;
    let empty = memory(daemon.id()?)?;
    fill(&nats, users).await?;
    let (all, server) = (memory(daemon.id()?)?, memory(server(&machine)?)?);
    println!("{users} users: the daemon takes {}, of which {} empty;", mb(all), mb(empty));
    println!("  {} bytes for each user, all of the process counted", all / users as u64);
    println!("  nats-server takes {}", mb(server));

    scans(&nats).await?;
    idle(&machine, &nats, &daemon, users).await?;
    second_daemon(&machine, &nats).await?;
    daemon.kill().await?;
    death_of_a_gateway(&machine, &nats, users).await?;
    machine.server.stop().await
}

async fn fill(nats: &Client, users: usize) -> Result<()> {
    let started = Instant::now();
    let batches = (0..users).step_by(IN_BATCH).map(|first| async move {
        let lease = lease(first / GATEWAY);
        let ids = first..users.min(first + IN_BATCH);
        batch(nats, ids.map(|n| format!("user{n}")), Some(&lease)).await
    });
    let mut under_way = futures_util::stream::iter(batches).buffer_unordered(BATCHES);
    let (mut done, mut shown) = (0, Instant::now());
    while under_way.next().await.transpose()?.is_some() {
        done += IN_BATCH;
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let rate = done as f64 / started.elapsed().as_secs_f64();
            eprintln!("  {done} of {users} users are connected, {rate:.0} a second");
        }
    }
    let rate = users as f64 / started.elapsed().as_secs_f64();
    println!("connected {rate:.0} users a second in batches of {IN_BATCH}");
    Ok(())
}

/// Scans of all users, sorted, one after another, with connects beside them.
async fn scans(nats: &Client) -> Result<()> {
    let quiet = connects_during(nats, "quiet", tokio::time::sleep(Duration::from_secs(3))).await?;
    let mut took = Vec::new();
    let scanning = async {
        for _ in 0..SCANS {
            let start = Instant::now();
            scan(nats).await?;
            took.push(start.elapsed());
        }
        Ok::<_, anyhow::Error>(())
    };
    let busy = connects_during(nats, "busy", scanning).await?;
    let Latency { p50, p99, .. } = Latency::of(took);
    println!("a scan by `online`, sorted: p50 {:.0} ms, p99 {:.0} ms", p50 / 1e3, p99 / 1e3);
    show("connects without a scan", quiet);
    show("connects during scans", busy);
    Ok(())
}

async fn idle(machine: &Machine, nats: &Client, daemon: &Daemon, users: usize) -> Result<()> {
    let server = server(machine)?;
    let before = (cpu(daemon.id()?)?, cpu(server)?);
    let started = Instant::now();
    let mut beat = tokio::time::interval(HEARTBEAT);
    while started.elapsed() < IDLE {
        beat.tick().await;
        for gateway in 0..users.div_ceil(GATEWAY) {
            heartbeat_of_lease(nats, &lease(gateway)).await?;
        }
    }
    let took = started.elapsed().as_secs_f64();
    let share = |now: Duration, before: Duration| (now - before).as_secs_f64() / took * 100.0;
    println!(
        "idle, each lease beats every {HEARTBEAT:?}: the daemon takes {:.2} % of a core, \
         nats-server {:.2} %",
        share(cpu(daemon.id()?)?, before.0),
        share(cpu(server)?, before.1)
    );
    Ok(())
}

/// A second daemon reads the bucket while the first one serves.
async fn second_daemon(machine: &Machine, nats: &Client) -> Result<()> {
    let replay = raw::replay(nats).await?;
    let started = Instant::now();
    let mut second = None;
    let starting = async {
        second = Some(machine.serve(LONG_LEASE).await?);
        Ok::<_, anyhow::Error>(())
    };
    let busy = connects_during(nats, "second", starting).await?;
    let took = started.elapsed();
    let ratio = took.as_secs_f64() / replay.as_secs_f64();
    println!("a second daemon is ready after {took:.2?}, raw replay {replay:.2?}: {ratio:.2}");
    show("connects during its start", busy);
    second.context("it started")?.kill().await
}

/// One gateway of many falls silent.
async fn death_of_a_gateway(machine: &Machine, nats: &Client, users: usize) -> Result<()> {
    let gateways = users.div_ceil(GATEWAY);
    let started = Instant::now();
    let daemon = machine.serve(SHORT_LEASE).await?;
    println!("a start on all of it: ready after {:.2?}", started.elapsed());
    println!("  {} bytes for each user then", memory(daemon.id()?)? / users as u64);
    let mut events = nats.subscribe("user.presence.changed.*").await?;
    let (beating, stop) = (nats.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let beats = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            for gateway in 1..gateways {
                let _ = heartbeat_of_lease(&beating, &lease(gateway)).await;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let silent = Instant::now();
    let gone = GATEWAY.min(users);
    let mut first = None;
    let ending = async {
        let mut offline = 0;
        while offline < gone {
            let event = events.next().await.context("the subscription ended")?;
            if event.payload.windows(14).any(|part| part == b"\"online\":false") {
                first.get_or_insert_with(|| silent.elapsed());
                offline += 1;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let busy = connects_during(nats, "death", ending).await?;
    println!(
        "{gone} users of a silent gateway, on a lease of 10 s: the first offline after {:.2?}, \
         the last after {:.2?}",
        first.unwrap_or_default(),
        silent.elapsed()
    );
    show("connects meanwhile", busy);
    stop.store(true, Ordering::Relaxed);
    beats.await?;
    daemon.kill().await
}

/// The latency of connects for as long as something else goes on.
async fn connects_during<T>(
    nats: &Client,
    name: &str,
    work: impl Future<Output = T>,
) -> Result<Latency> {
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..CONNECTS)
        .map(|task| {
            let (nats, stop, name) = (nats.clone(), Arc::clone(&stop), name.to_owned());
            tokio::spawn(async move {
                let (mut took, mut n) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    connect(&nats, &format!("{name}{task}-{n}")).await?;
                    took.push(start.elapsed());
                    n += 1;
                }
                Ok::<_, anyhow::Error>(took)
            })
        })
        .collect();
    work.await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(Latency::of(all))
}

fn show(what: &str, Latency { p50, p99, p999 }: Latency) {
    println!("  {what}: p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs");
}

fn server(machine: &Machine) -> Result<u32> {
    machine.server.id().context("nats-server ended")
}

fn lease(gateway: usize) -> String {
    format!("gateway{gateway}")
}

fn mb(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
