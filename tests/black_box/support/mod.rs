//! The base of the tests: real servers, the real daemon, and clients that hold every answer and
//! every event to the protocol.

pub mod channels;
pub mod client;
pub mod daemon;
pub mod events;
pub mod heart;
pub mod http;
pub mod lag;
pub mod load;
pub mod manager;
pub mod pair;
pub mod process;
pub mod server;
pub mod stage;
pub mod wait;

pub use client::{Client, Refused, token};
pub use daemon::Daemon;
pub use events::{Event, Events};
pub use manager::Manager;
pub use pair::Pair;
pub use server::Server;
pub use stage::Stage;
pub use wait::{eventually, keys, within};

/// Settings of a daemon: the key behind `PRESENCED_`, and its value.
pub type Settings<'a> = &'a [(&'a str, &'a str)];
