//! The body of a request: strict JSON, taken apart field by field, and the door it came through.

pub mod door;
pub mod fields;
pub mod json_strict;
