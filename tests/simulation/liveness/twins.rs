//! The same history twice, with the same clock: once in full, once without the actions of invisible
//! users and their consequences: heartbeats, lapses, refreshes, graces. Others cannot tell the two
//! apart, to the byte (`PROTOCOL`, section 5). Each history has a daemon with the real machines,
//! and a bucket that takes every write at once.

use std::collections::{BTreeMap, BTreeSet};

use presenced::liveness::expiry::{Effect, View};
use presenced::liveness::hearing::PROBE_MS;
use presenced::presence::entity::{DaemonId, Entity, Event};
use presenced::presence::id::Id;
use presenced::presence::time::{Now, Time};
use presenced::presence::user::{
    Choice, Command, Device, NewConnection, Patch, Record, StatusEnd, Users, Viewer, push_seen_by,
};
use presenced::store::stripe::{Effect as StoreEffect, Job};
use serde_json::json;

use super::daemon::{Daemon, REQUEST_MS, Ticket};
use super::world::{Settings, id};

const USERS: usize = 4;
const STEPS: usize = 60;
const TICK_MS: u64 = 50;
const LEASE_MS: u64 = 3000;

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Connect {
        user: Id,
        connection: Id,
        lease: Option<Id>,
        device: Option<Device>,
        idle: bool,
        patch: Patch,
    },
    Update {
        user: Id,
        connection: Id,
        idle: bool,
    },
    Upsert {
        user: Id,
        patch: Patch,
    },
    /// A status that ends.
    Status {
        user: Id,
        ends_in_ms: i64,
    },
    Disconnect {
        user: Id,
        connection: Id,
        grace_ms: Option<u64>,
    },
    DisconnectLease {
        lease: Id,
    },
    Heartbeat {
        user: Id,
        connection: Id,
    },
    HeartbeatOfLease {
        lease: Id,
    },
    Delete {
        user: Id,
    },
    /// The wall clock jumps.
    Jump {
        by_ms: i64,
    },
}

impl Step {
    fn any(rng: &mut fastrand::Rng) -> Self {
        let user = id(&format!("u{}", rng.usize(0..USERS)));
        let connection = id(&format!("c{}", rng.usize(0..3)));
        let lease = id(&format!("l{}", rng.usize(0..2)));
        match rng.u32(0..100) {
            0..25 => {
                let lease = rng.bool().then_some(lease);
                let device = Device::parse(["desktop", "mobile"][rng.usize(0..2)], "device").ok();
                let (device, idle) = (device.filter(|_| rng.bool()), rng.bool());
                Self::Connect { user, connection, lease, device, idle, patch: patch(rng) }
            }
            25..30 => Self::Update { user, connection, idle: rng.bool() },
            30..33 => Self::Status { user, ends_in_ms: rng.i64(1..9000) },
            33..45 => Self::Upsert { user, patch: patch(rng) },
            45..60 => {
                let grace_ms = rng.bool().then(|| rng.u64(0..2000));
                Self::Disconnect { user, connection, grace_ms }
            }
            60..63 => Self::DisconnectLease { lease },
            63..80 => Self::Heartbeat { user, connection },
            80..93 => Self::HeartbeatOfLease { lease },
            93..95 => Self::Delete { user },
            _ => Self::Jump { by_ms: rng.i64(-20_000..=20_000) },
        }
    }

    /// The user who acts, and the patch of the step.
    fn patch(&self) -> Option<(&Id, &Patch)> {
        match self {
            Self::Connect { user, patch, .. } | Self::Upsert { user, patch } => Some((user, patch)),
            _ => None,
        }
    }

    /// The step without the actions of users who are invisible.
    fn without_invisible(&self, invisible: &BTreeSet<Id>) -> Option<Self> {
        match self {
            Self::Connect { user, patch, .. } if invisible.contains(user) => {
                Some(Self::Upsert { user: user.clone(), patch: patch.clone() })
            }
            Self::Update { user, .. }
            | Self::Disconnect { user, .. }
            | Self::Heartbeat { user, .. }
                if invisible.contains(user) =>
            {
                None
            }
            _ => Some(self.clone()),
        }
    }
}

fn patch(rng: &mut fastrand::Rng) -> Patch {
    let invisible = [None, None, None, None, Some(true), Some(false)][rng.usize(0..6)];
    let status = (rng.u32(0..4) == 0).then(|| rng.bool().then(|| "away".into()));
    let mood = (rng.u32(0..4) == 0).then(|| ("mood".into(), Some(json!(rng.u32(0..3)))));
    let choices = [Choice::Auto, Choice::Away, Choice::Busy];
    let choice = (rng.u32(0..5) == 0).then(|| choices[rng.usize(0..3)]);
    let hide_last_active = (rng.u32(0..6) == 0).then(|| rng.bool());
    let custom = mood.into_iter().collect();
    Patch { invisible, hide_last_active, choice, status, custom, ..Patch::default() }
}

