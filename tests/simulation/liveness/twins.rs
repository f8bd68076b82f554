//! The same history twice, with the same clock: once in full, once without the actions of invisible
//! users and their consequences: heartbeats, lapses, refreshes, graces. Others cannot tell the two
//! apart, to the byte (`docs/protocol.md`, *Being invisible*). Each history has a daemon with the real machines,
//! and a bucket that takes every write at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use presenced::liveness::early_disconnects::window;
use presenced::liveness::expiry::{Effect, View};
use presenced::liveness::hearing::PROBE_MS;
use presenced::presence::entity::{DaemonId, Entity, Event};
use presenced::presence::field::Kind;
use presenced::presence::filter::Filter;
use presenced::presence::id::Id;
use presenced::presence::time::{Now, Time};
use presenced::presence::user::{
    BeforeConnect, Choice, Command, Device, EarlyDisconnect, NewConnection, Outcome, Patch, Record,
    StatusEnd, Users, Viewer, push_seen_by,
};
use presenced::store::stripe::{Effect as StoreEffect, Job};
use serde_json::json;

use super::daemon::{Daemon, REQUEST_MS, Ticket};
use super::world::{Settings, id};

const USERS: usize = 4;
const STEPS: usize = 60;
const TICK_MS: u64 = 50;
const LEASE_MS: u64 = 3000;
/// The time without a touch after which a user who is offline may be forgotten.
const FORGET_MS: i64 = 5000;

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
        /// Counts only if the user does not exist.
        defaults: Option<Box<Patch>>,
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
    /// Another daemon got the disconnect, and found no connection.
    EarlyDisconnect {
        user: Id,
        connection: Id,
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
    /// Deletes those of that mood.
    Erase {
        mood: u32,
    },
    /// Deletes those who are offline and were not touched for long.
    Forget,
    /// The wall clock jumps.
    Jump {
        by_ms: i64,
    },
}

/// The ids of three connections of each user. Once a user is visible again, it uses none whose
/// disconnect may be remembered: what it connects would end in sight.
#[derive(Debug, Default)]
struct Connections(BTreeMap<(Id, usize), usize>);

impl Connections {
    fn id(&self, user: &Id, slot: usize) -> Id {
        id(&format!("c{slot}-{}", self.0.get(&(user.clone(), slot)).unwrap_or(&0)))
    }

    fn new_id(&mut self, user: &Id, slot: usize) -> Id {
        *self.0.entry((user.clone(), slot)).or_default() += 1;
        self.id(user, slot)
    }
}

impl Step {
    fn any(rng: &mut fastrand::Rng, connections: &mut Connections) -> Self {
        let user = id(&format!("u{}", rng.usize(0..USERS)));
        let slot = rng.usize(0..3);
        let connection = connections.id(&user, slot);
        let lease = id(&format!("l{}", rng.usize(0..2)));
        match rng.u32(0..100) {
            0..25 => {
                let lease = rng.bool().then_some(lease);
                let device = Device::parse(["desktop", "mobile"][rng.usize(0..2)], "device").ok();
                let (device, idle) = (device.filter(|_| rng.bool()), rng.bool());
                let defaults = rng.bool().then(|| {
                    let patch = patch(rng);
                    Box::new(Patch { invisible: patch.invisible.filter(|hides| *hides), ..patch })
                });
                let patch = patch(rng);
                let connection = match patch.invisible {
                    Some(false) => connections.new_id(&user, slot),
                    _ => connection,
                };
                Self::Connect { user, connection, lease, device, idle, patch, defaults }
            }
            25..30 => Self::Update { user, connection, idle: rng.bool() },
            30..33 => Self::Status { user, ends_in_ms: rng.i64(1..9000) },
            33..45 => Self::Upsert { user, patch: patch(rng) },
            45..57 => {
                let grace_ms = rng.bool().then(|| rng.u64(0..2000));
                Self::Disconnect { user, connection, grace_ms }
            }
            57..60 => Self::EarlyDisconnect { user, connection },
            60..63 => Self::DisconnectLease { lease },
            63..80 => Self::Heartbeat { user, connection },
            80..90 => Self::HeartbeatOfLease { lease },
            90..92 => Self::Erase { mood: rng.u32(0..3) },
            92 => Self::Forget,
            93..95 => Self::Delete { user },
            _ => Self::Jump { by_ms: rng.i64(-20_000..=20_000) },
        }
    }

    /// The user who acts, and what changes of its fields.
    fn patch(&self, known: &BTreeSet<Id>) -> Option<(&Id, Patch)> {
        match self {
            Self::Connect { user, patch, defaults: Some(defaults), .. }
                if !known.contains(user) =>
            {
                Some((user, above(defaults, patch)))
            }
            Self::Connect { user, patch, .. } | Self::Upsert { user, patch } => {
                Some((user, patch.clone()))
            }
            _ => None,
        }
    }

