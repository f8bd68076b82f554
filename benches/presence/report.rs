//! The measurements, and their ratios to raw operations of the same round.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::measure::Measurement;

/// The measurements of one round.
#[derive(Debug, Default, Serialize)]
pub struct Round {
    pub rows: Vec<(&'static str, Measurement)>,
    /// From the start of the daemon until it serves, and the raw replay of the same bucket.
    pub start_ms: Option<f64>,
    pub replay_ms: Option<f64>,
    /// The memory of the daemon after that start.
    pub memory: Option<u64>,
}

#[derive(Debug)]
pub struct Report {
    pub rounds: Vec<Round>,
}

/// The bound of a ratio.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure of the daemon, and its bound.
pub struct Target {
    pub name: &'static str,
    pub bound: Bound,
    of: fn(&Round) -> Option<f64>,
}

/// The targets of the daemon, each beside the raw operation of the same round.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "connect / kv.put, rate",
        bound: Bound::AtLeast(0.5),
        of: |round| Some(round.rate("connect")? / round.rate("kv.put")?),
    },
    Target {
        name: "connect / DIY, rate",
        bound: Bound::AtLeast(1.2),
        of: |round| Some(round.rate("connect")? / round.rate("diy")?),
    },
    Target {
        name: "connect in batches / replicated raw, rate",
        bound: Bound::AtLeast(0.7),
        of: |round| Some(round.rate("batch")? / round.rate("replicated raw")?),
    },
    Target {
        name: "CPU of the daemon per connect, µs",
        bound: Bound::AtMost(10.0),
        of: |round| Some(round.get("connect")?.cpu_us.daemon),
    },
    Target {
        name: "CPU of the daemon per connect in batches, µs",
        bound: Bound::AtMost(8.0),
        of: |round| Some(round.get("batch")?.cpu_us.daemon),
    },
    Target {
        name: "connect / (echo + put), p50 of one at a time",
        bound: Bound::AtMost(1.3),
        of: |round| Some(round.p50("connect, one at a time")? / round.echo_and_put()?),
    },
    Target {
        name: "change to watcher / (echo + put), p50",
        bound: Bound::AtMost(1.3),
        of: |round| Some(round.p50("change to watcher")? / round.echo_and_put()?),
    },
    Target {
        name: "query by id / echo, rate",
        bound: Bound::AtLeast(0.8),
        of: |round| Some(round.rate("query by id")? / round.rate("echo")?),
    },
    Target {
        name: "users per second in queries of 100 ids, millions",
        bound: Bound::AtLeast(1.0),
        of: |round| Some(round.rate("query of 100 ids")? / 1e6),
    },
    Target {
        name: "CPU of the daemon per heartbeat, µs",
        bound: Bound::AtMost(1.0),
        of: |round| Some(round.get("heartbeat")?.cpu_us.daemon),
    },
    Target {
        name: "start to ready / raw replay",
        bound: Bound::AtMost(1.3),
        of: |round| Some(round.start_ms? / round.replay_ms?),
    },
];

impl Target {
    pub fn values(&self, report: &Report) -> Vec<f64> {
        report.rounds.iter().filter_map(self.of).collect()
    }

    pub fn is_met(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

impl Round {
    pub fn push(&mut self, name: &'static str, measurement: Measurement) {
        self.rows.push((name, measurement));
    }

    pub fn get(&self, name: &str) -> Option<&Measurement> {
        self.rows.iter().find(|(each, _)| *each == name).map(|(_, measurement)| measurement)
    }

    fn rate(&self, name: &str) -> Option<f64> {
        self.get(name).map(|measurement| measurement.per_second)
    }

    fn p50(&self, name: &str) -> Option<f64> {
        Some(self.get(name)?.latency?.p50)
    }

    fn echo_and_put(&self) -> Option<f64> {
        Some(self.p50("echo, one at a time")? + self.p50("kv.put, one at a time")?)
    }
}

impl Report {
    /// Prints the tables, as Markdown.
    pub fn print(&self) {
        for (number, round) in self.rounds.iter().enumerate() {
            println!("\nRound {}; times in µs, CPU of each process per operation:\n", number + 1);
            println!("| operation | per second | p50 | p99 | p99.9 | client | daemon | server |");
            println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
            for (name, Measurement { per_second, latency, cpu_us, .. }) in &round.rows {
                let latency = latency.map_or("| | | ".to_owned(), |latency| {
                    format!("| {:.0} | {:.0} | {:.0} ", latency.p50, latency.p99, latency.p999)
                });
                println!(
                    "| {name} | {per_second:.0} {latency}| {:.1} | {:.1} | {:.1} |",
                    cpu_us.client, cpu_us.daemon, cpu_us.nats
                );
            }
        }
        println!("\n| ratio | each round | target | met |\n| --- | --: | --: | --- |");
        for target in &TARGETS {
            let values = target.values(self);
            if values.is_empty() {
                continue;
            }
            let texts: Vec<_> = values.iter().map(|value| format!("{value:.2}")).collect();
            let bound = match target.bound {
                Bound::AtLeast(bound) => format!("≥ {bound}"),
                Bound::AtMost(bound) => format!("≤ {bound}"),
            };
            let met = if values.iter().all(|value| target.is_met(*value)) { "yes" } else { "no" };
            println!("| {} | {} | {bound} | {met} |", target.name, texts.join(", "));
        }
    }

    pub fn json(&self) -> Result<String> {
        let targets: Vec<_> = TARGETS
            .iter()
            .map(|target| json!({"name": target.name, "values": target.values(self)}))
            .collect();
        let all = json!({"rounds": self.rounds, "ratios": targets});
        Ok(serde_json::to_string_pretty(&all)?)
    }
}
