//! The pure core: what presence means. No clock, no NATS, no async: time comes in as a value,
//! effects go out as values. It imports nothing else of this crate.

pub mod field;
pub mod filter;
pub mod id;
pub mod number;
pub mod refusal;
pub mod sort;
