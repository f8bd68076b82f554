//! The messages in which the daemons agree that a lease has lapsed, on
//! `presence.internal.v1.<bucket>`.

use serde::{Deserialize, Serialize};

use crate::presence::id::Id;
use crate::presence::user::ConnectionGen;

/// Where proposals are published.
pub const PROPOSALS: &str = "lapse";
/// Where objections go, with the daemon behind it.
pub const OBJECTIONS: &str = "objection";
/// Where the beginning and the end of a lease's end are told.
pub const ENDINGS: &str = "ending";

/// A connection: its user, its id, and how often it has connected.
pub type Named = (String, String, u64);

/// What a daemon is about to end, unless another has heard it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub daemon: String,
    pub number: u64,
    pub connections: Vec<Named>,
    pub leases: Vec<String>,
}

/// What of that another daemon has heard within the lease: places in the lists, and how long ago
/// in milliseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Objection {
    pub number: u64,
    pub connections: Vec<(usize, u64)>,
    pub leases: Vec<(usize, u64)>,
}

/// A daemon works on the end of a lease, or it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    pub daemon: String,
    pub lease: String,
    pub done: bool,
    /// Which proposal of that daemon the lease was among; 0 if it carries on what another began.
    #[serde(default)]
    pub number: u64,
    /// After so long its writes are done or void, in milliseconds.
    #[serde(default)]
    pub within_ms: u64,
    /// Some of what is ended: there are as many messages as it takes to name all, in order.
    #[serde(default)]
    pub connections: Vec<Named>,
    /// How many the messages before this one have named.
    #[serde(default)]
    pub from: usize,
    /// How many are ended in all.
    #[serde(default)]
    pub of: usize,
}

/// Names a connection.
pub fn named(user: &Id, connection_gen: &ConnectionGen) -> Named {
    (
        user.as_str().to_owned(),
        connection_gen.connection.as_str().to_owned(),
        connection_gen.generation,
    )
}

/// Reads a connection that was named.
pub fn connection_gen((user, connection, generation): &Named) -> Option<(Id, ConnectionGen)> {
    let user = Id::parse(user, "user").ok()?;
    let connection = Id::parse(connection, "connection").ok()?;
    Some((user, ConnectionGen { connection, generation: *generation }))
}
