//! The messages in which the daemons agree that a lease has lapsed, on
//! `presence.internal.v1.<bucket>`.

use serde::{Deserialize, Serialize};

use crate::presence::id::Id;
use crate::presence::user::Lifeline;

/// Where candidates are published.
pub const CANDIDATES: &str = "lapse";
/// Where objections go, with the daemon behind it.
pub const OBJECTIONS: &str = "objection";
/// Where the beginning and the end of a lease's end are told.
pub const ENDINGS: &str = "ending";

/// What a daemon is about to end, unless another has heard it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Candidates {
    pub daemon: String,
    pub number: u64,
    /// User, connection, and how often it connected.
    pub connections: Vec<(String, String, u64)>,
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

/// A daemon begins to end all that a lease holds, or has done so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    pub daemon: String,
    pub lease: String,
    pub done: bool,
}

/// Reads a connection of a candidate.
pub fn line((user, connection, connects): &(String, String, u64)) -> Option<(Id, Lifeline)> {
    let user = Id::parse(user, "user").ok()?;
    let connection = Id::parse(connection, "connection").ok()?;
    Some((user, Lifeline { connection, connects: *connects }))
}
