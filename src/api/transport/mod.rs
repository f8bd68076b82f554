//! Requests in, answers out.
//!
//! [`subjects`] reads the subjects of the cell, [`intake`] takes requests in (and `drain` the last
//! of them), [`executor`] executes them in order, [`responder`] sends answers, and [`micro`] speaks
//! the NATS service protocol.

mod drain;
pub mod executor;
pub mod intake;
pub mod micro;
pub mod responder;
pub mod subjects;
