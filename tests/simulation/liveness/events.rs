//! What is on its way, and when it comes.

use std::collections::BTreeMap;
use std::rc::Rc;

use presenced::liveness::expiry::PendingWrite;
use presenced::liveness::expiry::messages::{Ending, Objection, Proposal};
use presenced::liveness::peers::PeerStatus;
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::user::Command;

use crate::bucket::{Message, Write};

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// Something breaks.
    Fault,
    /// The promises are checked.
    Check,
    /// A daemon starts.
    Start,
    /// A daemon dies.
    Die(DaemonId),
    /// A stopped daemon may go on.
    Resume(DaemonId),
    /// A write reaches the bucket.
    Write(Write),
    /// A read of a key reaches the leader.
    Read { by: DaemonId, key: Id, read: u64 },
    /// A read of the stream's last sequence reaches the leader.
    Info { by: DaemonId, then: Then },
    /// A daemon's question whether the bucket is there reaches the leader.
    AskBucket(DaemonId),
    /// A daemon publishes a probe.
    Probe { by: DaemonId, number: u64 },
    /// Something reaches a daemon.
    To(DaemonId, Incoming),
    /// Something reaches a gateway, in that run of it.
    Gateway { number: usize, run: u64, what: ToGateway },
}

/// What a daemon waits for until its replica has seen all.
#[derive(Debug, Clone)]
pub enum Then {
    Verified { key: Id, verify: u64 },
    Answer { to: Reply, beat: Heartbeat },
}

/// Whom an answer is for.
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
    /// It dies.
    Die,
    /// It is time to beat.
    Beat,
    /// Its users come, go and reload.
    Effect,
    /// A request is sent, once more if it was not answered.
    Send { request: u64 },
    /// A request was carried out.
    Done { request: u64 },
    /// What of its connections is unknown.
    Unknown { connections: Vec<(Id, Id)> },
    /// Whether the lease is known, and how many it holds.
    Held { held: Option<usize> },
}

/// Something that reaches a daemon.
#[derive(Debug)]
pub enum Incoming {
    /// On one of the lanes of heartbeats, on which probes travel too.
    Heartbeat {
        lane: usize,
        beat: Heartbeat,
        sent_ms: u64,
    },
    Probe {
        lane: usize,
        number: u64,
    },
    /// What befalls the connection on which it hears.
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
    /// It is asked for the answer to a heartbeat.
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
    /// The bucket answered the question whether it is there, or the question was given up.
    BucketAnswered {
        well: bool,
    },
    /// Entries of the feed.
    Feed,
    /// A write of its own expiry, and the lease that is ended by it and others.
    CarryOut(PendingWrite, Option<Id>),
    /// Its own timers.
    Tick,
    Look,
    Beat,
    SendProbe,
}

impl Incoming {
    /// What arrives on one way is taken in its order; a daemon that was stopped may take what came
    /// on different ways in any order.
    pub fn way(&self) -> usize {
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
            Self::Tick => 13,
            Self::Look => 14,
            Self::Beat => 15,
            Self::SendProbe => 16,
        }
    }

    /// How many ways there are.
    pub const WAYS: usize = 17;
}

/// The queue of all that will happen.
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

    /// Goes on to what happens next, if it happens before `until_ms`.
    pub fn next(&mut self, until_ms: u64) -> Option<Event> {
        if self.queue.first_key_value()?.0.0 >= until_ms {
            return None;
        }
        let ((at, _), event) = self.queue.pop_first()?;
        self.now_ms = at;
        Some(event)
    }
}
