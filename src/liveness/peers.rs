//! The daemons that are alive, as far as this one has heard, and the order in which they act.
//! Pure: the time comes in as a value. Doubles are harmless, so this needs no consensus.

use std::collections::HashMap;

use crate::presence::entity::DaemonId;

/// How often a daemon says that it is there, in milliseconds.
pub const BEACON_MS: u64 = 1000;

/// After so much silence a daemon is taken for dead, in milliseconds.
pub const DEAD_MS: u64 = 3500;

/// A daemon that has not looked for the dead for so long was stalled itself, in milliseconds: the
/// beacons of that time have not been read yet.
const STALLED_MS: u64 = 2 * BEACON_MS;

/// How long a failure is remembered: whoever acted for the dead may die as well.
const REMEMBER_MS: u64 = 10_000;

/// A daemon that is gone without a farewell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedPeer {
    pub daemon: DaemonId,
    /// When its last beacon was heard.
    pub last_heard_ms: u64,
    found_ms: u64,
}

/// Another daemon.
#[derive(Debug, Clone, Copy)]
struct Peer {
    heard_ms: u64,
    status: PeerStatus,
}

/// What a daemon says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// It may have missed heartbeats.
    pub deaf: bool,
    /// It has only just started.
    pub starting: bool,
}

/// The other daemons.
#[derive(Debug)]
pub struct Peers {
    own: DaemonId,
    heard: HashMap<DaemonId, Peer>,
    /// When each was heard first.
    first_heard: HashMap<DaemonId, u64>,
    failed: Vec<FailedPeer>,
    /// When this daemon last looked for the dead.
    looked_ms: Option<u64>,
    /// Silence before it does not count: this daemon was stalled or cut off.
    listens_from_ms: u64,
}

impl Peers {
    pub fn new(own: DaemonId) -> Self {
        Self {
            own,
            heard: HashMap::new(),
            first_heard: HashMap::new(),
            failed: Vec::new(),
            looked_ms: None,
            listens_from_ms: 0,
        }
    }

    /// A beacon came. Returns whether it is that of a daemon which was not known: it should be
    /// answered at once, so that the two know each other before one of them can die.
    pub fn on_beacon(&mut self, daemon: DaemonId, status: PeerStatus, now_ms: u64) -> bool {
        if daemon == self.own {
            return false;
        }
        self.first_heard.entry(daemon).or_insert(now_ms);
        self.heard.insert(daemon, Peer { heard_ms: now_ms, status }).is_none()
    }

    /// A daemon said that it leaves; it has announced all that it did.
    pub fn on_leave(&mut self, daemon: DaemonId) {
        self.heard.remove(&daemon);
        self.first_heard.remove(&daemon);
    }

    /// This daemon cannot hear any beacon at the moment.
    pub fn cut_off(&mut self, now_ms: u64) {
        self.listens_from_ms = now_ms;
    }

    /// Finds out who has died, and returns those whose announcements are this daemon's to repeat.
    /// One that was stopped finds nobody dead until it has listened again: it would announce what
    /// it knew long ago for all who were there without it.
    pub fn detect_failures(&mut self, now_ms: u64) -> Vec<FailedPeer> {
        let looked_ms = self.looked_ms.replace(now_ms);
        if looked_ms.is_some_and(|at_ms| at_ms + STALLED_MS < now_ms) {
            self.listens_from_ms = now_ms;
        }
        self.failed.retain(|failure| failure.found_ms + REMEMBER_MS > now_ms);
        let silent: Vec<_> = self
            .heard
            .iter()
            .filter(|(_, peer)| peer.heard_ms.max(self.listens_from_ms) + DEAD_MS <= now_ms)
            .map(|(daemon, peer)| FailedPeer {
                daemon: *daemon,
                last_heard_ms: peer.heard_ms,
                found_ms: now_ms,
            })
            .collect();
        if silent.is_empty() {
            return Vec::new();
        }
        // Whoever was to act for an earlier failure may be among the dead: that is done again.
        let ranks_before: Vec<_> =
            self.failed.iter().map(|failure| self.rank_for_failure(failure)).collect();
        for failure in &silent {
            self.heard.remove(&failure.daemon);
            self.first_heard.remove(&failure.daemon);
        }
        let inherited = self.failed.iter().zip(ranks_before).filter(|(_, rank)| *rank > 0);
        let mut mine: Vec<_> = inherited.map(|(failure, _)| *failure).collect();
        mine.extend(&silent);
        self.failed.extend(&silent);
        mine.retain(|failure| self.rank_for_failure(failure) == 0);
        mine
    }

    /// The daemons that died lately and whose announcements are this daemon's to repeat: what they
    /// did may still be on its way to the replica.
    pub fn failed_and_mine(&self) -> Vec<DaemonId> {
        let mine = self.failed.iter().filter(|failure| self.rank_for_failure(failure) == 0);
        mine.map(|failure| failure.daemon).collect()
    }

    /// How many daemons come before this one when something is to be done about `key`: rendezvous
    /// hashing over those that are alive.
    pub fn rank(&self, key: &str) -> usize {
        self.rank_among(key, |_| true)
    }

    /// The same over those that hear: only they judge silence.
    pub fn rank_of_hearing(&self, key: &str) -> usize {
        self.rank_among(key, |peer| !peer.status.deaf)
    }

    /// How many of those that hear come before this one when somebody is to carry on what `tried`
    /// could not finish: whoever has not tried comes first.
    pub fn turn(&self, key: &str, tried: &[DaemonId]) -> usize {
        let place = |daemon: DaemonId| (!tried.contains(&daemon), score(daemon, key), daemon);
        let others = self.heard.iter().filter(|(_, peer)| !peer.status.deaf);
        others.filter(|(daemon, _)| place(**daemon) > place(self.own)).count()
    }

