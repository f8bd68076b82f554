//! The liveness of several daemons: the real judges, hearing, peers, indexes and stripes against a model
//! of the bucket and of the ways between them. Clocks drift and jump, heartbeats, proposal and
//! objections are lost and late, daemons die and are stopped, servers do not reach each other, and
//! gateways die, pause and come back. Held against `PROTOCOL`, section 4.

mod bounds;
mod daemon;
mod effects;
mod events;
mod faults;
mod gateway;
mod lease_ends;
mod reach;
mod truth;
pub mod twins;
mod world;

pub use truth::Counts;
use world::World;

/// Runs one seed, and tells what happened if a promise was broken.
pub fn run(seed: u64) -> Counts {
    let mut world = World::new(seed, false);
    if world.run().is_err() {
        let mut world = World::new(seed, true);
        let broken = world.run().expect_err("the same seed brings the same run");
        panic!("{}\nSIMULATION_SEED={seed}: {broken}", world.trace());
    }
    world.truth.counts
}