    /// The step without the actions of users who are invisible.
    fn without_invisible(&self, invisible: &BTreeSet<Id>, known: &BTreeSet<Id>) -> Option<Self> {
        match self {
            Self::Connect { user, .. } if invisible.contains(user) => {
                let (user, patch) = self.patch(known)?;
                Some(Self::Upsert { user: user.clone(), patch })
            }
            Self::Update { user, .. }
            | Self::Disconnect { user, .. }
            | Self::EarlyDisconnect { user, .. }
            | Self::Heartbeat { user, .. }
                if invisible.contains(user) =>
            {
                None
            }
            _ => Some(self.clone()),
        }
    }
}

/// Both patches in one, where `patch` counts above the defaults.
fn above(defaults: &Patch, patch: &Patch) -> Patch {
    let is_free = |name: &str| patch.custom.iter().all(|(known, _)| &**known != name);
    let custom = defaults.custom.iter().filter(|(name, _)| is_free(name)).chain(&patch.custom);
    Patch {
        invisible: patch.invisible.or(defaults.invisible),
        hide_last_active: patch.hide_last_active.or(defaults.hide_last_active),
        choice: patch.choice.or(defaults.choice),
        status: patch.status.clone().or_else(|| defaults.status.clone()),
        status_expires_at: None,
        custom: custom.cloned().collect(),
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

fn users() -> impl Iterator<Item = Id> {
    (0..USERS).map(|number| id(&format!("u{number}")))
}

/// A daemon alone with a bucket, and all its events.
#[derive(Debug)]
struct Alone {
    daemon: Daemon,
    rev: u64,
    events: Vec<Event>,
    /// The users who came or went for others, by which counts of channels are kept.
    online: Vec<(Id, bool)>,
    probed_ms: u64,
    /// The number of connects that were ended as their disconnects had overtaken them.
    overtaken: u64,
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
        Self { daemon, rev: 0, events: Vec::new(), online: Vec::new(), probed_ms: 0, overtaken: 0 }
    }

    fn take(&mut self, step: &Step, now_ms: u64) {
        match step.clone() {
            Step::Connect { user, connection, lease, device, idle, patch, defaults } => {
                let arrived_ms = self.now(now_ms).mono_ms;
                let connection = NewConnection { id: connection, lease, device, idle };
                let before = self.daemon.view.with_index(&user, |index| {
                    index.early_disconnects.before_connect(&user, &connection, arrived_ms)
                });
                let command =
                    Command::Connect { patch, defaults, connection, custom_in_answer: true };
                self.command(user.clone(), command, now_ms);
                if let BeforeConnect::Ended(early) = before {
                    self.overtaken += 1;
                    self.command(user, early.command(), now_ms);
                }
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
                let early = EarlyDisconnect { connection, lease: None, grace_ms };
                let outcome = self.command(user.clone(), early.command(), now_ms);
                if matches!(outcome, Some(Outcome::Disconnected { count: 0, .. })) {
                    self.remember(&user, early, now_ms);
                }
            }
            Step::EarlyDisconnect { user, connection } => {
                let early = EarlyDisconnect { connection, lease: None, grace_ms: None };
                self.remember(&user, early, now_ms);
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
                view.with_index(&user, |i| i.agenda.on_heartbeat(&user, &connection, at_ms));
            }
            Step::HeartbeatOfLease { lease } => {
                let at_ms = self.now(now_ms).mono_ms;
                self.daemon.view.leases(|leases| leases.on_heartbeat(&lease, at_ms));
            }
            Step::Delete { user } => {
                self.command(user, Command::Delete { only: None }, now_ms);
            }
            Step::Erase { mood } => {
                let filter = Filter::parse(Kind::Users, &json!({"mood": mood})).expect("a filter");
                let only = Some(Arc::new(filter));
                for user in users() {
                    self.command(user, Command::Delete { only: only.clone() }, now_ms);
                }
            }
            Step::Forget => unreachable!("both histories forget the same users"),
            Step::Jump { by_ms } => self.daemon.skew_ms += by_ms,
        }
    }

    /// A disconnect that found no connection is remembered, as the service does.
    fn remember(&mut self, user: &Id, early: EarlyDisconnect, now_ms: u64) {
        let now_ms = self.now(now_ms).mono_ms;
        let record = self.record(user, |record| record.cloned());
        self.daemon.view.with_index(user, |index| {
            let window = window(now_ms, REQUEST_MS);
            index.early_disconnects.insert(user, early, window, now_ms);
            index.early_disconnects.observe(user, record.as_ref(), now_ms);
        });
    }

    /// Returns whether a user is offline and was not touched for long.
    fn is_forgotten(&self, user: &Id, now_ms: u64) -> bool {
        let stream = self.now(now_ms).stream;
        self.record(user, |record| {
            let offline = record.filter(|record| !record.is_online());
            offline.is_some_and(|record| record.touched(stream).0 + FORGET_MS <= stream.0)
        })
    }

    fn forget(&mut self, user: Id, now_ms: u64) {
        let stream = self.now(now_ms).stream;
        if let Some(touched) = self.record(&user, |record| record.map(|r| r.touched(stream))) {
            self.command(user, Command::Forget { touched }, now_ms);
        }
    }

    /// Time passes.
    fn tick(&mut self, now_ms: u64) {
        let now = self.now(now_ms);
        if self.probed_ms + PROBE_MS <= now_ms {
            self.probed_ms = now_ms;
            let hearing = self.daemon.view.hearing.get_mut();
            let number = hearing.probe(now.mono_ms);
            if hearing.begin_bucket_query(now.mono_ms) {
                hearing.on_bucket_answer(true);
            }
            for lane in [0, 1] {
                hearing.on_probe(lane, number, now.mono_ms);
            }
        }
        for effect in self.daemon.expiry.on_tick(&self.daemon.view, now) {
            match effect {
                Effect::Write(write) => {
                    self.command(write.user, write.command, now_ms);
                }
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

    /// Returns the outcome.
    fn command(&mut self, user: Id, command: Command, now_ms: u64) -> Option<Outcome> {
        let deadline_ms = self.now(now_ms).mono_ms + REQUEST_MS;
        let job = Job { command, ticket: Ticket::PendingWrite(None), deadline_ms };
        let now = self.now(now_ms);
        let machine = self.daemon.view.machine.get_mut();
        machine.on_command(user, job, now);
        let mut outcome = None;
        loop {
            let effects = machine.take_effects().collect::<Vec<_>>();
            if effects.is_empty() {
                return outcome;
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
                        outcome = Some(result.expect("no command is refused").outcome);
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

    fn invisible(&self) -> BTreeSet<Id> {
        let is_invisible = |user: &Id| self.record(user, |r| r.is_some_and(|r| r.invisible));
        users().filter(is_invisible).collect()
    }

    fn record<R>(&self, user: &Id, work: impl FnOnce(Option<&Record>) -> R) -> R {
        work(self.daemon.view.machine.borrow().record(user).as_deref())
    }

    /// All that others can see of the users: their views, or the versions of deleted ones.
    fn public(&self) -> String {
        let machine = self.daemon.view.machine.borrow();
        let mut views = Vec::new();
        for user in users() {
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

/// Runs one seed. Returns the counts of:
///
/// - the steps left out of the twin,
/// - the steps that took place in both,
/// - the users that were forgotten,
/// - the connects of invisible users that were ended as their disconnects had overtaken them,
/// - the events.
pub fn run(seed: u64) -> [u64; 5] {
    let (mut left_out, mut taken, mut forgotten) = (0, 0, 0);
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut full, mut twin) = (Alone::start(), Alone::start());
    let (mut now_ms, mut trace) = (0, Vec::new());
    let mut connections = Connections::default();
    for _ in 0..STEPS {
        for _ in 0..rng.u64(0..=30) {
            now_ms += TICK_MS;
            full.tick(now_ms);
            twin.tick(now_ms);
            compare(seed, &full, &twin, &trace);
        }
        let step = Step::any(&mut rng, &mut connections);
        let known: BTreeSet<_> = users().filter(|u| full.record(u, |r| r.is_some())).collect();
        let before = full.invisible();
        let mut invisible = before.clone();
        if let Some((user, patch)) = step.patch(&known) {
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
        if matches!(step, Step::Forget) {
            // A user who was there in truth is forgotten later, but then in the same way.
            for user in users() {
                if !full.is_forgotten(&user, now_ms) {
                    continue;
                }
                assert!(twin.is_forgotten(&user, now_ms), "{}: {user:?}", trace.join("\n"));
                full.forget(user.clone(), now_ms);
                twin.forget(user, now_ms);
                forgotten += 1;
            }
        } else {
            full.take(&step, now_ms);
            if let Some(step) = step.without_invisible(&invisible, &known) {
                taken += 1;
                twin.take(&step, now_ms);
            } else {
                left_out += 1;
            }
        }
        for user in before.difference(&full.invisible()) {
            (0..3).for_each(|slot| drop(connections.new_id(user, slot)));
        }
        compare(seed, &full, &twin, &trace);
    }
    let overtaken = full.overtaken - twin.overtaken;
    [left_out, taken, forgotten, overtaken, full.events.len() as u64]
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
