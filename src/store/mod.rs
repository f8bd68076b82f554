//! The bucket: every record in memory, every change one compare-and-set write.
//!
//! [`stripe`] is the machinery without IO; the rest is a thin shell around it.

pub mod stripe;
