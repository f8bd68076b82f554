//! Each command against two daemons.

#[path = "../../../clients/rust/tests/support/mod.rs"]
mod servers;
mod support;

mod connection;
mod every;
mod failures;
mod forms;
mod manual;
mod operations;
mod page;
mod screen;
mod transfer;
mod users;
mod watching;
