//! The living daemons, as far as this one has heard, and the order in which they act. Pure: the
//! time comes in as a value. Two daemons that act at once do no harm, so no consensus is needed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::presence::entity::DaemonId;
use crate::presence::id::stable_hash;

/// The period of a daemon's beacons, in milliseconds.
pub const BEACON_MS: u64 = 1000;

/// A daemon without a beacon for this long has failed, in milliseconds.
pub const FAILED_AFTER_MS: u64 = 3500;

/// A daemon that has not looked for failures for this long was itself stalled, in milliseconds: it
/// has not read the beacons of that time yet.
const STALLED_AFTER_MS: u64 = 2 * BEACON_MS;

/// The time for which a failure is remembered, in milliseconds: the daemon that acts for it may
/// fail as well.
const FAILURE_TTL_MS: u64 = 10_000;

/// A daemon that is gone without a last beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedPeer {
    pub daemon: DaemonId,
    /// The arrival of its last beacon.
    pub last_heard_ms: u64,
    detected_ms: u64,
}

/// Another daemon that is alive.
#[derive(Debug, Clone, Copy)]
struct Peer {
    first_heard_ms: u64,
    last_heard_ms: u64,
    status: PeerStatus,
}

/// The status in a daemon's beacon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether the peer may have missed heartbeats.
    pub deaf: bool,
    /// Whether the peer has only just started.
    pub starting: bool,
    pub settings: LivenessSettings,
}

/// The settings of `liveness` of which the longest one of all daemons counts, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LivenessSettings {
    pub lease_ms: u64,
    pub grace_ms: u64,
}

impl LivenessSettings {
    /// The longer ones of both.
    pub fn max(self, other: Self) -> Self {
        Self {
            lease_ms: self.lease_ms.max(other.lease_ms),
            grace_ms: self.grace_ms.max(other.grace_ms),
        }
    }
}

/// The daemons that a rank counts, and those that it places last.
#[derive(Debug, Clone, Copy)]
pub enum RankFilter<'a> {
    /// All living daemons.
    Alive,
    /// Daemons that are not deaf; those that have `tried` come after all others.
    Hearing { tried: &'a [DaemonId] },
    /// Daemons that were there when the failed one was last heard. A daemon that started later has
    /// never heard of it.
    KnowsFailed(FailedPeer),
}

impl RankFilter<'_> {
    fn counts(&self, peer: &Peer) -> bool {
        match self {
            Self::Alive => true,
            Self::Hearing { .. } => !peer.status.deaf,
            Self::KnowsFailed(failed) => peer.first_heard_ms <= failed.last_heard_ms,
        }
    }

    fn is_preferred(&self, daemon: DaemonId) -> bool {
        !matches!(self, Self::Hearing { tried } if tried.contains(&daemon))
    }
}

/// The other daemons.
#[derive(Debug)]
pub struct Peers {
    own: DaemonId,
    peers: HashMap<DaemonId, Peer>,
    failed: Vec<FailedPeer>,
    /// The time at which this daemon last looked for failures.
    checked_ms: Option<u64>,
    /// Silence before it does not count: this daemon was stalled or cut off.
    listens_from_ms: u64,
}

impl Peers {
    pub fn new(own: DaemonId) -> Self {
        Self {
            own,
            peers: HashMap::new(),
            failed: Vec::new(),
            checked_ms: None,
            listens_from_ms: 0,
        }
    }

    /// Records a beacon. Returns whether its daemon is new. A new one is answered at once, so that
    /// the two know each other before one of them can fail.
    pub fn on_beacon(&mut self, daemon: DaemonId, status: PeerStatus, now_ms: u64) -> bool {
        if daemon == self.own {
            return false;
        }
        match self.peers.entry(daemon) {
            Entry::Occupied(mut known) => {
                let peer = known.get_mut();
                (peer.last_heard_ms, peer.status) = (now_ms, status);
                false
            }
            Entry::Vacant(new) => {
                new.insert(Peer { first_heard_ms: now_ms, last_heard_ms: now_ms, status });
                true
            }
        }
    }

    /// Records that a daemon leaves; it has announced all its changes.
    pub fn on_leave(&mut self, daemon: DaemonId) {
        self.peers.remove(&daemon);
    }

    /// Records that this daemon cannot hear beacons at the moment.
    pub fn on_cut_off(&mut self, now_ms: u64) {
        self.listens_from_ms = now_ms;
    }

