//! Who of the daemons is alive and hears, whose turn it is to act, and what is then done: graces
//! end, silent leases lapse, `last_active` is refreshed.

pub mod expiry;
pub mod expiry_task;
pub mod hearing;
pub mod internal;
pub mod leader_check;
pub mod peers;
