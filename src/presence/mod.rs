//! The pure core: what presence means. No clock, no NATS, no async: time comes in as a value,
//! effects go out as values. It imports nothing else of this crate.
//!
//! In reading order: [`id`], [`time`] and [`refusal`] are the words; [`user`] is what this daemon
//! is for (record, decision, projection); [`channel`] is where users meet; [`entity`] is what the store needs to know of a kind of
//! record; [`field`], [`filter`] and [`sort`] are the query language.

pub mod channel;
pub mod custom;
pub mod entity;
pub mod field;
pub mod filter;
pub mod id;
pub mod json;
pub mod lease;
pub mod number;
pub mod refusal;
pub mod sort;
pub mod time;
pub mod user;
