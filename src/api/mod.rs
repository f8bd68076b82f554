//! The edge to NATS: subjects, requests and answers as `docs/protocol.md` has them.
//!
//! - [`transport`] takes requests in, executes them in order and sends their answers out.
//! - `operations` has one file per operation, and the parts that operations share.
//! - [`heartbeats`] records the heartbeats of all clients beside the request queue.
//! - [`request`] reads a request: its subject, the user that it acts as, and its body.
//!
//! Each uses those below it only.

pub mod heartbeats;
mod operations;
pub mod request;
pub mod transport;

pub use transport::responder::Stats;