/// A daemon alone with a bucket, and all its events.
#[derive(Debug)]
struct Alone {
    daemon: Daemon,
    rev: u64,
    events: Vec<Event>,
    /// Who came or went for others, by which counts of channels are kept.
    online: Vec<(Id, bool)>,
    probed_ms: u64,
}

impl Alone {
    fn start() -> Self {
        let settings = Settings {
            lease_ms: LEASE_MS,
            interval_ms: 1000,
            grace_ms: 700,
            refresh_ms: 4000,
            users: USERS,
            wall_clocks_lie: false,
            lost: 0,
            struck: 0,
        };
        // Both are the same daemon, with the same clocks.
        let mut rng = fastrand::Rng::with_seed(1);
        let daemon = Daemon::start(DaemonId(1), &settings, 0, 0, &mut rng);
        daemon.view.machine.borrow_mut().index_mut().track_online();
        Self { daemon, rev: 0, events: Vec::new(), online: Vec::new(), probed_ms: 0 }
    }

    fn take(&mut self, step: &Step, now_ms: u64) {
        match step.clone() {
            Step::Connect { user, connection, lease, device, idle, patch } => {
                let connection = NewConnection { id: connection, lease, device, idle };
                let defaults = None;
                let command =
                    Command::Connect { patch, defaults, connection, custom_in_answer: true };
                self.command(user, command, now_ms);
            }
            Step::Update { user, connection, idle } => {
                let (idle, device) = (Some(idle), None);
                let command = Command::UpdateConnection { connection, idle, device };
                self.command(user, command, now_ms);
            }
            Step::Status { user, ends_in_ms } => {
                let end = Time(self.now(now_ms).stream.0 + ends_in_ms);
                let status = Some(Some("for a while".into()));
                let end = StatusEnd { at: end, field: "status_expires_at".into() };
                let patch =
                    Patch { status, status_expires_at: Some(Some(end)), ..Patch::default() };
                self.command(user, Command::Upsert { patch, custom_in_answer: true }, now_ms);
            }
            Step::Upsert { user, patch } => {
                self.command(user, Command::Upsert { patch, custom_in_answer: true }, now_ms);
            }
            Step::Disconnect { user, connection, grace_ms } => {
                let command = Command::Disconnect { connection, lease: None, grace_ms };
                self.command(user, command, now_ms);
            }
            Step::DisconnectLease { lease } => {
                for (user, _) in self.daemon.view.held_by(&lease) {
                    let command = Command::DisconnectLease { lease: lease.clone(), grace_ms: None };
                    self.command(user, command, now_ms);
                }
            }
            Step::Heartbeat { user, connection } => {
                let at_ms = self.now(now_ms).mono_ms;
                let view = &self.daemon.view;
                view.with_index(&user, |i| i.agenda.heartbeat(&user, &connection, at_ms));
            }
            Step::HeartbeatOfLease { lease } => {
                let at_ms = self.now(now_ms).mono_ms;
                self.daemon.view.leases(|leases| leases.heartbeat(&lease, at_ms));
            }
            Step::Delete { user } => self.command(user, Command::Delete { only: None }, now_ms),
            Step::Jump { by_ms } => self.daemon.skew_ms += by_ms,
        }
    }

    /// Time passes.
    fn tick(&mut self, now_ms: u64) {
        let now = self.now(now_ms);
        if self.probed_ms + PROBE_MS <= now_ms {
            self.probed_ms = now_ms;
            let hearing = self.daemon.view.hearing.get_mut();
            let number = hearing.probe(now.mono_ms);
            if hearing.asks_bucket(now.mono_ms) {
                hearing.on_bucket_answer(true);
            }
            for lane in [0, 1] {
                hearing.on_probe(lane, number, now.mono_ms);
            }
        }
        for effect in self.daemon.expiry.on_tick(&self.daemon.view, now) {
            match effect {
                Effect::Write(write) => self.command(write.user, write.command, now_ms),
                Effect::EndLease { lease, writes } => {
                    for write in writes {
                        self.command(write.user, write.command, now_ms);
                    }
                    self.daemon.expiry.on_writes_done(&self.daemon.view, &lease);
                }
                Effect::Propose(_) | Effect::Object { .. } | Effect::Broadcast(_) => {}
            }
        }
        let changes = self.daemon.view.machine.get_mut().index_mut().take_online_changes();
        self.online.extend(changes.into_iter().collect::<BTreeMap<_, _>>());
    }

