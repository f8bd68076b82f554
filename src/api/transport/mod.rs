//! Requests in, answers out.
//!
//! - [`intake`] takes requests in and puts them into [`queue`]; `drain` takes the last ones.
//! - [`executor`] executes requests in order, and [`responder`] sends their answers.
//! - [`micro`] speaks the NATS service protocol.

mod drain;
pub mod executor;
pub mod intake;
pub mod micro;
pub mod queue;
pub mod responder;
