//! One run: the bucket, the daemons, the gateways, and the faults between them.

use std::collections::BTreeMap;

use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;

use super::Broken;
use super::daemon::Daemon;
use super::events::{Agenda, Event, Incoming, ToGateway};
use super::gateway::Gateway;
use super::truth::Truth;
use crate::bucket::{Bucket, Write};

/// The number of servers in the NATS cluster.
pub const NODES: usize = 3;

/// The duration of the faults.
const STORMY_MS: u64 = 40_000;
/// The time-out of a leader check.
const GIVEN_UP_MS: u64 = 1000;
/// The period of the checks.
const CHECK_MS: u64 = 100;

pub fn id(text: &str) -> Id {
    Id::parse(text, "id").expect("a good id")
}

/// The settings of a run.
#[derive(Debug)]
pub struct Settings {
    pub lease_ms: u64,
    pub interval_ms: u64,
    pub grace_ms: u64,
    pub refresh_ms: u64,
    pub users: usize,
    /// Whether wall clocks are wrong by minutes, drift and jump.
    pub wall_clocks_lie: bool,
    /// Lost objections or proposals per 1000, and as many late ones.
    pub lost: u32,
    /// Proposals, writes and beginnings of an end, per 1000, after which the daemon is stopped or
    /// killed.
    pub struck: u32,
}

/// The pairs of servers that reach each other.
#[derive(Debug, Default)]
pub struct Routes {
    pub closed: Vec<(usize, usize)>,
    pub closed_until_ms: u64,
}

impl Routes {
    pub fn is_open(&self, a: usize, b: usize) -> bool {
        a == b || !self.closed.iter().any(|pair| *pair == (a, b) || *pair == (b, a))
    }
}

#[derive(Debug)]
pub struct World {
    pub agenda: Agenda,
    pub rng: fastrand::Rng,
    pub settings: Settings,
    pub bucket: Bucket,
    /// The server that leads the stream, and until when there is no leader.
    pub leader: usize,
    pub leaderless_until_ms: u64,
    pub routes: Routes,
    pub daemons: BTreeMap<DaemonId, Daemon>,
    pub gateways: Vec<Gateway>,
    pub truth: Truth,
    pub calm: bool,
    /// The end of the last fault.
    pub disturbed_ms: u64,
    /// The time from which each daemon is reliable.
    pub reliable_ms: BTreeMap<DaemonId, u64>,
    last_daemon: u64,
    trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let lease_ms = rng.u64(4000..=12_000);
        let settings = Settings {
            lease_ms,
            interval_ms: lease_ms / rng.u64(2..=4),
            grace_ms: rng.u64(300..=2000),
            refresh_ms: rng.u64(5000..=15_000),
            users: rng.usize(2..=6),
            wall_clocks_lie: rng.bool(),
            lost: *[0, 50, 300].get(rng.usize(0..3)).unwrap_or(&0),
            struck: *[0, 100, 400].get(rng.usize(0..3)).unwrap_or(&0),
        };
        let truth = Truth::new(lease_ms, settings.grace_ms);
        let mut world = Self {
            agenda: Agenda::default(),
            bucket: Bucket::default(),
            leader: rng.usize(0..NODES),
            leaderless_until_ms: 0,
            routes: Routes::default(),
            daemons: BTreeMap::new(),
            gateways: Vec::new(),
            truth,
            calm: false,
            disturbed_ms: 0,
            reliable_ms: BTreeMap::new(),
            last_daemon: 0,
            trace: traced.then(Vec::new),
            settings,
            rng,
        };
        for _ in 0..world.rng.usize(2..=4) {
            world.start();
        }
        for number in 0..world.rng.usize(2..=4) {
            let gateway = Gateway::new(&mut world.rng);
            world.gateways.push(gateway);
            world.start_gateway(number);
        }
        world.agenda.after(lease_ms + 1000, Event::Fault);
        world.agenda.after(0, Event::Check);
        world
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Result<(), Broken> {
        self.run_until(STORMY_MS)?;
        self.calm_down();
        let settle_ms = 3 * self.settings.lease_ms + 15_000;
        self.run_until(STORMY_MS + settle_ms)?;
        self.check_the_end()
    }