    /// Finds failed daemons, and returns those whose announcements this one has to repeat. A daemon
    /// that was stopped finds no failure until it has listened again. It would announce outdated
    /// changes for all the daemons that were there meanwhile.
    pub fn detect_failures(&mut self, now_ms: u64) -> Vec<FailedPeer> {
        let checked_ms = self.checked_ms.replace(now_ms);
        if checked_ms.is_some_and(|at_ms| at_ms + STALLED_AFTER_MS < now_ms) {
            self.listens_from_ms = now_ms;
        }
        self.failed.retain(|failed| failed.detected_ms + FAILURE_TTL_MS > now_ms);
        let listens_from_ms = self.listens_from_ms;
        let silent: Vec<_> = self
            .peers
            .iter()
            .map(|(daemon, peer)| (*daemon, peer.last_heard_ms))
            .filter(|(_, heard_ms)| (*heard_ms).max(listens_from_ms) + FAILED_AFTER_MS <= now_ms)
            .map(|(daemon, last_heard_ms)| FailedPeer {
                daemon,
                last_heard_ms,
                detected_ms: now_ms,
            })
            .collect();
        if silent.is_empty() {
            return Vec::new();
        }
        // The daemon that acted for an earlier failure may have failed now: its work is repeated.
        let ranks_before: Vec<_> =
            self.failed.iter().map(|failed| self.rank_for_failed(*failed)).collect();
        for failed in &silent {
            self.peers.remove(&failed.daemon);
        }
        let inherited = self.failed.iter().zip(ranks_before).filter(|(_, rank)| *rank > 0);
        let mut mine: Vec<_> = inherited.map(|(failed, _)| *failed).collect();
        mine.extend(&silent);
        self.failed.extend(&silent);
        mine.retain(|failed| self.rank_for_failed(*failed) == 0);
        mine
    }

    /// The recently failed daemons whose announcements this one has to repeat: their last changes
    /// may still be on the way to the replica.
    pub fn failed_and_mine(&self) -> Vec<DaemonId> {
        let mine = self.failed.iter().filter(|failed| self.rank_for_failed(**failed) == 0);
        mine.map(|failed| failed.daemon).collect()
    }

    /// The number of other daemons that act on `key` before this one: rendezvous hashing over the
    /// daemons that `filter` counts.
    pub fn rank(&self, key: &str, filter: RankFilter<'_>) -> usize {
        let place = |daemon| place(filter.is_preferred(daemon), daemon, key);
        let own = place(self.own);
        let counted = self.peers.iter().filter(|(_, peer)| filter.counts(peer));
        counted.filter(|(daemon, _)| place(**daemon) > own).count()
    }

    /// The daemon that first ends `key` after its silence, given whether this one is deaf: one that
    /// hears, if there is any.
    pub fn first_to_act(&self, key: &str, deaf: bool) -> DaemonId {
        let others = self.peers.iter().map(|(daemon, peer)| (!peer.status.deaf, *daemon));
        let all = others.chain([(!deaf, self.own)]);
        let places = all.map(|(hears, daemon)| place(hears, daemon, key));
        places.max().map_or(self.own, |(.., daemon)| daemon)
    }

    /// Returns whether a daemon is alive; this one is.
    pub fn is_alive(&self, daemon: DaemonId) -> bool {
        daemon == self.own || self.peers.contains_key(&daemon)
    }

    /// The longest settings of the other daemons.
    pub fn longest(&self) -> LivenessSettings {
        let settings = self.peers.values().map(|peer| peer.status.settings);
        settings.fold(LivenessSettings::default(), LivenessSettings::max)
    }

    /// Returns whether another daemon has been there for a while.
    pub fn has_settled(&self) -> bool {
        self.peers.values().any(|peer| !peer.status.starting)
    }

    /// The other daemons that are alive.
    pub fn alive(&self) -> impl Iterator<Item = DaemonId> {
        self.peers.keys().copied()
    }

    fn rank_for_failed(&self, failed: FailedPeer) -> usize {
        self.rank(&failed.daemon.to_string(), RankFilter::KnowsFailed(failed))
    }
}

/// The delay after which a daemon of that rank acts, in milliseconds.
pub fn delay_ms(rank: usize, step_ms: u64) -> u64 {
    u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(step_ms)
}

/// The place of a daemon in the order of a key; the greatest acts first.
fn place(is_preferred: bool, daemon: DaemonId, key: &str) -> (bool, u64, DaemonId) {
    (is_preferred, score(daemon, key), daemon)
}

