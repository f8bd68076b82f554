//! Liveness: which daemons are alive and hear, which of them acts, and what time does to leases,
//! graces and `last_active`.

pub mod cell;
pub mod early_disconnects;
pub mod expiry;
pub mod expiry_task;
pub mod floor_raise;
pub mod hearing;
pub mod internal;
pub mod introductions;
pub mod leader_check;
pub mod lease_agreement;
pub mod marker_sweep;
pub mod peers;
mod upkeep;
