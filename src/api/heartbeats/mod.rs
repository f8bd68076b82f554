//! Heartbeats of all clients: every daemon hears every heartbeat, outside the queue group.
//!
//! `listener` reads the subscriptions, `queue` bounds the memory of a burst, and `fast_path`
//! parses the usual body without copies. Answers come from the `heartbeat` operation.

pub(in crate::api) mod fast_path;
mod listener;
mod queue;

pub use listener::{CAPACITY, HeartbeatListener, lanes, probe_lanes};
