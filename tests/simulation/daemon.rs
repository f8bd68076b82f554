//! A simulated daemon: the machine under test, its place in the feed, its clocks and its peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use presenced::liveness::peers::{Peers, RankFilter};
use presenced::presence::entity::{DaemonId, Event};
use presenced::presence::id::Id;
use presenced::presence::time::{Now, Time};
use presenced::presence::user::{Index, LeavingKey, Periods, Rules, Turn, Users};
use presenced::store::stripe::{Stripe, Timing};

use super::bucket::{Bucket, Message};
use super::ledger::OpId;

/// The time-out of a request.
pub const REQUEST_MS: u64 = 2000;
pub const TICK_MS: u64 = 50;

/// As in the shell: how long remote changes are remembered, and how far before the last beacon of a
/// failed daemon its changes are announced again.
const REMOTE_CHANGE_MS: u64 = 20_000;
const BEFORE_LAST_BEACON_MS: u64 = 2000;

#[derive(Debug)]
pub struct Daemon {
    pub id: DaemonId,
    pub machine: Stripe<Users, OpId>,
    pub peers: Peers,
    born_ms: u64,
    /// The error of its wall clock.
    pub skew_ms: i64,
    pub paused_until_ms: u64,
    pub slow_until_ms: u64,
    /// The followed bucket, and the sequences up to which entries were sent and applied.
    pub epoch: u32,
    pub fetched: u64,
    pub position: u64,
    /// Entries in flight, each with whether it was the last one to be sent.
    pub pipe: VecDeque<(Rc<Message>, bool)>,
    taken: u64,
    gap: bool,
    pub feed_due: bool,
    /// The daemon is ready when it has applied all entries up to here.
    ready_from: Option<u64>,
    /// Whether it replays the stream.
    replays: bool,
    pub verifications: Vec<(u64, Id, u64)>,
    /// Visible changes by other daemons: when seen, the user, the daemon.
    remote_changes: Vec<(u64, Id, DaemonId)>,
    /// The deadlines of all its commands, and those without an answer.
    pub deadlines: BTreeMap<OpId, u64>,
    pub unanswered: BTreeSet<OpId>,
    pub ticks: u64,
}

impl Daemon {
    pub fn start(
        id: DaemonId,
        bucket: &Bucket,
        rules: Arc<Rules>,
        grace_ms: u64,
        attempts: u32,
        now_ms: u64,
    ) -> Self {
        let timing = Timing {
            ack_timeout_ms: REQUEST_MS / 4,
            read_timeout_ms: REQUEST_MS / 2,
            attempts,
            max_value: 10_000,
        };
        // Only graces end here: nothing lapses, and nothing is refreshed.
        let periods = Periods { lease_ms: 1 << 40, grace_ms, refresh_ms: 1 << 40 };
        Self {
            id,
            machine: Stripe::new(id, rules, timing, Index::new(periods)),
            peers: Peers::new(id),
            born_ms: now_ms,
            skew_ms: 0,
            paused_until_ms: 0,
            slow_until_ms: 0,
            epoch: bucket.epoch,
            fetched: 0,
            position: 0,
            taken: 0,
            gap: false,
            pipe: VecDeque::new(),
            feed_due: false,
            ready_from: Some(bucket.last_seq),
            replays: false,
            verifications: Vec::new(),
            remote_changes: Vec::new(),
            deadlines: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            ticks: 0,
        }
    }

    pub fn now(&self, now_ms: u64) -> Now {
        let stream = 1_700_000_000_000 + i64::try_from(now_ms).unwrap_or(i64::MAX);
        let wall = Time(stream + self.skew_ms);
        Now { mono_ms: now_ms - self.born_ms, wall, stream: Time(stream) }
    }

    pub fn is_ready(&self) -> bool {
        self.ready_from.is_none()
    }

    /// Records an entry of the feed. As in the shell, a gap may stand for an entry that a later one
    /// superseded, so an older state is shown until all entries have come.
    pub fn take(&mut self, seq: u64, is_last: bool) {
        self.gap |= seq != self.taken + 1;
        self.taken = seq;
        if is_last {
            self.has_all(seq);
        } else if !self.gap {
            self.advance(seq);
        }
    }

    /// All that was stored up to `position` has been delivered.
    pub fn has_all(&mut self, position: u64) {
        self.gap = false;
        self.taken = self.taken.max(position);
        self.advance(position);
    }

    fn advance(&mut self, position: u64) {
        self.position = self.position.max(position);
        if self.ready_from.is_some_and(|from| from <= self.position) {
            self.ready_from = None;
        }
    }

    /// Follows a stream that is another, up to `last_seq` before it serves again.
    pub fn follow(&mut self, epoch: u32, last_seq: u64) {
        self.epoch = epoch;
        self.replays = true;
        self.ready_from = Some(last_seq);
        (self.fetched, self.position, self.taken, self.gap) = (0, 0, 0, false);
        self.pipe.clear();
    }

    /// Returns whether the replay of another stream is done now.
    pub fn ends_replay(&mut self) -> bool {
        self.is_ready() && std::mem::take(&mut self.replays)
    }

    /// Takes the verifications that are done.
    pub fn verified(&mut self) -> Vec<(Id, u64)> {
        let position = self.position;
        let done = self.verifications.extract_if(.., |(last, ..)| *last <= position);
        done.map(|(_, key, verify)| (key, verify)).collect()
    }

    pub fn on_remote_change(&mut self, key: Id, by: DaemonId, now_ms: u64) {
        let seen_ms = self.now(now_ms).mono_ms;
        self.remote_changes.retain(|(seen, ..)| seen + REMOTE_CHANGE_MS >= seen_ms);
        self.remote_changes.push((seen_ms, key, by));
    }

    /// The announcements of daemons that are found failed now.
    pub fn detect_failures(&mut self, now_ms: u64) -> Vec<(Id, Event)> {
        let now = self.now(now_ms);
        let mut keys = BTreeSet::new();
        for failure in self.peers.detect_failures(now.mono_ms) {
            let since_ms = failure.last_heard_ms.saturating_sub(BEFORE_LAST_BEACON_MS);
            let of_dead = self
                .remote_changes
                .iter()
                .filter(|(at, _, by)| *by == failure.daemon && *at >= since_ms);
            keys.extend(of_dead.map(|(_, key, _)| key.clone()));
        }
        let announce = |key: Id| Some((key.clone(), self.machine.announcement(&key, now)?));
        keys.into_iter().filter_map(announce).collect()
    }

    /// The graces that this daemon ends now.
    pub fn due_graces(&mut self, now_ms: u64) -> Vec<(Id, Vec<LeavingKey>)> {
        let now = self.now(now_ms);
        let peers = &self.peers;
        let turn = |user: &Id| {
            let wait_ms = peers.rank(user.as_str(), RankFilter::Alive) as u64 * 1000;
            Turn { hearing_ms: wait_ms, any_ms: wait_ms }
        };
        let agenda = &mut self.machine.index_mut().agenda;
        let mut due = Vec::new();
        while let Some(each) = agenda.take_due(now, u64::MAX, turn) {
            due.push((each.user, each.left));
        }
        due
    }
}
