//! The edge to NATS: subjects, requests and answers as `PROTOCOL` has them.
//!
//! - [`transport`] takes requests in, executes them in order and sends their answers out.
//! - `operations` has one file per operation, and the parts that operations share.
//! - `request` parses the body of a request and knows the user that it acts as.
//! - [`heartbeats`] records the heartbeats of all clients beside the request queue.
//!
//! `transport` uses `operations`, and `operations` uses `request`. Both ways in read the usual body
//! of a heartbeat with `heartbeats::fast_path`, and any other with `operations::heartbeat`.

pub mod heartbeats;
mod operations;
mod request;
pub mod transport;

pub use operations::{OPERATIONS, Operation};
pub use transport::responder::Stats;
