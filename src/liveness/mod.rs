//! Who of the daemons is alive, and whose turn it is to act.

pub mod graces;
pub mod internal;
pub mod peers;
