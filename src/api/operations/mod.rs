//! One file per operation.
//!
//! Every operation is a value with the same two functions:
//!
//! - `fn parse(fields: Fields, rules: &RequestRules) -> Result<Self, Refusal>` takes the fields of
//!   the request one by one, and refuses it by the name of the field that is wrong.
//! - `async fn run(self, ctx: &Context) -> Result<Reply, Refusal>` carries it out. It submits its
//!   commands before it first awaits, so that requests take effect in the order in which they are
//!   polled first.
//!
//! [`Request`] is the list of all; `channel`, `queries` and `writes` hold what several share. Only
//! a heartbeat, which each daemon reads beside the requests, is parsed in `api::heartbeats`.

mod batch;
mod channel;
mod connect;
mod context;
mod count_users;
mod delete_channel;
mod delete_users;
mod disconnect;
mod explain;
mod heartbeat;
mod queries;
mod query_channels;
mod query_users;
mod reply;
mod request;
mod rules;
mod update_connection;
mod upsert_channel;
mod upsert_users;
mod watch_channel;
mod writes;

pub use context::{Context, Times};
pub use reply::{Reply, push_refusal, too_large};
pub use request::Request;
