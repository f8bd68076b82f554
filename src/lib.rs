//! `presenced` answers presence requests on NATS: who is online, what is their status, when were
//! they last active.
//!
//! The layers, in reading order; each may use those before it:
//!
//! 1. [`presence`]: the pure core. Ids, records, decisions, the one projection, filters.
//! 2. [`store`]: JetStream. The replica in memory, and every change as one compare-and-set write.
//! 3. [`liveness`]: which daemons are alive, and which one acts.
//! 4. [`service`]: joins core, store and liveness: a command in, an answer out.
//! 5. [`api`]: the edge to NATS. One file per operation, errors, the service protocol.
//! 6. [`daemon`]: wiring. Connect, replay, serve, leave.
//!
//! Beside them:
//!
//! - [`cli`], [`config`] (settings that cannot be wrong), [`reload`] (SIGHUP), [`version`];
//! - [`dev`]: everything on one machine;
//! - [`health`] (what keeps a daemon from serving), [`watchdog`] (whether its loops run),
//!   [`systemd`] (notifications), [`logging`], [`metrics`], [`process`] (memory, processor time);
//! - [`clock`], [`payload_limit`] (the largest message that the server takes now), [`round_trip`]
//!   (whether the server has processed all messages sent).

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dev;
pub mod health;
pub mod liveness;
pub mod logging;
pub mod metrics;
pub mod payload_limit;
pub mod presence;
pub mod process;
pub mod reload;
pub mod round_trip;
pub mod service;
pub mod store;
pub mod systemd;
pub mod version;
pub mod watchdog;
