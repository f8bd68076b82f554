//! The record of a user as the replica keeps it: one small allocation.
//!
//! The layout is private to one run of the daemon. The version stands first, so that it can be
//! read without the rest.

use super::record::Record;
use crate::presence::entity::DaemonId;

/// A [`Record`], packed.
#[derive(Debug)]
pub struct Packed(Box<[u8]>);

impl Packed {
    pub fn new(record: &Record) -> Self {
        let change = (record.version, record.changed_by);
        let packed = postcard::to_allocvec(&(change, record));
        // Every field has a form, and memory takes it.
        Self(packed.unwrap_or_default().into_boxed_slice())
    }

    pub fn record(&self) -> Record {
        let ((version, changed_by), record): (_, Record) = read(&self.0);
        Record { version, changed_by, ..record }
    }

    /// The version, and the daemon that made the change which it counts.
    pub fn change(&self) -> (u64, Option<DaemonId>) {
        read(&self.0)
    }
}

/// Reads what stands at the front.
fn read<'a, T: serde::Deserialize<'a>>(packed: &'a [u8]) -> T {
    match postcard::take_from_bytes(packed) {
        Ok((value, _)) => value,
        Err(error) => unreachable!("what was packed here is not read: {error}"),
    }
}