    fn command(&mut self, user: Id, command: Command, now_ms: u64) {
        let deadline_ms = self.now(now_ms).mono_ms + REQUEST_MS;
        let job = Job { command, ticket: Ticket::PendingWrite(None), deadline_ms };
        let now = self.now(now_ms);
        let machine = self.daemon.view.machine.get_mut();
        machine.on_command(user, job, now);
        loop {
            let effects = machine.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    StoreEffect::Write { write, .. } => {
                        self.rev += 1;
                        machine.on_acked(write, self.rev, now);
                    }
                    StoreEffect::Verify { key, verify } => machine.on_verified(&key, verify, now),
                    StoreEffect::ChangeShared(change) => {
                        change.apply(&mut self.daemon.view.leases.borrow_mut(), now);
                    }
                    StoreEffect::Announce(event) => self.events.push(event),
                    StoreEffect::Answer { result, .. } => {
                        result.expect("no command is refused");
                    }
                    StoreEffect::Read { .. }
                    | StoreEffect::RemoteChange { .. }
                    | StoreEffect::Lost { .. }
                    | StoreEffect::Suspect => {
                        unreachable!("every write is taken, and there is no other writer")
                    }
                }
            }
        }
    }

    fn now(&self, now_ms: u64) -> Now {
        self.daemon.now(now_ms)
    }

    fn record<R>(&self, user: &Id, work: impl FnOnce(Option<&Record>) -> R) -> R {
        work(self.daemon.view.machine.borrow().record(user).as_deref())
    }

    /// All that others can see of the users: their views, or the versions of deleted ones.
    fn public(&self) -> String {
        let machine = self.daemon.view.machine.borrow();
        let mut views = Vec::new();
        for number in 0..USERS {
            let user = id(&format!("u{number}"));
            let stored = machine.known(&user).map(|(stored, _)| stored).unwrap_or_default();
            match stored.record() {
                Some(record) => push_seen_by(&mut views, &user, record, Viewer::Other),
                None => views.extend(Users::version(&stored).to_string().bytes()),
            }
            views.push(b'\n');
        }
        String::from_utf8(views).expect("JSON is text")
    }

    /// Ends the connections that a user made while invisible, before it becomes visible: the end
    /// would be visible otherwise.
    fn before_visible(&mut self, user: &Id, now_ms: u64) {
        let connections = self
            .record(user, |record| record.map_or(Vec::new(), |record| record.connections.clone()));
        for connection in connections {
            let connection = connection.id;
            let command = Command::Disconnect { connection, lease: None, grace_ms: None };
            self.command(user.clone(), command, now_ms);
        }
    }
}

/// Runs one seed.
/// Returns how many steps were left out of the twin, how many took place in both, and how many
/// events there were.
pub fn run(seed: u64) -> [u64; 3] {
    let (mut left_out, mut taken) = (0, 0);
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut full, mut twin) = (Alone::start(), Alone::start());
    let (mut now_ms, mut trace) = (0, Vec::new());
    for _ in 0..STEPS {
        for _ in 0..rng.u64(0..=30) {
            now_ms += TICK_MS;
            full.tick(now_ms);
            twin.tick(now_ms);
            compare(seed, &full, &twin, &trace);
        }
        let step = Step::any(&mut rng);
        let mut invisible: BTreeSet<_> =
            (0..USERS).map(|number| id(&format!("u{number}"))).collect();
        invisible.retain(|user| full.record(user, |record| record.is_some_and(|r| r.invisible)));
        if let Some((user, patch)) = step.patch() {
            match patch.invisible {
                Some(false) if invisible.remove(user) => {
                    full.before_visible(user, now_ms);
                    twin.before_visible(user, now_ms);
                }
                // A user who connects as invisible does so unseen.
                Some(true) if matches!(step, Step::Connect { .. }) => {
                    invisible.insert(user.clone());
                }
                _ => {}
            }
        }
        trace.push(format!("{now_ms:>6} {step:?}"));
        full.take(&step, now_ms);
        if let Some(step) = step.without_invisible(&invisible) {
            taken += 1;
            twin.take(&step, now_ms);
        } else {
            left_out += 1;
        }
        compare(seed, &full, &twin, &trace);
    }
    [left_out, taken, full.events.len() as u64]
}

fn compare(seed: u64, full: &Alone, twin: &Alone, trace: &[String]) {
    let (trace, seed) = (|| trace.join("\n"), format!("SIMULATION_SEED={seed}"));
    assert_eq!(full.public(), twin.public(), "{}\n{seed}: the views differ", trace());
    assert_eq!(full.online, twin.online, "{}\n{seed}: the counts differ", trace());
    let last_event = |alone: &Alone| alone.events.last().map(|event| event.body.clone());
    let same = full.events.len() == twin.events.len() && last_event(full) == last_event(twin);
    assert!(
        same,
        "{}\n{seed}: {:?} was announced, and without invisible users {:?}",
        trace(),
        full.events.last(),
        twin.events.last()
    );
}
