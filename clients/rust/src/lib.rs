#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod beat;
#[cfg(test)]
mod cases_tests;
mod connection;
mod door;
mod error;
pub mod filter;
mod hub;
mod id;
mod lease;
mod link;
mod merge;
mod page;
mod patch;
mod query;
mod retry;
mod signals;
mod standing;
mod suspend;
mod user;
mod watch;
#[cfg(feature = "schema")]
pub mod wire;

pub use connection::{Connect, Connection, ConnectionState, Device};
pub use door::{Builder, ChannelWatch, Deleted, Service, Stats, User, Written};
pub use error::Error;
pub use filter::{Filter, Sort};
pub use id::Id;
pub use lease::{ConnectSeat, Lease, LeaseState, Seat};
pub use merge::Known;
pub use patch::{Availability, Patch, UserPatch};
pub use query::{ChannelsQuery, Own, Pages, Trusted, Users, UsersQuery};
pub use signals::Signals;
pub use user::{CustomFields, Fields, Seen};
pub use watch::{Change, Found, Kind, Named, Watch, WatchState};