    fn rank_among(&self, key: &str, counts: impl Fn(&Peer) -> bool) -> usize {
        let own = (score(self.own, key), self.own);
        let others = self.heard.iter().filter(|(_, peer)| counts(peer));
        others.filter(|(daemon, _)| (score(**daemon, key), **daemon) > own).count()
    }

    /// Whether a daemon is alive; this one is.
    pub fn is_alive(&self, daemon: DaemonId) -> bool {
        daemon == self.own || self.heard.contains_key(&daemon)
    }

    /// Whether another daemon has been there for a while.
    pub fn has_settled(&self) -> bool {
        self.heard.values().any(|peer| !peer.status.starting)
    }

    /// How many come before this one among those that know of a failure. Whoever was met after the
    /// last beacon of the dead, as a daemon that was restarted at once, has never heard of it.
    fn rank_for_failure(&self, failure: &FailedPeer) -> usize {
        let key = failure.daemon.to_string();
        let own = score(self.own, &key);
        let knows = |daemon: &&DaemonId| {
            self.first_heard
                .get(daemon)
                .is_some_and(|first_heard_ms| *first_heard_ms <= failure.last_heard_ms)
        };
        let before = |daemon: &&DaemonId| (score(**daemon, &key), **daemon) > (own, self.own);
        self.heard.keys().filter(knows).filter(before).count()
    }

    /// The other daemons that are alive.
    pub fn alive(&self) -> impl Iterator<Item = DaemonId> {
        self.heard.keys().copied()
    }

    /// The daemon whose turn it is first to end `key` when it has been silent, given whether this
    /// one is deaf: one that hears, if there is any.
    pub fn first_of_hearing(&self, key: &str, deaf: bool) -> DaemonId {
        let others = self.heard.iter().map(|(daemon, peer)| (!peer.status.deaf, *daemon));
        let all = others.chain([(!deaf, self.own)]);
        let first = all.max_by_key(|(hears, daemon)| (*hears, score(*daemon, key), *daemon));
        first.map_or(self.own, |(_, daemon)| daemon)
    }
}

/// FNV-1a over the key, then mixed with the daemon, so that each key has its own order.
fn score(daemon: DaemonId, key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ daemon.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
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
            let mut ranks = [A, B, C].map(|own| three(own).rank(&key));
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2]);
        }
    }

    #[test]
    fn whoever_has_tried_comes_after_all_others() {
        for key in 0..100 {
            let key = key.to_string();
            assert_eq!(three(A).turn(&key, &[A]), 2);
            let mut turns = [B, C].map(|own| three(own).turn(&key, &[A]));
            turns.sort_unstable();
            assert_eq!(turns, [0, 1]);
            assert_eq!(three(A).turn(&key, &[A, B, C]), three(A).rank(&key));
        }
    }

    #[test]
    fn one_survivor_acts_for_a_death_and_another_if_that_one_dies_too() {
        let mut survivors = [three(A), three(B)];
        survivors[0].on_beacon(B, PeerStatus::default(), 2000);
        survivors[1].on_beacon(A, PeerStatus::default(), 2000);
        let acting: Vec<_> =
            survivors.iter_mut().map(|peers| peers.detect_failures(4000)).collect();
        let first = usize::from(acting[0].is_empty());
        let failure = acting[first][0];
        assert_eq!((failure.daemon, failure.last_heard_ms), (C, 0));
        assert!(acting[1 - first].is_empty());
        let inherited = survivors[1 - first].detect_failures(5600);
        assert!(inherited.contains(&failure), "{inherited:?}");
    }

    #[test]
    fn a_daemon_that_starts_after_a_death_is_not_left_to_act_for_it() {
        for newcomer in 4..20 {
            let mut peers = Peers::new(A);
            peers.on_beacon(B, PeerStatus::default(), 0);
            peers.on_beacon(DaemonId(newcomer), PeerStatus::default(), 1000);
            peers.on_beacon(DaemonId(newcomer), PeerStatus::default(), 3000);
            assert_eq!(peers.detect_failures(4000).len(), 1, "{newcomer}");
        }
    }

    #[test]
    fn who_was_stopped_itself_takes_nobody_for_dead_until_it_has_listened_again() {
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
        assert_eq!(peers.failed[0].last_heard_ms, 0, "what it did since then is announced");
    }

    #[test]
    fn who_is_cut_off_takes_nobody_for_dead_until_it_has_listened_again() {
        let mut peers = three(A);
        for second in 1..=10 {
            peers.cut_off(second * 1000);
            assert!(peers.detect_failures(second * 1000).is_empty());
        }
        for second in 11..=13 {
            assert!(peers.detect_failures(second * 1000).is_empty());
        }
        peers.detect_failures(13_500);
        assert!(!peers.is_alive(B) && !peers.is_alive(C));
    }

    #[test]
    fn the_deaf_come_last_where_silence_is_judged() {
        let deaf = PeerStatus { deaf: true, ..PeerStatus::default() };
        for key in 0..20 {
            let key = key.to_string();
            let mut peers = three(A);
            peers.on_beacon(B, deaf, 0);
            assert_ne!(peers.first_of_hearing(&key, false), B);
            assert_eq!(peers.first_of_hearing(&key, true), C);
            peers.on_beacon(C, deaf, 0);
            assert_eq!(peers.first_of_hearing(&key, false), A);
        }
    }

    #[test]
    fn who_says_farewell_is_not_mourned() {
        let mut peers = three(A);
        peers.on_leave(B);
        peers.on_leave(C);
        assert!(peers.detect_failures(60_000).is_empty());
    }
}
