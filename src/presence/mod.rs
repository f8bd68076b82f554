//! The pure core: what presence means. No clock, no NATS, no async: time comes in as a value,
//! effects go out as values. It imports nothing else of this crate.
//!
//! In reading order:
//!
//! - [`id`], [`time`], [`number`], [`json`], [`custom`] and [`refusal`] are the vocabulary.
//! - [`user`] holds record, decision and projection; [`channel`] the same of channels.
//! - [`heard`], [`lease`] and [`lease_terms`] are about shared leases and signs of life.
//! - [`entity`] is the store's interface, and [`stored`] what stored objects have in common.
//! - [`field`], [`filter`] and [`sort`] are the query language.
//! - [`table`] keeps millions of items, and [`agenda`] checks each when its time comes.

pub mod agenda;
pub mod channel;
pub mod custom;
pub mod entity;
pub mod field;
pub mod filter;
pub mod heard;
pub mod id;
pub mod json;
pub mod lease;
pub mod lease_terms;
pub mod number;
pub mod refusal;
pub mod sort;
pub mod stored;
pub mod table;
pub mod time;
pub mod user;
