//! Heartbeats of all clients: every daemon hears every heartbeat, outside the queue group.
//!
//! `listener` reads the subscriptions, `queue` bounds the memory of a burst, `heartbeat` parses
//! any body, and `fast_path` the usual one without copies. Answers come from the `heartbeat`
//! operation.

mod fast_path;
mod heartbeat;
mod listener;
mod queue;

pub use heartbeat::Heartbeat;
pub use listener::{CAPACITY, HeartbeatListener, lanes, probe_lanes};
