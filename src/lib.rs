//! `presenced` answers presence requests on NATS: who is online, what is their status, when were
//! they last active.
//!
//! The layers, in reading order; arrows point to the left only:
//! [`presence`] (the pure core) ← [`store`] (JetStream: the replica and the commits).

pub mod presence;
pub mod store;
