//! Each operation of the daemon beside its raw counterpart, in alternation, twice.

use anyhow::{Context, Result};
use async_nats::Client;

use crate::heartbeats::{self, IN_LIST};
use crate::latency::change_to_watcher;
use crate::machine::{Daemon, LONG_LEASE, Machine, memory};
use crate::measure::Processes;
use crate::presence::{batch, connect, query};
use crate::raw::{self, Raw};
use crate::redis_server::RedisServer;
use crate::report::{Report, Round};

/// Requests under way at a time.
const IN_FLIGHT: usize = 256;
/// Connects of one batch, and batches under way.
const IN_BATCH: usize = 500;
const BATCHES: usize = 8;
const ROUNDS: usize = 2;

/// A round of measurements on one machine.
struct Bench<'a> {
    nats: &'a Client,
    watcher: &'a Client,
    daemon: &'a Daemon,
    processes: Processes,
    redis: Option<&'a RedisServer>,
    count: usize,
    only: &'a str,
    /// Makes keys of rounds differ.
    number: usize,
    round: Round,
}

/// Measures `count` operations of each kind of which the name contains `only`.
pub async fn run(count: usize, only: &str) -> Result<Report> {
    let machine = Machine::start().await?;
    let nats = machine.client().await?;
    let watcher = machine.client().await?;
    raw::answer_echo(&machine.client().await?).await?;
    let redis = RedisServer::start(machine.folder.path()).await?;
    let mut rounds = Vec::new();
    let mut daemon = machine.serve(LONG_LEASE).await?;
    for number in 0..ROUNDS {
        let mut bench = Bench {
            nats: &nats,
            watcher: &watcher,
            daemon: &daemon,
            processes: processes(&machine, &daemon)?,
            redis: redis.as_ref(),
            count,
            only,
            number,
            round: Round::default(),
        };
        eprintln!("round {} of {ROUNDS}", number + 1);
        bench.writes().await?;
        bench.latencies().await?;
        bench.queries().await?;
        bench.heartbeats().await?;
        let mut round = bench.round;
        if "start".contains(only) {
            daemon.kill().await?;
            daemon = start(&machine, &nats, &mut round).await?;
        }
        rounds.push(round);
    }
    daemon.kill().await?;
    machine.server.stop().await?;
    Ok(Report { rounds })
}

fn processes(machine: &Machine, daemon: &Daemon) -> Result<Processes> {
    let nats = machine.server.id().context("nats-server ended")?;
    Ok(Processes { daemon: daemon.id()?, nats })
}

/// A start on all that was stored, beside the raw replay of the same.
async fn start(machine: &Machine, nats: &Client, round: &mut Round) -> Result<Daemon> {
    round.replay_ms = Some(raw::replay(nats).await?.as_secs_f64() * 1e3);
    let started = std::time::Instant::now();
    let daemon = machine.serve(LONG_LEASE).await?;
    round.start_ms = Some(started.elapsed().as_secs_f64() * 1e3);
    round.memory = Some(memory(daemon.id()?)?);
    Ok(daemon)
}

impl Bench<'_> {
    fn is_wanted(&self, name: &str) -> bool {
        let wanted = name.contains(self.only);
        if wanted {
            eprintln!("  {name}");
        }
        wanted
    }

    /// Does `count` operations, so many at a time.
    async fn measure<F: Future<Output = Result<()>>>(
        &mut self,
        name: &'static str,
        count: usize,
        in_flight: usize,
        each: usize,
        one: impl Fn(usize) -> F,
    ) -> Result<()> {
        if self.is_wanted(name) {
            let measurement = self.processes.run(count, in_flight, each, one).await?;
            self.round.push(name, measurement);
        }
        Ok(())
    }

    /// The ids of users that batches of this round have connected.
    fn users(&self) -> Vec<String> {
        (0..self.count).map(|n| format!("user{}-{n}", self.number)).collect()
    }

    async fn writes(&mut self) -> Result<()> {
        let (nats, count, number) = (self.nats, self.count, self.number);
        let raw = Raw::create(nats, format!("raw{number}")).await?;
        self.measure("echo", count, IN_FLIGHT, 1, |_| raw::echo(nats)).await?;
        self.measure("kv.put", count, IN_FLIGHT, 1, |n| raw.put(n)).await?;
        let single = |n| async move { connect(nats, &format!("single{number}-{n}")).await };
        self.measure("connect", count, IN_FLIGHT, 1, single).await?;
        self.measure("diy", count, IN_FLIGHT, 1, |n| raw.do_it_yourself(n)).await?;
        if let Some(redis) = self.redis {
            // The time of Redis stands in the place of that of nats-server.
            let processes = Processes { nats: redis.id()?, ..self.processes };
            if self.is_wanted("diy on redis") {
                let diy = processes.run(count, IN_FLIGHT, 1, |n| redis.do_it_yourself(n)).await?;
                self.round.push("diy on redis", diy);
            }
        }
        if self.is_wanted("replicated raw") {
            let measurement = raw.replicated(self.processes, count).await?;
            self.round.push("replicated raw", measurement);
        }
        let one = |n: usize| async move {
            let ids = n * IN_BATCH..(n + 1) * IN_BATCH;
            batch(nats, ids.map(|n| format!("user{number}-{n}")), None).await
        };
        self.measure("batch", count / IN_BATCH, BATCHES, IN_BATCH, one).await
    }

    /// One operation at a time.
    async fn latencies(&mut self) -> Result<()> {
        let (nats, number, count) = (self.nats, self.number, self.count / 20);
        let raw = Raw::create(nats, format!("one{number}")).await?;
        self.measure("echo, one at a time", count, 1, 1, |_| raw::echo(nats)).await?;
        self.measure("kv.put, one at a time", count, 1, 1, |n| raw.put(n)).await?;
        let one = |n| async move { connect(nats, &format!("one{number}-{n}")).await };
        self.measure("connect, one at a time", count, 1, 1, one).await?;
        if self.is_wanted("change to watcher") {
            let user = format!("watched{number}");
            connect(nats, &user).await?;
            let measurement =
                change_to_watcher(nats, self.watcher, self.processes, &user, count).await?;
            self.round.push("change to watcher", measurement);
        }
        Ok(())
    }

    async fn queries(&mut self) -> Result<()> {
        let (nats, count, users) = (self.nats, self.count, &self.users());
        let by_id = |n: usize| async move { query(nats, &users[n..=n]).await };
        self.measure("query by id", count, IN_FLIGHT, 1, by_id).await?;
        let hundred = |n: usize| async move { query(nats, &users[n * 100..(n + 1) * 100]).await };
        self.measure("query of 100 ids", count / 100, 64, 100, hundred).await
    }

    async fn heartbeats(&mut self) -> Result<()> {
        let (count, users) = (self.count * 5, self.users());
        for (raw_name, name, bodies, each) in [
            ("publish", "heartbeat", heartbeats::single(count, &users), 1),
            ("publish lists", "heartbeats in lists", heartbeats::lists(count, &users), IN_LIST),
        ] {
            if self.is_wanted(raw_name) {
                let raw = raw::publish(self.nats, self.processes, &bodies, each).await?;
                self.round.push(raw_name, raw);
            }
            if self.is_wanted(name) {
                let heard =
                    heartbeats::publish(self.nats, self.daemon, self.processes, &bodies, each)
                        .await?;
                self.round.push(name, heard);
            }
        }
        Ok(())
    }
}
