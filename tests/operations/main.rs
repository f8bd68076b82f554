//! The statements of `docs/operations.md`, each tried: what an acknowledgement survives, backup and
//! restore, more replicas, several cells, a rolling upgrade.
//!
//! `UPGRADE_FROM=/path/to/presenced` names the build from which the rolling upgrade starts, and to
//! which it goes back; without it both are the build under test.

#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks and tasks of the daemon in one place; a test has its own"
)]

#[allow(
    dead_code,
    unused_imports,
    reason = "the whole harness is shared; only a part of it is needed here"
)]
#[path = "../black_box/support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared with the chaos script")]
#[path = "../chaos/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with the chaos script")]
#[path = "../chaos/links.rs"]
mod links;

mod backup;
mod cells;
mod replicas;
mod survival;
mod upgrade;
