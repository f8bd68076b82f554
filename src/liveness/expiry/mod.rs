//! Expires leases, ends graces, refreshes `last_active`. Sans-IO: inputs carry the time and what
//! the daemon knows ([`View`]), effects come out as [`Effect`] values, to be carried out in their
//! order. The shell around it is [`expiry_task`](super::expiry_task).
//!
//! A lease expires in two steps: the daemon proposes its end, and ends it if no other daemon
//! objects. Graces and `last_active` depend on the bucket alone, so they need no proposal.
//!
//! Every daemon watches all leases. The first in rendezvous order acts; each further one acts a
//! second later, if its replica still shows that there is something to do.

mod lease_end;
pub mod messages;
mod proposals;
mod takeover;
pub mod writer;

use self::proposals::OpenProposal;
use self::takeover::{LeaseConnections, LeaseEnds};
use super::hearing::Hearing;
use super::peers::Peers;
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::lease::Leases;
use crate::presence::lease_terms::LeaseTimes;
use crate::presence::time::Now;
use crate::presence::user::{Command, Index};
use messages::{Ending, Objection, Proposal};

/// The time for which other daemons may object to a proposal, in milliseconds.
pub const OBJECTION_MS: u64 = 300;
/// The maximum age of a proposal that is decided, in milliseconds: longer than the proof that this
/// daemon hears takes. After a stop, a silent client may be back without having been heard yet.
const DECIDED_WITHIN_MS: u64 = 2000;
/// The maximum age of the proof that this daemon hears when it takes over the end of a lease, in
/// milliseconds: two periods of the probes.
const PROVEN_WITHIN_MS: u64 = 1000;
/// The delay between two consecutive ranks, in milliseconds.
const STEP_MS: u64 = 1000;
/// The delay of the first rank, in milliseconds. One heartbeat does not reach all daemons at the
/// same moment, and the others should not have to object for that.
const MARGIN_MS: u64 = 100;
/// The time for the write of a lapse, in milliseconds, once the lapses before it are written. Then
/// the write is void, and the lease is due again. It is short because a daemon that was stopped, or
/// that waited for JetStream's leader, would act on outdated heartbeats.
const LAPSE_WRITE_MS: u64 = 1000;
/// The time for any other write, in milliseconds; after that it is due again.
const WRITE_MS: u64 = 5000;
/// The time granted for each lapse, in microseconds: the contract grants 1 s for 10 000.
const GRANTED_US: u64 = 100;
/// The maximum number of users taken per stripe and tick.
const MAX_USERS_PER_TICK: usize = 64;
/// The maximum number of connections or leases in one message.
const MAX_NAMED_PER_MESSAGE: usize = 500;
/// The maximum size of one of them in a message, in bytes: two ids, each character escaped.
const MAX_NAMED_BYTES: usize = 1100;

/// The state that a daemon knows at the moment: the stripes of its replica, each under a lock of
/// its own, or a simulation's stand-in for them. A lock may be held while `work` runs, so `work`
/// asks in this order only: index, leases, peers and hearing.
pub trait View {
    /// Works on the index of each stripe, one after another.
    fn each_index(&self, work: impl FnMut(&mut Index));
    /// Works on the index of a user's stripe.
    fn with_index<R>(&self, user: &Id, work: impl FnOnce(&mut Index) -> R) -> R;
    /// Works on the shared leases.
    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R;
    /// The connections that the replica shows on a shared lease, by user.
    fn held_by(&self, lease: &Id) -> LeaseConnections;
    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R;
    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R;
}

/// An effect of the machine.
#[derive(Debug)]
pub enum Effect {
    /// Publish a proposal to all daemons.
    Propose(Proposal),
    /// Send an objection to the daemon that proposed.
    Object { to: DaemonId, objection: Objection },
    /// Publish to all daemons that this one works on the end of a lease, or that the end is done.
    Broadcast(Ending),
    /// Write one user.
    Write(PendingWrite),
    /// Write users with connections on a lease; then call [`Expiry::on_writes_done`].
    EndLease { lease: Id, writes: Vec<PendingWrite> },
}

/// A write to be carried out.
#[derive(Debug)]
pub struct PendingWrite {
    pub user: Id,
    pub command: Command,
    /// The time, on the monotonic clock, at which it is dropped rather than written.
    pub deadline_ms: u64,
}

/// The expiry machine of one daemon.
#[derive(Debug)]
pub struct Expiry {
    daemon: DaemonId,
    times: LeaseTimes,
    /// The number of connections or leases that fit into a message.
    named_per_message: usize,
    last_number: u64,
    open: Vec<OpenProposal>,
    ends: LeaseEnds,
    /// The time by which all lapses so far are written, by the time granted for each; in
    /// microseconds, since many small leases may lapse together.
    written_by_us: u64,
}

impl Expiry {
    pub fn new(daemon: DaemonId, lease_ms: u64) -> Self {
        Self {
            daemon,
            times: LeaseTimes::of_all(lease_ms),
            named_per_message: MAX_NAMED_PER_MESSAGE,
            last_number: 0,
            open: Vec::new(),
            ends: LeaseEnds::default(),
            written_by_us: 0,
        }
    }

    /// Other leases count from here on.
    pub fn on_lease_times(&mut self, times: LeaseTimes) {
        self.times = times;
    }

    /// Messages have at most `max_bytes` from here on. One beyond what the server takes would cost
    /// the connection, and nobody could be expired.
    pub fn on_payload_limit(&mut self, max_bytes: usize) {
        self.named_per_message = (max_bytes / MAX_NAMED_BYTES).clamp(1, MAX_NAMED_PER_MESSAGE);
    }

    /// Time has passed.
    pub fn on_tick(&mut self, view: &impl View, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_over_ends(view, now.mono_ms, &mut effects);
        self.take_due(view, now, &mut effects);
        self.decide_proposals(view, now.mono_ms, &mut effects);
        effects
    }

    /// The writes that end connections.
    fn lapses(&mut self, ended: LeaseConnections, now_ms: u64) -> Vec<PendingWrite> {
        let granted_us = u64::try_from(ended.len()).unwrap_or(u64::MAX).saturating_mul(GRANTED_US);
        let now_us = now_ms.saturating_mul(1000);
        self.written_by_us = self.written_by_us.max(now_us).saturating_add(granted_us);
        let deadline_ms = (self.written_by_us / 1000).saturating_add(LAPSE_WRITE_MS);
        let lapse = |(user, generations)| PendingWrite {
            user,
            command: Command::Lapse { generations },
            deadline_ms,
        };
        ended.into_iter().map(lapse).collect()
    }
}

#[cfg(test)]
mod tests;
