//! The liveness of several daemons: the real expiry, hearing, peers, indexes and stripes against a
//! model of the bucket and the network. Clocks drift and jump. Heartbeats, proposals and objections
//! are lost and late. Daemons die and are stopped, servers are partitioned, and gateways die, pause
//! and come back. The results are checked against `docs/protocol.md`, *Liveness*.

mod bounds;
mod daemon;
mod effects;
mod events;
mod faults;
mod gateway;
mod lease_ends;
mod overtaking;
mod reach;
mod truth;
pub mod twins;
mod world;

pub use truth::Counts;
use world::World;

/// A broken promise.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

/// Runs one seed, and panics with the trace if a promise was broken.
pub fn run(seed: u64) -> Counts {
    let mut world = World::new(seed, false);
    if world.run().is_err() {
        let mut world = World::new(seed, true);
        let broken = world.run().expect_err("the same seed brings the same run");
        panic!("{}\nSIMULATION_SEED={seed}: {broken}", world.trace());
    }
    world.truth.counts
}
