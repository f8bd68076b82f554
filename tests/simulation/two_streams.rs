//! Daemons of one prefix keep their records in two streams: which of them take requests, while they
//! come and go and their introductions are late or lost.

use std::collections::{BTreeMap, BTreeSet};

use presenced::liveness::build::Build;
use presenced::liveness::cell::{Cell, Identity, Introduction, LAYOUT};
use presenced::presence::entity::DaemonId;

use super::network::pick;

const STREAMS: [&str; 2] = ["KV_a", "KV_b"];

const STORMY_MS: u64 = 60_000;
const CALM_MS: u64 = 20_000;
const STEP_MS: u64 = 100;

/// The interval at which a daemon introduces itself and assesses the others.
const PERIOD_MS: u64 = 1000;

/// Groups whose ages differ by about so much may be taken for equally old by one side only.
const SAME_AGE_MS: u64 = 1000;
const UNSURE_MS: u64 = 200;

/// The number of steps that end or begin a daemon, per 1000.
const CHANGES_PER_1000: u32 = 5;

/// The number of times that each kind of event happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub stops: u64,
    pub lost: u64,
    pub late: u64,
    pub yielded: u64,
    pub returned: u64,
    pub two_at_the_end: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.stops += other.stops;
        self.lost += other.lost;
        self.late += other.late;
        self.yielded += other.yielded;
        self.returned += other.returned;
        self.two_at_the_end += other.two_at_the_end;
    }
}

#[derive(Debug)]
struct Daemon {
    identity: Identity,
    started_ms: u64,
    cell: Cell,
    yields: bool,
}

impl Daemon {
    /// The origin of its monotonic clock is its start.
    fn now(&self, now_ms: u64) -> u64 {
        now_ms - self.started_ms
    }
}

#[derive(Debug)]
struct World {
    rng: fastrand::Rng,
    now_ms: u64,
    daemons: BTreeMap<DaemonId, Daemon>,
    /// Introductions under way: when they arrive, from whom, to whom.
    messages: BTreeMap<(u64, DaemonId, DaemonId), Introduction>,
    /// Introductions that are lost, and that are late, per 1000.
    lost: u32,
    late: u32,
    last_daemon: u64,
    counts: Counts,
}

/// Runs one seed.
pub fn run(seed: u64) -> Counts {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (lost, late) = (*pick(&mut rng, &[0, 50, 300]), *pick(&mut rng, &[0, 50, 200]));
    let mut world = World {
        rng,
        now_ms: 0,
        daemons: BTreeMap::new(),
        messages: BTreeMap::new(),
        lost,
        late,
        last_daemon: 0,
        counts: Counts::default(),
    };
    while world.now_ms < STORMY_MS + CALM_MS {
        if world.now_ms < STORMY_MS {
            world.come_and_go();
        } else {
            (world.lost, world.late) = (0, 0);
        }
        world.step();
        world.now_ms += STEP_MS;
    }
    world.check();
    world.counts
}

impl World {
    fn come_and_go(&mut self) {
        if self.rng.u32(0..1000) >= CHANGES_PER_1000 {
            return;
        }
        let all: Vec<_> = self.daemons.keys().copied().collect();
        if all.len() > 1 && self.rng.u32(0..3) == 0 {
            self.daemons.remove(pick(&mut self.rng, &all));
            self.counts.stops += 1;
            return;
        }
        self.last_daemon += 1;
        let identity = Identity {
            layout: LAYOUT,
            counts: None,
            requests: "presence.v1".to_owned(),
            events: "user.presence.changed".to_owned(),
            domain: None,
            stream: (*pick(&mut self.rng, &STREAMS)).to_owned(),
            settings: String::new(),
        };
        let daemon =
            Daemon { identity, started_ms: self.now_ms, cell: Cell::default(), yields: false };
        self.daemons.insert(DaemonId(self.last_daemon), daemon);
    }

    /// Delivers what arrives, and lets each daemon do what is due.
    fn step(&mut self) {
        let later = self.messages.split_off(&(self.now_ms + 1, DaemonId(0), DaemonId(0)));
        for ((_, from, to), message) in std::mem::replace(&mut self.messages, later) {
            if let Some(daemon) = self.daemons.get_mut(&to) {
                let now_ms = daemon.now(self.now_ms);
                daemon.cell.on_introduction(from, message, now_ms);
            }
        }
        let all: Vec<_> = self.daemons.keys().copied().collect();
        for id in &all {
            let Some(daemon) = self.daemons.get_mut(id) else { continue };
            let now_ms = daemon.now(self.now_ms);
            if now_ms % PERIOD_MS != 0 {
                continue;
            }
            let identity = daemon.identity.clone();
            let up_ms = daemon.cell.group_up_ms(&identity, 0, now_ms);
            let yields = daemon.cell.assess(&identity, 0, now_ms).yields.is_some();
            self.counts.yielded += u64::from(yields && !daemon.yields);
            self.counts.returned += u64::from(daemon.yields && !yields);
            daemon.yields = yields;
            for to in all.iter().filter(|to| *to != id) {
                self.send(*id, *to, &identity, up_ms);
            }
        }
    }

    fn send(&mut self, from: DaemonId, to: DaemonId, identity: &Identity, up_ms: u64) {
        if self.rng.u32(0..1000) < self.lost {
            self.counts.lost += 1;
            return;
        }
        let is_late = self.rng.u32(0..1000) < self.late;
        self.counts.late += u64::from(is_late);
        let ms = if is_late { self.rng.u64(100..1500) } else { self.rng.u64(1..20) };
        let introduction = Introduction {
            daemon: from.to_string(),
            up_ms,
            build: Build::default(),
            identity: identity.clone(),
        };
        self.messages.insert((self.now_ms + ms, from, to), introduction);
    }

    /// The time for which daemons of a stream have been there, as the one that knows most says.
    fn age_ms(&mut self, stream: &str) -> Option<u64> {
        let now_ms = self.now_ms;
        let group = self.daemons.values_mut().filter(|daemon| daemon.identity.stream == stream);
        let ages = group.map(|daemon| {
            let identity = daemon.identity.clone();
            let local_ms = daemon.now(now_ms);
            daemon.cell.group_up_ms(&identity, 0, local_ms)
        });
        ages.max()
    }

    /// Checks that the daemons of one stream serve, of the older one. All introductions arrive by
    /// then.
    fn check(&mut self) {
        let serving = self.daemons.values().filter(|daemon| !daemon.yields);
        let serving: BTreeSet<_> = serving.map(|daemon| daemon.identity.stream.clone()).collect();
        let yielding = self.daemons.values().filter(|daemon| daemon.yields);
        let yielding: BTreeSet<_> = yielding.map(|daemon| daemon.identity.stream.clone()).collect();
        let [Some(first), Some(second)] = STREAMS.map(|stream| self.age_ms(stream)) else {
            assert!(yielding.is_empty(), "there is one stream: {self:?}");
            return;
        };
        self.counts.two_at_the_end += 1;
        let difference_ms = first.abs_diff(second);
        if difference_ms.abs_diff(SAME_AGE_MS) < UNSURE_MS {
            return;
        }
        let older = if difference_ms < SAME_AGE_MS || first > second { 0 } else { 1 };
        assert_eq!(serving, [STREAMS[older].to_owned()].into(), "{self:?}");
        assert_eq!(yielding, [STREAMS[1 - older].to_owned()].into(), "{self:?}");
    }
}
