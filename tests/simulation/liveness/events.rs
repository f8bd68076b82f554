//! The messages in flight, and their arrival.

use std::collections::BTreeMap;
use std::rc::Rc;

use presenced::liveness::expiry::PendingWrite;
use presenced::liveness::expiry::messages::{Ending, Objection, Proposal};
use presenced::liveness::peers::PeerStatus;
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::user::{Command, EarlyDisconnect, Window};

use crate::bucket::{Message, Write};

/// A future event.
#[derive(Debug)]
pub enum Event {
    /// A fault.
    Fault,
    /// The promises are checked.
    Check,
    /// A daemon starts.
    Start,
    /// A daemon dies.
    Die(DaemonId),
    /// A stopped daemon may continue.
    Resume(DaemonId),
    /// A write reaches the bucket.
    Write(Write),
    /// A read of a key reaches the leader.
    Read { by: DaemonId, key: Id, read: u64 },
    /// A query of the stream's last sequence reaches the leader.
    Info { by: DaemonId, then: Then },
    /// A daemon's leader check reaches the leader.
    AskBucket(DaemonId),
    /// A daemon publishes a probe.
    Probe { by: DaemonId, number: u64 },
    /// A message reaches a daemon.
    To(DaemonId, Incoming),
    /// A message reaches that run of a gateway.
    Gateway { number: usize, run: u64, what: ToGateway },
}

/// The work that waits until the replica is fresh.
#[derive(Debug, Clone)]
pub enum Then {
    Verified { key: Id, verify: u64 },
    Answer { to: Reply, beat: Heartbeat },
}

/// The recipient of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    pub number: usize,
    pub run: u64,
    pub request: u64,
}

#[derive(Debug, Clone)]
pub enum Heartbeat {
    Lease(Id),
    Connections(Vec<(Id, Id)>),
}

#[derive(Debug)]
pub enum ToGateway {
    /// The gateway dies.
    Die,
    /// Its next heartbeat is due.
    Beat,
    /// Its users connect, leave and reload.
    Act,
    /// A request is sent, or repeated without an answer.
    Send { request: u64 },
    /// Sockets open and close at once.
    Flash,
    /// A request was carried out.
    Done { request: u64 },
    /// The unknown ones of its connections.
    Unknown { connections: Vec<(Id, Id)> },
    /// Whether the lease is known, and how many connections it holds.
    Held { held: Option<usize> },
}

/// A message to a daemon.
#[derive(Debug)]
pub enum Incoming {
    /// A heartbeat or a probe on one of the lanes.
    Heartbeat {
        lane: usize,
        beat: Heartbeat,
        sent_ms: u64,
    },
    Probe {
        lane: usize,
        number: u64,
    },
    /// An event of the connection on which it listens.
    Dropped,
    CutOff,
    Connected,
    Beacon {
        from: DaemonId,
        status: PeerStatus,
    },
    Proposal(Rc<Proposal>),
    Objection(Objection),
    Ending(Ending),
    /// A disconnect that another daemon carried out, and the time that is left of its window.
    EarlyDisconnect {
        user: Id,
        early: EarlyDisconnect,
        left: Window,
    },
    /// Disconnects that another daemon found to be too old for a connect.
    Void {
        user: Id,
        void: Vec<EarlyDisconnect>,
    },
    /// A heartbeat that asks for an answer.
    Ask {
        to: Reply,
        beat: Heartbeat,
        since_ms: u64,
    },
    /// A request that changes a user.
    Request {
        to: Reply,
        user: Id,
        command: Box<Command>,
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
    Found {
        key: Id,
        read: u64,
        found: Option<Option<Rc<Message>>>,
    },
    Informed {
        then: Then,
        last: u64,
    },
    /// The answer to a leader check, or its time-out.
    BucketAnswered {
        well: bool,
    },
    /// Entries of the feed.
    Feed,
    /// A write of its expiry machine, and the lease that this and other writes end.
    CarryOut(PendingWrite, Option<Id>),
    /// Its own timers.
    StripeTick,
    ExpiryTick,
    Beat,
    SendProbe,
}

impl Incoming {
    /// The messages of one channel arrive in order. A daemon that was stopped may take those of
    /// different channels in any order.
    pub fn channel(&self) -> usize {
        match self {
            Self::Heartbeat { lane, .. } | Self::Probe { lane, .. } => *lane,
            Self::Dropped | Self::CutOff | Self::Connected => 2,
            Self::Beacon { .. } => 3,
            Self::Proposal(_) => 4,
            Self::Objection(_) => 5,
            Self::Ending(_) => 6,
            Self::Ask { .. } | Self::Request { .. } => 7,
            Self::Acked { .. } | Self::Conflicted { .. } | Self::NoLeader { .. } => 8,
            Self::Found { .. } => 9,
            Self::Informed { .. } | Self::BucketAnswered { .. } => 10,
            Self::Feed => 11,
            Self::CarryOut(..) => 12,
            Self::StripeTick => 13,
            Self::ExpiryTick => 14,
            Self::Beat => 15,
            Self::SendProbe => 16,
            Self::EarlyDisconnect { .. } | Self::Void { .. } => 17,
        }
    }

    /// The number of channels.
    pub const CHANNELS: usize = 18;
}

/// The queue of future events.
#[derive(Debug, Default)]
pub struct Agenda {
    pub now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
}

impl Agenda {
    pub fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    pub fn at(&mut self, at_ms: u64, event: Event) {
        self.count += 1;
        self.queue.insert((at_ms, self.count), event);
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
}
