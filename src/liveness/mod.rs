//! Liveness: the daemons that are alive and hear, the one of them that acts, and the effects of time.
//!
//! - [`peers`], [`internal`], [`introductions`] and [`cell`] know the other daemons, [`build`] how to
//!   name them.
//! - [`hearing`] and [`leader_check`] know whether this one hears.
//! - [`expiry`] and [`expiry_task`] end leases, graces and statuses, and refresh `last_active`.
//! - [`early_disconnects`] ends connections whose disconnect came first.
//! - [`lease_agreement`], [`marker_sweep`] and [`floor_raise`] keep what the bucket holds beside
//!   records; `upkeep` paces them.

pub mod build;
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
