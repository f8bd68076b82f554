//! The largest message that the server takes at present. It may differ by account, and change while
//! the daemon runs; a message beyond it costs the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of the limit reserved for the headers of a message, in bytes.
const HEADER_BYTES: usize = 1024;

/// The limit that counts now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PayloadLimit(Arc<AtomicUsize>);

impl PayloadLimit {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// The largest message with its headers.
    pub fn message(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The largest body of a message with the headers of this daemon.
    pub fn body(&self) -> usize {
        self.message().saturating_sub(HEADER_BYTES)
    }

    /// Sets the limit. Returns whether it differs from the one before.
    pub fn set(&self, bytes: usize) -> bool {
        self.0.swap(bytes, Ordering::Relaxed) != bytes
    }
}
