//! The bounds of `docs/protocol.md`, *Liveness*: silent connections end in time, and `last_active` does not

use presenced::presence::id::Id;
use presenced::presence::time::Time;
use presenced::presence::user::{Connection, Record};

use super::Broken;
use super::gateway::made_by;
use super::truth::Voice;
use super::world::{World, id};

/// The bound of a lapse without any fault, now or shortly before.
pub const BOUND_MS: u64 = 2000;
/// The additional time for a grace.
const GRACE_BOUND_MS: u64 = 1000;
/// The additional time after a fault of daemons or NATS.
pub const AFTER_A_FAULT_MS: u64 = 5000;
/// After this long no effect of a fault is left but deaf daemons.
const FORGOTTEN_MS: u64 = 5000;

impl World {
    /// Checks the bounds at this moment.
    pub fn check(&mut self) -> Result<(), Broken> {
        if self.routes.closed_until_ms <= self.agenda.now_ms {
            self.routes.closed.clear();
        }
        self.check_ends()?;
        let Some(reliable_ms) = self.reliable_since_ms() else { return Ok(()) };
        for number in 0..self.settings.users {
            let user = id(&format!("u{number}"));
            let Some(record) = self.stored(&user) else { continue };
            for connection in &record.connections {
                self.check_gone(&user, connection, reliable_ms)?;
            }
            self.check_grace(&user, record, reliable_ms)?;
            self.check_last_active(&user, record, reliable_ms)?;
        }
        Ok(())
    }

    /// The time from which a reliable daemon has been there, if there is one.
    pub fn reliable_since_ms(&self) -> Option<u64> {
        let now_ms = self.agenda.now_ms;
        let able = self.daemons.values().filter(|daemon| {
            daemon.is_ready() && !daemon.is_stopped(now_ms) && self.reaches_leader(daemon.id)
        });
        let since = able.filter_map(|daemon| self.reliable_ms.get(&daemon.id)).copied().min();
        since.filter(|since_ms| *since_ms <= now_ms)
    }

    /// Returns whether there was no fault then, and no effect of an earlier one.
    pub fn is_quiet(&self, at_ms: u64) -> bool {
        self.disturbed_ms + FORGOTTEN_MS + self.settings.lease_ms <= at_ms
    }

    /// The latest time for something that is unhindered since `from_ms`, and that takes `bound_ms`
    /// without a fault.
    fn latest_ms(&self, since_ms: u64, due_ms: u64, bound_ms: u64, reliable_ms: u64) -> u64 {
        let in_time_ms = due_ms + bound_ms;
        if self.is_quiet(since_ms) && reliable_ms <= since_ms {
            return in_time_ms;
        }
        (in_time_ms + AFTER_A_FAULT_MS).max(reliable_ms + AFTER_A_FAULT_MS)
    }

    /// Checks that a connection without signs of life is ended in time.
    fn check_gone(
        &self,
        user: &Id,
        connection: &Connection,
        reliable_ms: u64,
    ) -> Result<(), Broken> {
        let now_ms = self.agenda.now_ms;
        let (number, run) = made_by(&connection.id);
        let gateway = &self.gateways[number];
        let same_run = gateway.alive && gateway.run == run && gateway.paused_until_ms <= now_ms;
        let kept = match connection.lease {
            Some(_) => same_run,
            None => gateway.run == run && gateway.keeps(user, &connection.id, now_ms),
        };
        if kept {
            return Ok(());
        }
        let sign_ms = self.truth.last_sign_ms(&Voice::of(user, connection));
        let due_ms = sign_ms + self.settings.lease_ms;
        let latest_ms = self.latest_ms(sign_ms, due_ms, BOUND_MS, reliable_ms);
        if now_ms > latest_ms {
            return Err(Broken(format!(
                "{user:?} still has {connection:?}, last heard of at {sign_ms}, due until \
                 {latest_ms}"
            )));
        }
        Ok(())
    }

    fn check_grace(&self, user: &Id, record: &Record, reliable_ms: u64) -> Result<(), Broken> {
        let leaving = record.leaving.first();
        let (Some(since_ms), Some(_)) = (self.truth.graces.get(user), leaving) else {
            return Ok(());
        };
        let due_ms = since_ms + self.settings.grace_ms;
        let latest_ms = self.latest_ms(*since_ms, due_ms, GRACE_BOUND_MS, reliable_ms);
        if self.agenda.now_ms > latest_ms {
            return Err(Broken(format!("the grace of {user:?} since {since_ms} has not ended")));
        }
        Ok(())
    }

    /// Checks that `last_active` of a connected user is not too old, where clocks are right.
    fn check_last_active(
        &self,
        user: &Id,
        record: &Record,
        reliable_ms: u64,
    ) -> Result<(), Broken> {
        let Some(Time(active)) = record.last_active.filter(|_| !record.connections.is_empty())
        else {
            return Ok(());
        };
        if self.settings.wall_clocks_lie {
            return Ok(());
        }
        let since_ms = u64::try_from(active - 1_700_000_000_000).unwrap_or(0);
        let due_ms = since_ms + self.settings.refresh_ms;
        let shared = record.connections.iter().any(|each| each.lease.is_some());
        let bound_ms = if shared { BOUND_MS } else { self.settings.interval_ms };
        let latest_ms = self.latest_ms(since_ms, due_ms, bound_ms, reliable_ms);
        if self.agenda.now_ms > latest_ms {
            return Err(Broken(format!("{user:?} was last active at {since_ms}: {record:?}")));
        }
        Ok(())
    }

    /// Checks, when all faults are over, that exactly the live connections are stored, and that all
    /// replicas agree.
    pub fn check_the_end(&self) -> Result<(), Broken> {
        for number in 0..self.settings.users {
            let user = id(&format!("u{number}"));
            let stored = self.stored(&user);
            let connections = stored.map_or(&[][..], |record| &record.connections);
            let mut there: Vec<_> = connections.iter().map(|each| each.id.clone()).collect();
            let alive = self.gateways.iter().filter(|gateway| gateway.alive);
            let members = alive.flat_map(|gateway| gateway.members.keys());
            let of_user = members.filter(|(of, _)| *of == user);
            let mut expected: Vec<_> = of_user.map(|(_, connection)| connection.clone()).collect();
            there.retain(|connection| {
                let member = (user.clone(), connection.clone());
                expected.contains(connection) || !self.truth.ends.left_over.contains(&member)
            });
            there.sort_unstable();
            expected.sort_unstable();
            if there != expected {
                return Err(Broken(format!(
                    "in the end {user:?} has {there:?}, and not {expected:?}"
                )));
            }
            for daemon in self.daemons.values() {
                let machine = daemon.view.machine.borrow();
                let seen_all = daemon.position == self.bucket.last_seq;
                if seen_all && machine.record(&user).as_deref() != stored {
                    return Err(Broken(format!("in the end {} knows another {user:?}", daemon.id)));
                }
            }
        }
        let idle = |gateway: &&super::gateway::Gateway| gateway.alive && !gateway.is_idle();
        if let Some(gateway) = self.gateways.iter().find(idle) {
            return Err(Broken(format!("in the end not all is answered: {gateway:?}")));
        }
        Ok(())
    }
}
