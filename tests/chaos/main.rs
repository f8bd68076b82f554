//! Faults on a real cluster: daemons are killed, stopped and rolled, NATS nodes die or are cut off,
//! heartbeats are flooded, gateways fall silent. Users of living gateways must stay online, those
//! of silent ones must go offline in time, and what was acknowledged must stay.
//! `docs/reliability.md` has the method.
//!
//! `CHAOS_SEED=17` plays another script than the usual one, `CHAOS_ONLY="daemon killed"` only these
//! faults.

#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks and tasks of the daemon in one place; a test has its own"
)]

#[allow(
    dead_code,
    unused_imports,
    reason = "the whole harness is shared; only a part of it is needed here"
)]
#[path = "../black_box/support/mod.rs"]
mod support;

mod cluster;
mod daemons;
mod gateway;
mod links;
mod report;
mod script;
mod watcher;
mod writers;

use std::time::Duration;

use script::{Fault, Plan};

/// The script is the same each time unless another seed is asked for.
const SEED: u64 = 1;

fn seed() -> u64 {
    std::env::var("CHAOS_SEED").map_or(SEED, |seed| seed.parse().expect("CHAOS_SEED is a number"))
}

/// Short, unless `CHAOS_RUN=long` asks for minutes on a cluster, as `make chaos` does.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_stays_and_who_is_gone_goes_in_time() {
    let long = std::env::var("CHAOS_RUN").is_ok_and(|run| run == "long");
    script::play(if long { long_plan() } else { short_plan() }).await;
}

fn short_plan() -> Plan {
    Plan {
        seed: seed(),
        nodes: 1,
        daemons: 2,
        lease: Duration::from_secs(2),
        gateways: 6,
        users_each: 50,
        faults: vec![Fault::DaemonKilled, Fault::DaemonStopped, Fault::NatsNodeKilled],
    }
}

fn long_plan() -> Plan {
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut faults = Vec::new();
    for _ in 0..2 {
        let mut round = Fault::ALL.to_vec();
        rng.shuffle(&mut round);
        faults.extend(round);
    }
    if let Ok(only) = std::env::var("CHAOS_ONLY") {
        faults.retain(|fault| fault.name() == only);
    }
    Plan {
        seed: seed(),
        nodes: 3,
        daemons: 3,
        lease: Duration::from_secs(4),
        gateways: 20,
        users_each: 150,
        faults,
    }
}
