//! Several daemons' machines against one model of the bucket, through every reordering, loss and
//! crash that a seed brings. The same seed brings the same run.
//!
//! `SIMULATION_SEEDS=10000` runs more of them, `SIMULATION_SEED=17` runs one.

mod bucket;
mod checks;
mod client;
mod daemon;
mod faults;
mod ledger;
mod network;
mod promises;
mod world;

use world::World;

/// So many seeds take a few seconds.
const SEEDS: u64 = 300;

#[test]
fn whatever_happens_between_daemons_and_bucket_the_promises_are_kept() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..workers {
            let mine = seeds.clone().skip(first).step_by(workers);
            scope.spawn(move || mine.for_each(run));
        }
    });
}

fn run(seed: u64) {
    let named = Named(seed);
    if World::new(seed, false).run().is_err() {
        tell(seed);
    }
    std::mem::forget(named);
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
