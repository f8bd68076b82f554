//! The messages in which daemons agree that a lease has lapsed, on `presence.internal.v1.<bucket>`.

use serde::{Deserialize, Serialize};

use crate::presence::id::Id;
use crate::presence::user::ConnectionGen;

/// The subject of proposals.
pub const PROPOSALS: &str = "lapse";
/// The subject of objections, followed by the daemon that proposed.
pub const OBJECTIONS: &str = "objection";
/// The subject of the beginning and the end of a lease's end.
pub const ENDINGS: &str = "ending";

/// A connection: its user, its id, its generation.
pub type Named = (String, String, u64);

/// The connections and leases that a daemon will end, unless another daemon has heard them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub daemon: String,
    pub number: u64,
    pub connections: Vec<Named>,
    pub leases: Vec<String>,
}

/// The items of a proposal that another daemon has heard within the lease. They are indexes into
/// the proposal's lists, each with the age of the last heartbeat in milliseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Objection {
    pub number: u64,
    pub connections: Vec<(usize, u64)>,
    pub leases: Vec<(usize, u64)>,
}

/// A daemon works on the end of a lease, or the end is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    pub daemon: String,
    pub lease: String,
    pub done: bool,
    /// The proposal of that daemon which named the lease; 0 if it takes over another's end.
    #[serde(default)]
    pub number: u64,
    /// The time after which its writes are done or void, in milliseconds.
    #[serde(default)]
    pub within_ms: u64,
    /// A chunk of the connections that are ended; the chunks of a list are sent in order.
    #[serde(default)]
    pub connections: Vec<Named>,
    /// The number of connections in the chunks before this one.
    #[serde(default)]
    pub from: usize,
    /// The number of connections in the whole list.
    #[serde(default)]
    pub of: usize,
}

/// Writes a connection for a message.
pub fn named(user: &Id, connection_gen: &ConnectionGen) -> Named {
    let ConnectionGen { connection, generation } = connection_gen;
    (user.as_str().to_owned(), connection.as_str().to_owned(), *generation)
}

/// Reads a connection from a message.
pub fn connection_gen((user, connection, generation): &Named) -> Option<(Id, ConnectionGen)> {
    let user = Id::parse(user, "user").ok()?;
    let connection = Id::parse(connection, "connection").ok()?;
    Some((user, ConnectionGen { connection, generation: *generation }))
}
