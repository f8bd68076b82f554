//! `presenced` answers presence requests on NATS: who is online, what is their status, when were
//! they last active.
//!
//! The layers, in reading order; arrows point down only:
//!
//! 1. [`presence`]: the pure core. Ids, records, decisions, the one projection, filters.
pub mod cli;
pub mod config;
pub mod daemon;
pub mod logging;
pub mod presence;
