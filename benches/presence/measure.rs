//! Operations done a number of times: rate, latencies, and the processor time of each process.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;

use crate::machine::cpu;

/// The processes of a run. The client is this one, and also does the work of raw operations.
#[derive(Clone, Copy)]
pub struct Processes {
    pub daemon: u32,
    pub nats: u32,
}

/// The measurement of a number of operations.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    pub operations: usize,
    pub per_second: f64,
    /// In microseconds; `None` where single operations are not timed.
    pub latency: Option<Latency>,
    pub cpu_us: CpuPerOperation,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// In microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct CpuPerOperation {
    pub client: f64,
    pub daemon: f64,
    pub nats: f64,
}

/// A measurement under way.
pub struct Stopwatch {
    processes: Processes,
    started: Instant,
    before: [Duration; 3],
}

impl Processes {
    fn cpu(self) -> Result<[Duration; 3]> {
        Ok([cpu(std::process::id())?, cpu(self.daemon)?, cpu(self.nats)?])
    }

    pub fn start(self) -> Result<Stopwatch> {
        Ok(Stopwatch { processes: self, before: self.cpu()?, started: Instant::now() })
    }

    /// Does `count` operations, so many at a time, each of which counts as `each`.
    pub async fn run<F: Future<Output = Result<()>>>(
        self,
        count: usize,
        in_flight: usize,
        each: usize,
        one: impl Fn(usize) -> F,
    ) -> Result<Measurement> {
        let timed = |n| {
            let operation = one(n);
            async move {
                let start = Instant::now();
                operation.await?;
                Ok::<_, anyhow::Error>(start.elapsed())
            }
        };
        let stopwatch = self.start()?;
        let mut took = Vec::with_capacity(count);
        let (mut under_way, mut next) = (FuturesUnordered::new(), 0);
        while next < count || !under_way.is_empty() {
            while next < count && under_way.len() < in_flight {
                under_way.push(timed(next));
                next += 1;
            }
            if let Some(done) = under_way.next().await {
                took.push(done?);
            }
        }
        let mut measurement = stopwatch.stop(count * each)?;
        measurement.latency = Some(Latency::of(took));
        Ok(measurement)
    }
}

impl Stopwatch {
    pub fn stop(self, operations: usize) -> Result<Measurement> {
        let took = self.started.elapsed();
        let after = self.processes.cpu()?;
        let per_operation = |n: usize| {
            after[n].saturating_sub(self.before[n]).as_secs_f64() * 1e6 / operations as f64
        };
        Ok(Measurement {
            operations,
            per_second: operations as f64 / took.as_secs_f64(),
            latency: None,
            cpu_us: CpuPerOperation {
                client: per_operation(0),
                daemon: per_operation(1),
                nats: per_operation(2),
            },
        })
    }
}

impl Latency {
    pub fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let quantile = |share: f64| {
            let last = took.len().saturating_sub(1);
            let at = (last as f64 * share).round() as usize;
            took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e6)
        };
        Self { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) }
    }
}