/// The hash of the key, mixed with the daemon, so that each key has its own order.
fn score(daemon: DaemonId, key: &str) -> u64 {
    let mixed = (stable_hash(key) ^ daemon.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DaemonId = DaemonId(1);
    const B: DaemonId = DaemonId(2);
    const C: DaemonId = DaemonId(3);

    fn three(own: DaemonId) -> Peers {
        let mut peers = Peers::new(own);
        for daemon in [A, B, C] {
            assert_eq!(peers.on_beacon(daemon, PeerStatus::default(), 0), daemon != own);
        }
        peers
    }

    #[test]
    fn every_key_has_one_first_and_one_second() {
        for key in 0..100 {
            let key = key.to_string();
            let mut ranks = [A, B, C].map(|own| three(own).rank(&key, RankFilter::Alive));
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2]);
        }
    }

    #[test]
    fn a_daemon_that_has_tried_ranks_after_all_others() {
        for key in 0..100 {
            let key = key.to_string();
            let rank = |own, tried: &[_]| three(own).rank(&key, RankFilter::Hearing { tried });
            assert_eq!(rank(A, &[A]), 2);
            let mut ranks = [B, C].map(|own| rank(own, &[A]));
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1]);
            assert_eq!(rank(A, &[A, B, C]), rank(A, &[]));
        }
    }

    #[test]
    fn one_survivor_acts_for_a_failed_daemon_and_another_if_that_one_fails_too() {
        let mut survivors = [three(A), three(B)];
        survivors[0].on_beacon(B, PeerStatus::default(), 2000);
        survivors[1].on_beacon(A, PeerStatus::default(), 2000);
        let acting: Vec<_> =
            survivors.iter_mut().map(|peers| peers.detect_failures(4000)).collect();
        let first = usize::from(acting[0].is_empty());
        let failed = acting[first][0];
        assert_eq!((failed.daemon, failed.last_heard_ms), (C, 0));
        assert!(acting[1 - first].is_empty());
        let inherited = survivors[1 - first].detect_failures(5600);
        assert!(inherited.contains(&failed), "{inherited:?}");
    }

    #[test]
    fn a_daemon_that_starts_after_a_failure_does_not_act_for_it() {
        for newcomer in 4..20 {
            let mut peers = Peers::new(A);
            peers.on_beacon(B, PeerStatus::default(), 0);
            peers.on_beacon(DaemonId(newcomer), PeerStatus::default(), 1000);
            peers.on_beacon(DaemonId(newcomer), PeerStatus::default(), 3000);
            assert_eq!(peers.detect_failures(4000).len(), 1, "{newcomer}");
        }
    }

    #[test]
    fn a_stopped_daemon_detects_no_failure_until_it_has_listened_again() {
        let mut peers = three(A);
        assert!(peers.detect_failures(1000).is_empty());
        assert!(peers.detect_failures(9000).is_empty());
        peers.on_beacon(B, PeerStatus::default(), 9001);
        for now_ms in [10_000, 11_000, 12_000] {
            peers.on_beacon(B, PeerStatus::default(), now_ms);
            assert!(peers.detect_failures(now_ms).is_empty());
        }
        peers.detect_failures(12_500);
        assert!(peers.is_alive(B));
        assert!(!peers.is_alive(C));
        assert_eq!(peers.failed[0].last_heard_ms, 0, "its changes since then are announced");
    }

    #[test]
    fn a_cut_off_daemon_detects_no_failure_until_it_has_listened_again() {
        let mut peers = three(A);
        for second in 1..=10 {
            peers.on_cut_off(second * 1000);
            assert!(peers.detect_failures(second * 1000).is_empty());
        }
        for second in 11..=13 {
            assert!(peers.detect_failures(second * 1000).is_empty());
        }
        peers.detect_failures(13_500);
        assert!(!peers.is_alive(B) && !peers.is_alive(C));
    }

    #[test]
    fn deaf_daemons_come_last_where_leases_expire() {
        let deaf = PeerStatus { deaf: true, ..PeerStatus::default() };
        for key in 0..20 {
            let key = key.to_string();
            let mut peers = three(A);
            peers.on_beacon(B, deaf, 0);
            assert_ne!(peers.first_to_act(&key, false), B);
            assert_eq!(peers.first_to_act(&key, true), C);
            peers.on_beacon(C, deaf, 0);
            assert_eq!(peers.first_to_act(&key, false), A);
        }
    }

    #[test]
    fn a_daemon_that_leaves_has_not_failed() {
        let mut peers = three(A);
        peers.on_leave(B);
        peers.on_leave(C);
        assert!(peers.detect_failures(60_000).is_empty());
    }
}
