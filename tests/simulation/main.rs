//! The machines of several daemons against a model of the bucket, with reordering, loss and crashes
//! by a seed. The same seed brings the same run. The first simulation is about writes, the one in
//! `liveness` about who is online.
//!
//! `SIMULATION_SEEDS=10000` runs more seeds, `SIMULATION_SEED=17` runs one.

mod bucket;
mod checks;
mod client;
mod daemon;
mod faults;
mod ledger;
mod liveness;
mod network;
mod promises;
mod two_streams;
mod world;

use std::ops::Range;
use std::sync::Mutex;

use liveness::Counts;
use world::World;

/// The default number of seeds, which takes a few seconds.
const SEEDS: u64 = 300;
const TWINS: u64 = 100;

#[test]
fn all_promises_hold_between_daemons_and_bucket_under_any_fault() {
    let all = Mutex::new(world::Counts::default());
    let run = |seed| all.lock().expect("no run panicked").add(run(seed));
    if for_each_seed(SEEDS, run) >= SEEDS {
        let all = all.into_inner().expect("no run panicked");
        let world::Counts { crashes, pauses, leaderless, slow_feeds, conflicts, .. } = all;
        happened(&[crashes, pauses, leaderless, slow_feeds, conflicts]);
        let world::Counts { replaced, lost_tails, purges, repairs, .. } = all;
        happened(&[replaced, lost_tails, purges, repairs]);
        happened(&[all.lapses, all.expiries, all.updates, all.erased, all.forgotten]);
    }
}

#[test]
fn live_connections_stay_and_dead_ones_lapse_in_time_under_any_fault() {
    let all = Mutex::new(Counts::default());
    let run = |seed| {
        let counts = liveness::run(seed);
        all.lock().expect("no run panicked").add(counts);
    };
    if for_each_seed(SEEDS, run) >= SEEDS {
        let all = all.into_inner().expect("no run panicked");
        let Counts { lapses, far_side, objections, graces, refreshes, reloads, .. } = all;
        happened(&[lapses, far_side, objections, graces, refreshes, reloads]);
        happened(&[all.taken_over, all.overtaken]);
        let Counts { kills, stops, cuts, partitions, leaderless, gateways, .. } = all;
        happened(&[kills, stops, cuts, partitions, leaderless, gateways]);
    }
}

#[test]
fn of_daemons_with_two_streams_those_of_the_older_one_serve_in_the_end() {
    let all = Mutex::new(two_streams::Counts::default());
    let run = |seed| all.lock().expect("no run panicked").add(two_streams::run(seed));
    if for_each_seed(SEEDS, run) >= SEEDS {
        let two_streams::Counts { stops, lost, late, yielded, returned, two_at_the_end } =
            all.into_inner().expect("no run panicked");
        happened(&[stops, lost, late, yielded, returned, two_at_the_end]);
    }
}

#[test]
fn a_history_looks_the_same_with_and_without_the_actions_of_invisible_users() {
    let all = Mutex::new([0; 5]);
    let run = |seed| {
        let counts = liveness::twins::run(seed);
        let mut all = all.lock().expect("no run panicked");
        all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
    };
    if for_each_seed(TWINS, run) >= TWINS {
        happened(&all.into_inner().expect("no run panicked"));
    }
}

/// Fails if something never happened in all runs: then they prove nothing about it.
fn happened(counts: &[u64]) {
    println!("{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "something never happened: {counts:?}");
}

/// Runs `count` seeds, or those of the environment. Returns their number.
fn for_each_seed(count: u64, run: impl Fn(u64) + Sync) -> u64 {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds: Range<u64> = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(count),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..workers {
            let mine = seeds.clone().skip(first).step_by(workers);
            let run = &run;
            scope.spawn(move || {
                for seed in mine {
                    let named = Named(seed);
                    run(seed);
                    std::mem::forget(named);
                }
            });
        }
    });
    seeds.end - seeds.start
}

fn run(seed: u64) -> world::Counts {
    let mut world = World::new(seed, false);
    if world.run().is_err() {
        report(seed);
    }
    world.counts
}

/// Repeats a failed run, and panics with the trace of the user concerned.
fn report(seed: u64) {
    let mut world = World::new(seed, true);
    let broken = world.run().expect_err("the same seed brings the same run");
    let trace = world.trace_of(&broken.key);
    panic!("{trace}\nSIMULATION_SEED={seed}: {:?}: {}", broken.key, broken.what);
}

/// Prints the seed if its run panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("SIMULATION_SEED={}", self.0);
    }
}
