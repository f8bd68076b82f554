//! The messages in flight, and their arrival.

use std::collections::BTreeMap;

use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;

use super::bucket::Write;
use super::client::Op;

/// The longest delay of a write to the bucket.
pub const LATEST_MS: u64 = 4000;

/// A future event.
#[derive(Debug)]
pub enum Event {
    /// Clients send another request.
    Operate,
    /// A fault.
    Fault,
    /// A daemon starts.
    Start,
    /// A write reaches the bucket.
    Write(Write),
    /// A read of a key reaches the leader.
    Read { by: DaemonId, key: Id, read: u64 },
    /// A query of the stream's last sequence reaches the leader.
    Info { by: DaemonId, key: Id, verify: u64 },
    /// The marker of a deletion expires.
    Expire { epoch: u32, seq: u64 },
    /// A message reaches a daemon.
    To(DaemonId, Incoming),
}

/// A message to a daemon.
#[derive(Debug)]
pub enum Incoming {
    Command {
        op: Box<Op>,
        since_ms: u64,
    },
    Acked {
        write: u64,
        rev: u64,
    },
    Conflicted {
        write: u64,
    },
    NoLeader {
        write: u64,
    },
    /// The answer to a query of the last sequence.
    Found {
        key: Id,
        read: u64,
        found: Reading,
    },
    Info {
        key: Id,
        verify: u64,
        epoch: u32,
        last: u64,
    },
    Beacon(DaemonId),
    Feed,
    Tick,
    /// The daemon detects that the bucket was replaced.
    Replaced,
}

/// The answer to a read.
#[derive(Debug)]
pub enum Reading {
    Message(std::rc::Rc<super::bucket::Message>),
    Nothing,
    Failed,
}

/// The intensity of a run's faults.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Lost writes, acknowledgements or reads, per 1000.
    pub lost: u32,
    /// Late ones, per 1000.
    pub late: u32,
    /// Inputs of a daemon during which it crashes, with some of the effects carried out, per 1000.
    pub crash: u32,
    /// Whether daemons may crash at any time, even all at once.
    pub wild: bool,
    /// Whether the bucket may be replaced.
    pub replace: bool,
}

/// The queue of future events, and the source of all randomness.
#[derive(Debug)]
pub struct Network {
    pub now_ms: u64,
    pub rng: fastrand::Rng,
    pub weather: Weather,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
}

impl Network {
    pub fn new(mut rng: fastrand::Rng) -> Self {
        let weather = Weather {
            lost: *pick(&mut rng, &[0, 10, 100]),
            late: *pick(&mut rng, &[0, 20, 150]),
            crash: *pick(&mut rng, &[0, 0, 2, 10]),
            wild: rng.u32(0..5) == 0,
            replace: rng.u32(0..5) == 0,
        };
        Self { now_ms: 0, rng, weather, queue: BTreeMap::new(), count: 0 }
    }

    pub fn after(&mut self, ms: u64, event: Event) {
        self.count += 1;
        self.queue.insert((self.now_ms + ms, self.count), event);
    }

    /// Advances to the next event, if it happens before `until_ms`.
    pub fn next(&mut self, until_ms: u64) -> Option<Event> {
        if self.queue.first_key_value()?.0.0 >= until_ms {
            return None;
        }
        let ((at, _), event) = self.queue.pop_first()?;
        self.now_ms = at;
        Some(event)
    }

    /// Sends a message, which is usually quick, sometimes late and sometimes lost.
    pub fn send(&mut self, event: Event) {
        if self.chance(self.weather.lost) {
            return;
        }
        let ms = if self.chance(self.weather.late) {
            self.rng.u64(100..=LATEST_MS)
        } else {
            self.rng.u64(0..=12)
        };
        self.after(ms, event);
    }

    /// Returns true `of_1000` times in 1000.
    pub fn chance(&mut self, of_1000: u32) -> bool {
        self.rng.u32(0..1000) < of_1000
    }
}

pub fn pick<'a, T>(rng: &mut fastrand::Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}
