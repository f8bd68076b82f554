//! Several daemons' machines against one model of the bucket, through every reordering, loss and
//! crash that a seed brings. The same seed brings the same run. Once it is about what is written, and
//! once, in `liveness`, about who is online.
//!
//! `SIMULATION_SEEDS=10000` runs more of them, `SIMULATION_SEED=17` runs one.

mod bucket;
mod checks;
mod client;
mod daemon;
mod faults;
mod ledger;
mod liveness;
mod network;
mod promises;
mod world;

use std::ops::Range;
use std::sync::Mutex;

use liveness::Counts;
use world::World;

/// So many seeds take a few seconds.
const SEEDS: u64 = 300;
const TWINS: u64 = 100;

#[test]
fn whatever_happens_between_daemons_and_bucket_the_promises_are_kept() {
    for_each_seed(SEEDS, run);
}

#[test]
fn whatever_happens_who_is_there_stays_and_who_is_gone_goes_in_time() {
    let all = Mutex::new(Counts::default());
    let run = |seed| {
        let counts = liveness::run(seed);
        all.lock().expect("nobody panicked").add(counts);
    };
    if for_each_seed(SEEDS, run) >= SEEDS {
        let Counts { lapses, far_side, objections, graces, refreshes, reloads, carried_on } =
            all.into_inner().expect("nobody panicked");
        let each = [lapses, far_side, objections, graces, refreshes, reloads, carried_on];
        println!("{each:?}");
        assert!(each.iter().all(|count| *count > 0), "something never happened: {each:?}");
    }
}

#[test]
fn nobody_can_tell_a_history_from_the_same_without_what_is_done_in_hiding() {
    for_each_seed(TWINS, liveness::twins::run);
}

/// Runs so many seeds, or those that were asked for; how many they were.
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

fn run(seed: u64) {
    if World::new(seed, false).run().is_err() {
        tell(seed);
    }
}

/// Repeats a run that failed, and tells what happened to the key concerned.
fn tell(seed: u64) {
    let mut world = World::new(seed, true);
    let broken = world.run().expect_err("the same seed brings the same run");
    let trace = world.trace_of(&broken.key);
    panic!("{trace}\nSIMULATION_SEED={seed}: {:?}: {}", broken.key, broken.what);
}

/// Names the seed if its run panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("SIMULATION_SEED={}", self.0);
    }
}
