//! One run: the bucket, the daemons, the clients, and the faults between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use presenced::liveness::peers::PeerStatus;
use presenced::presence::entity::{DaemonId, Stored};
use presenced::presence::id::Id;
use presenced::presence::time::Now;
use presenced::presence::user::{Record, Rules, Users};
use presenced::store::stripe::{Content, Effect, Failure, Found, Job, Stripe};

use super::bucket::{Bucket, Write};
use super::checks::{Broken, Checks};
use super::client::{Action, GHOST, Op, id};
use super::daemon::{Daemon, REQUEST_MS, TICK_MS};
use super::ledger::{Ledger, OpId};
use super::network::{Event, Incoming, LATEST_MS, Network, Reading, pick};

/// The duration of the faults, and of the calm after them.
const STORMY_MS: u64 = 10_000;
const CALM_MS: u64 = 14_000;
/// The time to live of a deletion marker: much longer than the difference between clocks.
const MARKER_MS: u64 = 9000;

/// The counts of events in a run: a run without one proves nothing about it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub crashes: u64,
    pub pauses: u64,
    pub leaderless: u64,
    pub slow_feeds: u64,
    pub replaced: u64,
    pub lost_tails: u64,
    pub purges: u64,
    pub repairs: u64,
    pub conflicts: u64,
    pub lapses: u64,
    pub expiries: u64,
    pub updates: u64,
    pub erased: u64,
    pub forgotten: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.leaderless += other.leaderless;
        self.slow_feeds += other.slow_feeds;
        self.replaced += other.replaced;
        self.lost_tails += other.lost_tails;
        self.purges += other.purges;
        self.repairs += other.repairs;
        self.conflicts += other.conflicts;
        self.lapses += other.lapses;
        self.expiries += other.expiries;
        self.updates += other.updates;
        self.erased += other.erased;
        self.forgotten += other.forgotten;
    }
}

#[derive(Debug)]
pub struct World {
    pub net: Network,
    pub bucket: Bucket,
    pub daemons: BTreeMap<DaemonId, Daemon>,
    pub ledger: Ledger,
    pub checks: Checks,
    pub users: Vec<Id>,
    pub rules: Arc<Rules>,
    pub attempts: u32,
    grace_ms: u64,
    pub calm: bool,
    /// The times of the last crash of a daemon, and of the last replacement of the bucket.
    pub crashed_ms: u64,
    /// The daemon that crashes before its next announcement.
    pub doomed: Option<DaemonId>,
    last_daemon: u64,
    /// The counts of what has happened.
    pub counts: Counts,
    /// The trace, if it is wanted.
    trace: Option<Vec<(u64, Option<Id>, String)>>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let users = (0..rng.usize(1..=3)).map(|n| id(&format!("u{n}")));
        let users = users.chain([id(GHOST)]).collect();
        let no_grace = rng.u32(0..4) == 0;
        let rules = Rules::new(*pick(&mut rng, &[2, 50]), no_grace);
        let mut world = Self {
            attempts: *pick(&mut rng, &[3, 40]),
            grace_ms: rng.u64(200..2000),
            net: Network::new(rng),
            bucket: Bucket::default(),
            daemons: BTreeMap::new(),
            ledger: Ledger::default(),
            checks: Checks::default(),
            users,
            rules: Arc::new(rules),
            calm: false,
            crashed_ms: 0,
            doomed: None,
            last_daemon: 0,
            counts: Counts::default(),
            trace: traced.then(Vec::new),
        };
        for _ in 0..world.net.rng.usize(1..=4) {
            world.start();
        }
        world.net.after(100, Event::Operate);
        world.net.after(500, Event::Fault);
        world
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Result<(), Broken> {
        self.run_until(STORMY_MS)?;
        self.calm_down();
        self.run_until(STORMY_MS + CALM_MS)?;
        self.check_the_end()
    }

