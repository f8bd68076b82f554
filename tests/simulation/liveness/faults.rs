//! Faults, and their repair.

use presenced::presence::entity::DaemonId;

use super::events::{Event, Incoming, ToGateway};
use super::world::{NODES, World};

/// The longest time until a daemon detects that it has missed heartbeats, or until they have
/// reached it.
const NOTICED_MS: u64 = 2000;

impl World {
    /// Causes a random fault.
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let (now_ms, lease_ms) = (self.agenda.now_ms, self.settings.lease_ms);
        if let Some(id) = self.rng.choice(self.all_daemons()) {
            match self.rng.u32(0..14) {
                0 => self.die(id),
                1 => self.stop(id),
                2 => self.cut_off(id),
                3 => self.drop_heartbeats(id),
                4 => {
                    let until_ms = now_ms + self.rng.u64(500..lease_ms);
                    let by_ms = self.rng.u64(100..lease_ms);
                    self.note(|| format!("{id} hears {by_ms} ms late until {until_ms}"));
                    if let Some(daemon) = self.daemons.get_mut(&id) {
                        (daemon.link.slow_until_ms, daemon.link.slow_by_ms) = (until_ms, by_ms);
                    }
                    self.unreliable(id, until_ms + by_ms);
                }
                5 => {
                    let until_ms = now_ms + self.rng.u64(500..5000);
                    self.note(|| format!("the replica of {id} is slow until {until_ms}"));
                    if let Some(daemon) = self.daemons.get_mut(&id) {
                        daemon.feed_slow_until_ms = until_ms;
                    }
                    self.unreliable(id, until_ms);
                }
                6 => {
                    self.truth.counts.leaderless += 1;
                    self.leaderless_until_ms = now_ms + self.rng.u64(100..3000);
                    let until_ms = self.leaderless_until_ms;
                    self.note(|| format!("the stream has no leader until {until_ms}"));
                    self.all_unreliable(until_ms);
                }
                7 => {
                    self.leader = self.rng.usize(0..NODES);
                    let leader = self.leader;
                    self.note(|| format!("server {leader} leads the stream"));
                    // The other servers may not reach it.
                    self.all_unreliable(now_ms.max(self.routes.closed_until_ms));
                }
                8 => self.partition(),
                9..12 => self.fault_of_a_gateway(),
                _ => self.move_a_clock(id),
            }
        }
        let ms = self.rng.u64(300..6000);
        self.agenda.after(ms, Event::Fault);
    }

    pub fn die(&mut self, id: DaemonId) {
        if self.daemons.remove(&id).is_some() {
            self.truth.counts.kills += 1;
            self.note(|| format!("{id} dies"));
            self.disturb(self.agenda.now_ms);
            self.reliable_ms.remove(&id);
            let ms = self.rng.u64(200..8000);
            self.agenda.after(ms, Event::Start);
        }
    }

    /// At a decisive moment a daemon may be stopped or killed.
    pub fn strike(&mut self, id: DaemonId) {
        if !self.calm && self.chance(self.settings.struck) {
            if self.rng.bool() {
                let ms = self.rng.u64(0..40);
                self.agenda.after(ms, Event::Die(id));
            } else {
                self.stop(id);
            }
        }
    }

    fn stop(&mut self, id: DaemonId) {
        let now_ms = self.agenda.now_ms;
        let until_ms = now_ms + self.rng.u64(200..2 * self.settings.lease_ms);
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        if !daemon.is_stopped(now_ms) {
            daemon.stopped_until_ms = until_ms;
            self.truth.counts.stops += 1;
            self.note(|| format!("{id} is stopped until {until_ms}"));
            self.agenda.at(until_ms, Event::Resume(id));
            self.unreliable(id, until_ms);
        }
    }

    /// A daemon that was stopped takes the messages since then: those of each channel in order.
    pub fn resume(&mut self, id: DaemonId) {
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        daemon.stopped_until_ms = 0;
        let now_ms = self.agenda.now_ms;
        let mut taken_ms = [now_ms; Incoming::CHANNELS];
        for incoming in std::mem::take(&mut daemon.backlog) {
            let channel = incoming.channel();
            taken_ms[channel] += self.rng.u64(0..=2);
            self.agenda.at(taken_ms[channel], Event::To(id, incoming));
        }
        // Messages from here on lie behind it.
        let last_ms = taken_ms.into_iter().max().unwrap_or(now_ms);
        daemon.link.last_ms = daemon.link.last_ms.max(last_ms);
        self.note(|| format!("{id} goes on"));
    }

    /// The connection on which a daemon listens is lost for a while.
    fn cut_off(&mut self, id: DaemonId) {
        let now_ms = self.agenda.now_ms;
        let length_ms = self.rng.u64(50..2 * self.settings.lease_ms);
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        if daemon.link.cut_until_ms > now_ms {
            return;
        }
        daemon.link.cut_until_ms = now_ms + length_ms;
        self.truth.counts.cuts += 1;
        self.note(|| format!("{id} is cut off for {length_ms} ms"));
        let noticed_ms = self.rng.u64(0..length_ms);
        self.agenda.after(noticed_ms, Event::To(id, Incoming::CutOff));
        self.agenda.after(length_ms, Event::To(id, Incoming::Connected));
        self.unreliable(id, now_ms + length_ms);
    }

    /// Heartbeats arrive faster than a daemon takes them. The event about that may be dropped too;
    /// then
    /// the fault lasts long enough to drop a probe.
    fn drop_heartbeats(&mut self, id: DaemonId) {
        let now_ms = self.agenda.now_ms;
        let is_reported = self.rng.bool();
        let length_ms = if is_reported { self.rng.u64(10..3000) } else { self.rng.u64(600..3000) };
        let drops = *self.rng.choice(&[[true, true], [true, false], [false, true]]).expect("some");
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        if daemon.link.drops_until_ms > now_ms {
            return;
        }
        (daemon.link.drops_until_ms, daemon.link.drops) = (now_ms + length_ms, drops);
        self.note(|| format!("{id} loses heartbeats on {drops:?} for {length_ms} ms"));
        if is_reported {
            for after_ms in [1, length_ms] {
                self.agenda.after(after_ms, Event::To(id, Incoming::Dropped));
            }
        }
        self.unreliable(id, now_ms + length_ms);
    }

    /// Some servers do not reach each other for a while.
    fn partition(&mut self) {
        let alone = self.rng.usize(0..NODES);
        let others = (0..NODES).filter(|node| *node != alone);
        let mut pairs: Vec<_> = others.map(|node| (alone, node)).collect();
        if self.rng.bool() {
            pairs.pop();
        }
        self.note(|| format!("these do not reach each other: {pairs:?}"));
        let until_ms = self.agenda.now_ms + self.rng.u64(500..2 * self.settings.lease_ms);
        self.truth.counts.partitions += 1;
        self.routes.closed = pairs;
        self.routes.closed_until_ms = until_ms;
        let cut: Vec<_> = self.daemons.values().map(|daemon| (daemon.id, daemon.node)).collect();
        for (id, node) in cut {
            if !self.routes.is_open(node, self.leader) {
                self.unreliable(id, until_ms);
            }
        }
        self.disturb(until_ms);
    }

    fn fault_of_a_gateway(&mut self) {
        let (now_ms, lease_ms) = (self.agenda.now_ms, self.settings.lease_ms);
        let number = self.rng.usize(0..self.gateways.len());
        let length_ms = self.rng.u64(lease_ms / 2..2 * lease_ms);
        let gateway = &mut self.gateways[number];
        if !gateway.alive {
            gateway.restart();
            self.note(|| format!("gateway {number} starts again"));
            self.start_gateway(number);
        } else if self.rng.bool() {
            gateway.alive = false;
            self.truth.counts.gateways += 1;
            self.note(|| format!("gateway {number} dies"));
        } else if gateway.paused_until_ms <= now_ms {
            gateway.pause(now_ms + length_ms, &mut self.rng);
            self.truth.counts.gateways += 1;
            self.note(|| format!("gateway {number} pauses for {length_ms} ms"));
        }
    }

    /// A wall clock jumps, by minutes and in either direction.
    fn move_a_clock(&mut self, id: DaemonId) {
        let by_ms = self.rng.i64(-600_000..=600_000);
        if self.settings.wall_clocks_lie
            && let Some(daemon) = self.daemons.get_mut(&id)
        {
            daemon.skew_ms += by_ms;
            self.note(|| format!("the wall clock of {id} jumps by {by_ms} ms"));
        }
    }

    /// A fault lasts until then.
    pub fn disturb(&mut self, until_ms: u64) {
        self.disturbed_ms = self.disturbed_ms.max(until_ms);
    }

    /// A daemon is unreliable until a lease after it hears and sees again.
    fn unreliable(&mut self, id: DaemonId, until_ms: u64) {
        self.disturb(until_ms);
        let reliable_ms = self.reliable_ms.entry(id).or_default();
        *reliable_ms = (until_ms + NOTICED_MS + self.settings.lease_ms).max(*reliable_ms);
    }

    fn all_unreliable(&mut self, until_ms: u64) {
        let lease_ms = self.settings.lease_ms;
        self.disturb(until_ms);
        for id in self.all_daemons() {
            let reliable_ms = self.reliable_ms.entry(id).or_default();
            *reliable_ms = (until_ms + NOTICED_MS + lease_ms).max(*reliable_ms);
        }
    }

    /// Ends all faults, except that a gateway dies later. When daemons are well again, sockets of
    /// the others open and close at once.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.note(|| "all faults are over".to_owned());
        let (now_ms, lease_ms) = (self.agenda.now_ms, self.settings.lease_ms);
        self.disturb(now_ms);
        self.leaderless_until_ms = 0;
        self.routes.closed.clear();
        for id in self.all_daemons() {
            if let Some(daemon) = self.daemons.get_mut(&id) {
                daemon.link.slow_until_ms = 0;
                daemon.feed_slow_until_ms = 0;
            }
        }
        if self.daemons.is_empty() {
            self.start();
        }
        for number in 0..self.gateways.len() {
            let (run, what) = (self.gateways[number].run, ToGateway::Flash);
            self.agenda.after(2 * lease_ms + 5000, Event::Gateway { number, run, what });
        }
        let number = self.rng.usize(0..self.gateways.len());
        let run = self.gateways[number].run;
        let what = ToGateway::Die;
        self.agenda.after(lease_ms + 6000, Event::Gateway { number, run, what });
    }
}
