//! A request before it is executed: its subject, the door it came through, and its body.
//!
//! `subjects` and `operation` say what is asked for, `door` as whom, and `fields` takes the body
//! apart, which is strict JSON (`json_strict`).

pub mod door;
pub mod fields;
mod json_strict;
pub mod operation;
pub mod subjects;