    pub fn trace(&self) -> String {
        self.trace.iter().flatten().map(|line| format!("{line}\n")).collect()
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6} {}", self.agenda.now_ms, line()));
        }
    }

    fn run_until(&mut self, until_ms: u64) -> Result<(), Broken> {
        while let Some(event) = self.agenda.next(until_ms) {
            match event {
                Event::Fault => self.fault(),
                Event::Check => {
                    self.check()?;
                    self.agenda.after(CHECK_MS, Event::Check);
                }
                Event::Start => self.start(),
                Event::Die(daemon) => self.die(daemon),
                Event::Resume(daemon) => self.resume(daemon),
                Event::Write(write) => self.write(write)?,
                Event::Read { by, key, read } => {
                    let reached = self.reaches_leader(by);
                    let found = reached.then(|| self.bucket.last(&key).cloned());
                    self.back_to(by, Incoming::Found { key, read, found });
                }
                Event::Info { by, then } => {
                    if self.reaches_leader(by) {
                        let last = self.bucket.last_seq;
                        self.back_to(by, Incoming::Informed { then, last });
                    } else if self.daemons.contains_key(&by) {
                        self.agenda.after(50, Event::Info { by, then });
                    }
                }
                Event::AskBucket(by) => {
                    if self.reaches_leader(by) {
                        self.back_to(by, Incoming::BucketAnswered { well: true });
                    } else {
                        let given_up = Incoming::BucketAnswered { well: false };
                        self.agenda.after(GIVEN_UP_MS, Event::To(by, given_up));
                    }
                }
                Event::Probe { by, number } => {
                    if let Some(node) = self.daemons.get(&by).map(|daemon| daemon.node) {
                        for lane in [0, 1] {
                            self.publish(by, node, Incoming::Probe { lane, number });
                        }
                    }
                }
                Event::To(daemon, incoming) => self.reach(daemon, incoming)?,
                Event::Gateway { number, run, what } => self.reach_gateway(number, run, what),
            }
        }
        Ok(())
    }

    pub fn all_daemons(&self) -> Vec<DaemonId> {
        self.daemons.keys().copied().collect()
    }

    pub fn start(&mut self) {
        self.last_daemon += 1;
        let daemon_id = DaemonId(self.last_daemon.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (now_ms, last_seq) = (self.agenda.now_ms, self.bucket.last_seq);
        let daemon = Daemon::start(daemon_id, &self.settings, last_seq, now_ms, &mut self.rng);
        self.note(|| format!("{daemon_id} starts at server {}", daemon.node));
        self.disturb(now_ms);
        let ready = daemon.is_ready();
        self.daemons.insert(daemon_id, daemon);
        if ready {
            self.is_ready(daemon_id);
        }
        for timer in
            [Incoming::StripeTick, Incoming::ExpiryTick, Incoming::Beat, Incoming::SendProbe]
        {
            self.agenda.after(1, Event::To(daemon_id, timer));
        }
        self.schedule_feed(daemon_id);
    }

    /// The replica of a daemon is complete. A fault from before may last longer than its start.
    pub fn is_ready(&mut self, daemon: DaemonId) {
        let now_ms = self.agenda.now_ms;
        self.note(|| format!("{daemon} is ready"));
        self.truth.ready.insert(daemon, now_ms);
        let reliable_ms = self.reliable_ms.entry(daemon).or_default();
        *reliable_ms = (now_ms + self.settings.lease_ms).max(*reliable_ms);
    }

    pub fn start_gateway(&mut self, number: usize) {
        let run = self.gateways[number].run;
        for what in [ToGateway::Beat, ToGateway::Act] {
            let ms = self.rng.u64(1..self.settings.interval_ms);
            self.agenda.after(ms, Event::Gateway { number, run, what });
        }
    }

    /// A message is published to a daemon on the connection on which it listens.
    pub fn publish(&mut self, to: DaemonId, from_node: usize, incoming: Incoming) {
        let now_ms = self.agenda.now_ms;
        let Some(daemon) = self.daemons.get_mut(&to) else { return };
        if !self.routes.is_open(from_node, daemon.node) {
            return;
        }
        let lane = match &incoming {
            Incoming::Heartbeat { lane, .. } | Incoming::Probe { lane, .. } => Some(*lane),
            _ => None,
        };
        let link = &mut daemon.link;
        let dropped = link.drops_until_ms > now_ms && lane.is_some_and(|lane| link.drops[lane]);
        if dropped || link.cut_until_ms > now_ms {
            if lane.is_some() {
                self.truth.dropped(to, now_ms);
            }
            return;
        }
        let slow_ms = if link.slow_until_ms > now_ms { link.slow_by_ms } else { 0 };
        link.last_ms = link.last_ms.max(now_ms + slow_ms + self.rng.u64(0..=8));
        self.agenda.at(link.last_ms, Event::To(to, incoming));
    }

    /// A daemon publishes a message to all others.
    pub fn send_to_others(&mut self, from: DaemonId, message: impl Fn() -> Incoming) {
        for to in self.all_daemons() {
            if to != from {
                self.send(from, to, message());
            }
        }
    }

    /// A daemon publishes a message to another. Proposals and objections may be lost or late.
    pub fn send(&mut self, from: DaemonId, to: DaemonId, incoming: Incoming) {
        let now_ms = self.agenda.now_ms;
        let Some(sender) = self.daemons.get(&from) else { return };
        if sender.link.cut_until_ms > now_ms {
            return;
        }
        let node = sender.node;
        if !self.calm && matches!(incoming, Incoming::Proposal(_) | Incoming::Objection(_)) {
            if self.chance(self.settings.lost) {
                self.note(|| format!("from {from} to {to} is lost: {incoming:?}"));
                return;
            }
            if self.chance(self.settings.lost) {
                let ms = self.rng.u64(50..1500);
                self.agenda.after(ms, Event::To(to, incoming));
                return;
            }
        }
        self.publish(to, node, incoming);
    }

    /// An answer of the bucket is on its way back.
    pub fn back_to(&mut self, to: DaemonId, incoming: Incoming) {
        let ms = self.rng.u64(0..=8);
        self.agenda.after(ms, Event::To(to, incoming));
    }

    pub fn reaches_leader(&self, daemon: DaemonId) -> bool {
        let node = self.daemons.get(&daemon).map(|daemon| daemon.node);
        let open = node.is_some_and(|node| self.routes.is_open(node, self.leader));
        open && self.leaderless_until_ms <= self.agenda.now_ms
    }

    fn write(&mut self, write: Write) -> Result<(), Broken> {
        let (from, number, now_ms) = (write.from, write.number, self.agenda.now_ms);
        let answer = if !self.reaches_leader(from) {
            Incoming::NoLeader { write: number }
        } else {
            let before = self.bucket.last(&write.key).cloned();
            match self.bucket.write(&write) {
                Some(message) => {
                    let node = self.daemons[&from].node;
                    self.note(|| {
                        format!("{from} stores {:?}: {:?}", message.key, message.stored.record())
                    });
                    let before = before.as_ref().and_then(|message| message.stored.record());
                    let records = (before, message.stored.record());
                    self.truth.stored(&message.key, records, (from, node), now_ms)?;
                    for daemon in self.all_daemons() {
                        self.schedule_feed(daemon);
                    }
                    Incoming::Acked { write: number, rev: message.seq }
                }
                None => Incoming::Conflicted { write: number },
            }
        };
        self.back_to(from, answer);
        Ok(())
    }

    pub fn schedule_feed(&mut self, to: DaemonId) {
        let Some(daemon) = self.daemons.get_mut(&to) else { return };
        if !std::mem::replace(&mut daemon.feed_due, true) {
            let slow = daemon.feed_slow_until_ms > self.agenda.now_ms;
            let ms = if slow { self.rng.u64(200..800) } else { self.rng.u64(0..=8) };
            self.agenda.after(ms, Event::To(to, Incoming::Feed));
        }
    }

    /// Returns true `of_1000` times in 1000.
    pub fn chance(&mut self, of_1000: u32) -> bool {
        self.rng.u32(0..1000) < of_1000
    }
}
