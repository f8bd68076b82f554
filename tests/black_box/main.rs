//! The daemon from outside, as a client sees it, against a real nats-server.
//!
//! One program, so that it is linked once. `support` holds the server, the daemon and the client;
//! each other module holds one theme to the protocol.

#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks and tasks of the daemon in one place; a test has its own"
)]

mod support;

mod access;
mod batch;
mod bucket;
mod cases;
mod channels;
mod channels_data;
mod channels_doors;
mod channels_hammer;
mod channels_hostile;
mod channels_invisible;
mod channels_queries;
mod channels_watch;
mod check;
mod counts;
mod crash;
mod delete;
mod dev;
mod doors;
mod errors;
mod events;
mod filters;
mod forgetting;
mod hammer;
mod history;
mod hostile;
mod imports;
mod invisible;
mod invisible_twin;
mod invisible_twin_rich;
mod jetstream;
mod leaving;
mod liveness;
mod metrics;
mod nats_changes;
mod occupancy;
mod overtaking;
mod read_your_writes;
mod readme;
mod records;
mod reload;
mod replies;
mod rich_presence;
mod rich_queries;
mod roles;
mod stalls;
mod startup;
mod systemd;
mod systemd_units;
mod wire;
mod wire_text;
