//! The pure core: what presence means. No clock, no NATS, no async: time comes in as a value,
//! effects go out as values. It imports nothing else of this crate.
//!
//! In reading order: [`id`] and [`refusal`] are the words, [`user`] is what this daemon is for
//! (record, decision, projection), [`entity`] is what the store needs to know of a kind of record.

pub mod custom;
pub mod entity;
pub mod id;
pub mod json;
pub mod refusal;
pub mod time;
pub mod user;
