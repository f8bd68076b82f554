//! The edge to NATS: subjects, requests and answers as `PROTOCOL` has them. One file per
//! operation; [`intake`] takes requests in, [`executor`] executes them, [`responder`] sends answers out, [`micro`] speaks the
//! NATS service protocol.

mod batch;
mod channel;
mod connect;
mod delete_channel;
mod delete_users;
mod disconnect;
mod door;
mod drain;
pub mod executor;
mod explain;
mod fields;
mod heartbeat;
mod heartbeat_fast_path;
pub mod heartbeat_listener;
mod heartbeat_queue;
pub mod intake;
mod json_strict;
pub mod micro;
mod operation;
mod query_channels;
mod query_users;
pub mod responder;
pub mod subjects;
mod upsert_channel;
mod upsert_users;
mod watch_channel;
mod writes;

pub use operation::{OPERATIONS, Operation};
pub use responder::Stats;
