//! One file per operation.
//!
//! Every operation is a parsed value with `async fn run(self, ctx: &Context) -> Result<Reply,
//! Refusal>`. It submits its commands before it first awaits, so that requests take effect in the
//! order in which they are polled first. [`Request`] is the list of all; `channel`, `queries` and
//! `writes` hold what several share.

mod batch;
mod channel;
mod connect;
mod context;
mod count_users;
mod delete_channel;
mod delete_users;
mod disconnect;
mod explain;
pub mod heartbeat;
mod operation;
mod queries;
mod query_channels;
mod query_users;
mod reply;
mod request;
mod update_connection;
mod upsert_channel;
mod upsert_users;
mod watch_channel;
mod writes;

pub use context::{Context, Times};
pub use operation::{OPERATIONS, Operation};
pub use reply::{Reply, push_refusal, too_large};
pub use request::Request;