    /// The trace of one user, with the events that concern all.
    pub fn trace_of(&self, key: &Id) -> String {
        let lines = self.trace.iter().flatten();
        let lines = lines.filter(|(_, of, _)| of.as_ref().is_none_or(|of| of == key));
        lines.map(|(at, _, line)| format!("{at:>6} {line}\n")).collect()
    }

    pub fn note(&mut self, key: Option<&Id>, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push((self.net.now_ms, key.cloned(), line()));
        }
    }

    fn run_until(&mut self, until_ms: u64) -> Result<(), Broken> {
        while let Some(event) = self.net.next(until_ms) {
            match event {
                Event::Operate => self.operate(),
                Event::Fault => self.fault(),
                Event::Start => self.start(),
                Event::Write(write) => self.write(write)?,
                Event::Read { by, key, read } => self.read(by, key, read),
                Event::Info { by, key, verify } => self.info(by, key, verify),
                Event::Expire { epoch, seq } => self.bucket.expire(epoch, seq),
                Event::To(daemon, incoming) => self.reach(daemon, incoming)?,
            }
        }
        Ok(())
    }

    /// Sends a burst of requests to daemons that are ready.
    fn operate(&mut self) {
        if self.calm {
            return;
        }
        let rng = &mut self.net.rng;
        let (count, pause) = (rng.usize(1..=4), *pick(rng, &[4, 20, 100]));
        let pause = rng.u64(1..=pause);
        for _ in 0..count {
            let ready = self.daemons.values().filter(|daemon| daemon.is_ready());
            let ready: Vec<_> = ready.map(|daemon| daemon.id).collect();
            if ready.is_empty() {
                break;
            }
            let to = *pick(&mut self.net.rng, &ready);
            let op = Box::new(Op::any(&mut self.net.rng, &self.users));
            let incoming = Incoming::Command { op, since_ms: self.net.now_ms };
            let ms = self.net.rng.u64(0..3);
            self.net.after(ms, Event::To(to, incoming));
        }
        self.net.after(pause, Event::Operate);
    }

    pub fn start(&mut self) {
        self.last_daemon += 1;
        let id = DaemonId(self.last_daemon);
        let rules = Arc::clone(&self.rules);
        let mut daemon =
            Daemon::start(id, &self.bucket, rules, self.grace_ms, self.attempts, self.net.now_ms);
        daemon.skew_ms = self.net.rng.i64(-3000..=3000);
        self.daemons.insert(id, daemon);
        self.note(None, || format!("{id} starts"));
        self.net.after(1, Event::To(id, Incoming::Tick));
        self.schedule_feed(id);
    }

    fn write(&mut self, write: Write) -> Result<(), Broken> {
        let (from, number) = (write.from, write.number);
        let answer = if self.net.now_ms < self.bucket.leaderless_until_ms {
            Incoming::NoLeader { write: number }
        } else if let Some(message) = self.bucket.write(&write) {
            self.note(Some(&write.key), || {
                format!("stored {} by {from}/{number}: {}", message.seq, text(&message.content))
            });
            self.checks.stored(&self.bucket, &message)?;
            if matches!(message.content, Content::Purge { .. }) {
                let (epoch, seq) = (self.bucket.epoch, message.seq);
                self.net.after(MARKER_MS, Event::Expire { epoch, seq });
            }
            for daemon in self.daemons.keys().copied().collect::<Vec<_>>() {
                self.schedule_feed(daemon);
            }
            Incoming::Acked { write: number, rev: message.seq }
        } else {
            self.note(Some(&write.key), || format!("conflict for {from}/{number}"));
            Incoming::Conflicted { write: number }
        };
        self.net.send(Event::To(from, answer));
        Ok(())
    }

    fn read(&mut self, by: DaemonId, key: Id, read: u64) {
        let found = if self.net.now_ms < self.bucket.leaderless_until_ms {
            Reading::Failed
        } else {
            self.bucket.last(&key).map_or(Reading::Nothing, |m| Reading::Message(m.clone()))
        };
        self.net.send(Event::To(by, Incoming::Found { key, read, found }));
    }

    fn info(&mut self, by: DaemonId, key: Id, verify: u64) {
        if self.net.now_ms < self.bucket.leaderless_until_ms {
            self.net.after(50, Event::Info { by, key, verify });
            return;
        }
        let (epoch, last) = (self.bucket.epoch, self.bucket.last_seq);
        let ms = self.net.rng.u64(0..=12);
        self.net.after(ms, Event::To(by, Incoming::Info { key, verify, epoch, last }));
    }

    /// A message reaches a daemon, if it is alive; if it is paused, later.
    fn reach(&mut self, id: DaemonId, incoming: Incoming) -> Result<(), Broken> {
        let Some(daemon) = self.daemons.get(&id) else { return Ok(()) };
        if daemon.paused_until_ms > self.net.now_ms {
            let ms = daemon.paused_until_ms - self.net.now_ms + self.net.rng.u64(0..20);
            self.net.after(ms, Event::To(id, incoming));
            return Ok(());
        }
        match incoming {
            Incoming::Command { op, since_ms } => {
                // A daemon that was stalled drops its queue.
                let is_request = !matches!(op.action, Action::Repair { .. });
                let stalled = is_request && self.net.now_ms >= since_ms + REQUEST_MS;
                if stalled { Ok(()) } else { self.command(id, *op) }
            }
            Incoming::Acked { write, rev } => self.drive(id, |m, now| m.on_acked(write, rev, now)),
            Incoming::Conflicted { write } => {
                self.counts.conflicts += 1;
                self.drive(id, |m, now| m.on_conflicted(write, now))
            }
            Incoming::NoLeader { write } => {
                self.drive(id, |m, now| m.on_failed(write, &Failure::Retry(None), now))
            }
            Incoming::Found { key, read, found } => {
                let found = match found {
                    Reading::Message(message) => Found::Entry(message.entry()),
                    Reading::Nothing => Found::Nothing,
                    Reading::Failed => Found::Failed,
                };
                self.drive(id, |m, now| m.on_found(&key, read, found, now))
            }
            Incoming::Info { key, verify, epoch, last } => {
                self.informed(id, key, verify, (epoch, last))
            }
            Incoming::Beacon(from) => {
                self.with(id, |daemon, now| {
                    daemon.peers.on_beacon(from, PeerStatus::default(), now.mono_ms);
                });
                Ok(())
            }
            Incoming::Feed => self.feed(id),
            Incoming::Tick => self.tick(id),
            Incoming::Replaced => self.follow(id),
        }
    }

    /// Has a daemon repair a key, once more if that fails.
    pub fn repair(&mut self, id: DaemonId, user: Id, lost: Stored<Record>) {
        self.counts.repairs += 1;
        let lost = Box::new(lost);
        let op = Box::new(Op { user, client: 0, action: Action::Repair { lost } });
        let since_ms = self.net.now_ms + 1;
        self.net.after(1, Event::To(id, Incoming::Command { op, since_ms }));
    }

    pub fn command(&mut self, id: DaemonId, op: Op) -> Result<(), Broken> {
        let now_ms = self.net.now_ms;
        let user = op.user.clone();
        let latest_ms = now_ms + REQUEST_MS + LATEST_MS;
        let number = self.ledger.begin(op.clone(), now_ms, latest_ms);
        self.note(Some(&user), || format!("{id} takes #{number} {:?} of {}", op.action, op.client));
        self.with(id, |daemon, now| {
            daemon.deadlines.insert(number, now.mono_ms + REQUEST_MS);
            daemon.unanswered.insert(number);
        });
        let command = op.command(number);
        self.drive(id, |machine, now| {
            let deadline_ms = now.mono_ms + REQUEST_MS;
            machine.on_command(user, Job { command, ticket: number, deadline_ms }, now);
        })
    }

    fn informed(
        &mut self,
        id: DaemonId,
        key: Id,
        verify: u64,
        (epoch, last): (u32, u64),
    ) -> Result<(), Broken> {
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        if daemon.epoch != epoch {
            self.net.after(50, Event::Info { by: id, key, verify });
            return Ok(());
        }
        daemon.verifications.push((last, key, verify));
        self.schedule_feed(id);
        self.verified(id)
    }

    fn verified(&mut self, id: DaemonId) -> Result<(), Broken> {
        let done = self.daemons.get_mut(&id).map(Daemon::verified).unwrap_or_default();
        for (key, verify) in done {
            self.drive(id, |machine, now| machine.on_verified(&key, verify, now))?;
        }
        Ok(())
    }

    pub fn schedule_feed(&mut self, id: DaemonId) {
        let Some(daemon) = self.daemons.get_mut(&id) else { return };
        if !std::mem::replace(&mut daemon.feed_due, true) {
            let slow = daemon.slow_until_ms > self.net.now_ms;
            let ms = if slow { self.net.rng.u64(300..2500) } else { self.net.rng.u64(0..=8) };
            self.net.after(ms, Event::To(id, Incoming::Feed));
        }
    }

    /// Delivers some entries in flight to a daemon, and sends it some more.
    fn feed(&mut self, id: DaemonId) -> Result<(), Broken> {
        for _ in 0..self.net.rng.usize(1..=4) {
            let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
            let Some((message, is_last)) = daemon.pipe.pop_front() else { break };
            daemon.take(message.seq, is_last);
            self.drive(id, |machine, now| {
                machine.on_fed(&message.key, message.entry(), now);
            })?;
        }
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        daemon.feed_due = false;
        if daemon.epoch == self.bucket.epoch {
            let some = self.net.rng.usize(0..=6);
            let mut left = self.bucket.after(daemon.fetched).peekable();
            for _ in 0..some {
                let Some(message) = left.next() else { break };
                daemon.fetched = message.seq;
                daemon.pipe.push_back((message.clone(), left.peek().is_none()));
            }
            let all_sent = left.peek().is_none();
            drop(left);
            if all_sent && daemon.pipe.is_empty() {
                daemon.has_all(self.bucket.last_seq);
            } else {
                self.schedule_feed(id);
            }
        }
        if self.daemons.get_mut(&id).is_some_and(Daemon::ends_replay) {
            self.note(None, || format!("{id} has replayed the stream"));
            self.drive(id, Stripe::on_replayed)?;
        }
        self.verified(id)
    }

    fn follow(&mut self, id: DaemonId) -> Result<(), Broken> {
        let (epoch, last_seq) = (self.bucket.epoch, self.bucket.last_seq);
        if self.daemons.get(&id).is_none_or(|daemon| daemon.epoch == epoch) {
            return Ok(());
        }
        self.note(None, || format!("{id} detects that the stream is another"));
        self.with(id, |daemon, _| daemon.follow(epoch, last_seq));
        self.checks.restart(id);
        self.drive(id, Stripe::on_stream_lost)?;
        self.schedule_feed(id);
        Ok(())
    }

    fn tick(&mut self, id: DaemonId) -> Result<(), Broken> {
        self.drive(id, Stripe::on_tick)?;
        self.check_answers_in_time(id)?;
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        daemon.ticks += 1;
        if daemon.ticks % 20 == 0 {
            for to in self.daemons.keys().copied().filter(|to| *to != id) {
                let ms = self.net.rng.u64(0..20);
                self.net.after(ms, Event::To(to, Incoming::Beacon(id)));
            }
            self.detect_failures(id)?;
        }
        self.end_graces(id)?;
        self.end_any(id)?;
        self.net.after(TICK_MS, Event::To(id, Incoming::Tick));
        Ok(())
    }

    fn detect_failures(&mut self, id: DaemonId) -> Result<(), Broken> {
        let now_ms = self.net.now_ms;
        let again = self
            .daemons
            .get_mut(&id)
            .map(|daemon| daemon.detect_failures(now_ms))
            .unwrap_or_default();
        for (key, event) in again {
            self.note(Some(&key), || format!("{id} announces version {} again", event.version));
            self.checks.announced(&self.bucket, id, &event, true)?;
        }
        Ok(())
    }

    fn end_graces(&mut self, id: DaemonId) -> Result<(), Broken> {
        let now_ms = self.net.now_ms;
        let Some(daemon) = self.daemons.get_mut(&id).filter(|daemon| daemon.is_ready()) else {
            return Ok(());
        };
        for (user, ended) in daemon.due_graces(now_ms) {
            let action = Action::EndLeaving { ended };
            self.command(id, Op { user, client: 0, action })?;
        }
        Ok(())
    }

    pub fn with(&mut self, id: DaemonId, f: impl FnOnce(&mut Daemon, Now)) {
        if let Some(daemon) = self.daemons.get_mut(&id) {
            let now = daemon.now(self.net.now_ms);
            f(daemon, now);
        }
    }

    /// Hands an input to the machine of a daemon and carries out its effects, unless the daemon
    /// crashes
    /// between two of them.
    fn drive(
        &mut self,
        id: DaemonId,
        input: impl FnOnce(&mut Stripe<Users, OpId>, Now),
    ) -> Result<(), Broken> {
        let Some(daemon) = self.daemons.get_mut(&id) else { return Ok(()) };
        let now = daemon.now(self.net.now_ms);
        input(&mut daemon.machine, now);
        let effects = daemon.machine.take_effects().collect::<Vec<_>>();
        let dies = !effects.is_empty() && self.net.chance(self.net.weather.crash);
        let dies_at = (dies && self.may_crash(id)).then(|| self.net.rng.usize(0..effects.len()));
        for (at, effect) in effects.into_iter().enumerate() {
            let silenced = self.doomed == Some(id) && matches!(effect, Effect::Announce(_));
            if dies_at == Some(at) || (silenced && self.may_crash(id)) {
                self.crash(id);
                return Ok(());
            }
            self.carry_out(id, effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, id: DaemonId, effect: Effect<Users, OpId>) -> Result<(), Broken> {
        match effect {
            Effect::Write { key, write: number, expected, content, .. } => {
                self.note(Some(&key), || format!("{id}/{number} writes on {expected}"));
                self.check_written_in_time(id, &key, expected, &content)?;
                let epoch = self.daemons[&id].epoch;
                let write = Write { from: id, epoch, number, key, expected, content };
                self.net.send(Event::Write(write));
            }
            Effect::Read { key, read } => self.net.send(Event::Read { by: id, key, read }),
            Effect::Verify { key, verify } => {
                let ms = self.net.rng.u64(0..=12);
                self.net.after(ms, Event::Info { by: id, key, verify });
            }
            // No connection here lapses with its lease.
            Effect::ChangeShared(_) => {}
            Effect::Announce(event) => {
                self.note(Some(&event.user), || format!("{id} announces {}", event.version));
                self.checks.announced(&self.bucket, id, &event, false)?;
            }
            Effect::Answer { ticket, result } => self.answered(id, ticket, result)?,
            Effect::Lost { key, lost } => self.repair(id, key, lost),
            Effect::Suspect => self.net.after(0, Event::To(id, Incoming::Replaced)),
            Effect::RemoteChange { key, by } => {
                let now_ms = self.net.now_ms;
                self.with(id, |daemon, _| daemon.on_remote_change(key, by, now_ms));
            }
        }
        Ok(())
    }
}

fn text(content: &Content) -> String {
    match content {
        Content::Put(text) => String::from_utf8_lossy(text).into_owned(),
        Content::Purge { version, .. } => format!("deleted, {version}"),
    }
}
