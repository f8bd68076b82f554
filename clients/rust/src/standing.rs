//! Since when an object is in its state, and what last went wrong.

use std::time::Instant;

use crate::error::Error;

/// The data that go with the state of a connection, a watch or a lease.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub since: Instant,
    /// None while all is well.
    pub last_error: Option<Error>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { since: Instant::now(), last_error: None }
    }
}
