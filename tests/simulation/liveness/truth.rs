//! The truth: which heartbeats were sent when, which of them arrived where, and what each daemon
//! can
//! know. Expiry is checked against it, not against the memory of the machines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use presenced::liveness::expiry::View;
use presenced::liveness::expiry::messages::Proposal;
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::user::{Command, Connection, Record};

use super::Broken;
use super::daemon::Daemon;
use super::lease_ends::LeaseEnds;
use crate::liveness::events::Heartbeat;

/// The longest time from the proposal of a lapse to its write, and from there until it is stored.
pub const WRITTEN_WITHIN_MS: u64 = 1100 + 2000;
/// The longest duration of a lease's end, until all daemons know that it is done.
const ENDED_WITHIN_MS: u64 = 6000;
/// The minimum delay of the next rank.
const MIN_STEP_MS: u64 = 900;
/// The time for which the heartbeats of a voice are remembered.
const BEATS_TTL_MS: u64 = 60_000;

/// The source of a connection's signs of life: a shared lease, or its own heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    Lease(Id),
    Own(Id, Id),
}

impl Voice {
    pub fn of(user: &Id, connection: &Connection) -> Self {
        match &connection.lease {
            Some(lease) => Self::Lease(lease.clone()),
            None => Self::Own(user.clone(), connection.id.clone()),
        }
    }

    pub fn all(beat: &Heartbeat) -> Vec<Self> {
        match beat {
            Heartbeat::Lease(lease) => vec![Self::Lease(lease.clone())],
            Heartbeat::Connections(connections) => {
                let own =
                    |(user, connection): &(Id, Id)| Self::Own(user.clone(), connection.clone());
                connections.iter().map(own).collect()
            }
        }
    }
}

/// A heartbeat, and the servers that it reached.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    pub sent_ms: u64,
    pub nodes: [bool; super::world::NODES],
}

/// Counters of what happened, to prove that a run covers it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections that lapsed.
    pub lapses: u64,
    /// Those among them whose heartbeats reached only the far side of a partition.
    pub far_side: u64,
    pub objections: u64,
    pub graces: u64,
    pub refreshes: u64,
    /// Graces that a connect ended.
    pub reloads: u64,
    /// Ends of leases that were taken over.
    pub taken_over: u64,
    /// Connects that were ended at once, as their disconnects had overtaken them.
    pub overtaken: u64,
    /// Faults: daemons that died, that were stopped, and that were cut off.
    pub kills: u64,
    pub stops: u64,
    pub cuts: u64,
    /// Times at which servers did not reach each other, and at which the stream had no leader.
    pub partitions: u64,
    pub leaderless: u64,
    /// Gateways that died, or paused.
    pub gateways: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.lapses += other.lapses;
        self.far_side += other.far_side;
        self.objections += other.objections;
        self.graces += other.graces;
        self.refreshes += other.refreshes;
        self.reloads += other.reloads;
        self.taken_over += other.taken_over;
        self.overtaken += other.overtaken;
        self.kills += other.kills;
        self.stops += other.stops;
        self.cuts += other.cuts;
        self.partitions += other.partitions;
        self.leaderless += other.leaderless;
        self.gateways += other.gateways;
    }
}

#[derive(Debug, Default)]
pub struct Truth {
    lease_ms: u64,
    grace_ms: u64,
    beats: BTreeMap<Voice, VecDeque<Beat>>,
    /// The time, on the daemon's clock, at which the last heartbeat was sent that it took for a
    /// known voice.
    taken: BTreeMap<(DaemonId, Voice), u64>,
    /// The same for heartbeats that other daemons objected with.
    objected: BTreeMap<(DaemonId, Voice), u64>,
    /// The time at which a connect was last stored: of a connection, and of any on a lease.
    connected: BTreeMap<Voice, u64>,
    connected_ms: BTreeMap<(Id, Id), u64>,
    pub ends: LeaseEnds,
    /// The time at which a heartbeat or a probe to a daemon was last dropped.
    dropped: BTreeMap<DaemonId, u64>,
    pub ready: BTreeMap<DaemonId, u64>,
    /// The last write of each kind for a user: the daemon and the time.
    last_writes: BTreeMap<String, (DaemonId, u64)>,
    /// Connections with a request to disconnect.
    pub left: BTreeSet<(Id, Id)>,
    /// The time at which the grace of a record was stored.
    pub graces: BTreeMap<Id, u64>,
    pub counts: Counts,
}

impl Truth {
    pub fn new(lease_ms: u64, grace_ms: u64) -> Self {
        Self { lease_ms, grace_ms, ..Self::default() }
    }

    pub fn beat(&mut self, voices: &[Voice], beat: Beat) {
        for voice in voices {
            let beats = self.beats.entry(voice.clone()).or_default();
            beats.push_back(beat);
            while beats.front().is_some_and(|first| first.sent_ms + BEATS_TTL_MS < beat.sent_ms) {
                beats.pop_front();
            }
        }
    }

    /// The last sign of life of a voice at any daemon: a heartbeat or a connect.
    pub fn last_sign_ms(&self, voice: &Voice) -> u64 {
        let beat = self.beats.get(voice).and_then(VecDeque::back).map_or(0, |beat| beat.sent_ms);
        beat.max(self.connected.get(voice).copied().unwrap_or(0))
    }

    pub fn taken(&mut self, daemon: DaemonId, voice: Voice, sent_ms: u64) {
        let taken = self.taken.entry((daemon, voice)).or_default();
        *taken = sent_ms.max(*taken);
    }

    /// A daemon forgets the voices that it no longer knows.
    pub fn forget_unknown(&mut self, daemon: &Daemon) {
        self.taken.retain(|(of, voice), _| *of != daemon.id || is_known(daemon, voice));
    }

    pub fn objected(&mut self, daemon: DaemonId, voice: Voice, heard_ms: u64) {
        let last_ms = self.objected.entry((daemon, voice)).or_default();
        *last_ms = heard_ms.max(*last_ms);
    }

    pub fn dropped(&mut self, daemon: DaemonId, now_ms: u64) {
        self.dropped.insert(daemon, now_ms);
    }

    /// Returns whether a daemon has taken a heartbeat within the lease, and must object.
    pub fn must_object(&self, daemon: DaemonId, voice: &Voice, mono_ms: u64) -> bool {
        let taken = self.taken.get(&(daemon, voice.clone()));
        taken.is_some_and(|at_ms| at_ms + self.lease_ms > mono_ms)
    }

    /// Checks the end of a voice by a daemon. It must not have heard the voice, nor received an
    /// objection, nor missed a heartbeat that was sent its way before it proposed the end.
    pub fn check_end(&self, daemon: &Daemon, voice: &Voice, now_ms: u64) -> Result<(), Broken> {
        let (id, mono_ms) = (daemon.id, daemon.now(now_ms).mono_ms);
        let key = (id, voice.clone());
        for (heard, how) in [(&self.taken, "heard it"), (&self.objected, "got an objection")] {
            if let Some(at_ms) = heard.get(&key)
                && at_ms + self.lease_ms > mono_ms
            {
                return Err(Broken(format!("{id} {how} {} ms ago", mono_ms - at_ms)));
            }
        }
        let proposed_ms = daemon.proposed_ms.get(voice).copied();
        let proposed_ms = proposed_ms.ok_or_else(|| Broken(format!("{id} never proposed it")))?;
        // While a lease ends, its heartbeats are answered as unknown, and do not count.
        let ignored_ms = self.ends.last_ms(voice).map_or(0, |at_ms| at_ms + ENDED_WITHIN_MS);
        let within = |at_ms: u64| at_ms <= proposed_ms && at_ms + self.short_lease_ms() > now_ms;
        let mut beats = self.beats.get(voice).into_iter().flatten();
        let counts = |beat: &&Beat| beat.sent_ms >= ignored_ms && within(beat.sent_ms);
        if let Some(beat) = beats.find(|beat| beat.nodes[daemon.node] && counts(beat)) {
            return Err(Broken(format!(
                "a heartbeat was sent to {id} {} ms ago",
                now_ms - beat.sent_ms
            )));
        }
        if let Some(at_ms) = self.dropped.get(&id).filter(|at_ms| within(**at_ms)) {
            return Err(Broken(format!("{id} was deaf {} ms ago", now_ms - at_ms)));
        }
        let ready_ms = self.ready.get(&id).copied().unwrap_or(now_ms);
        if ready_ms + self.short_lease_ms() > now_ms {
            return Err(Broken(format!("{id} has listened only for {} ms", now_ms - ready_ms)));
        }
        Ok(())
    }

    /// Checks that only the first daemon in order acts while there is no fault.
    pub fn acts_alone(&mut self, id: DaemonId, what: String, now_ms: u64) -> Result<(), Broken> {
        match self.last_writes.insert(what, (id, now_ms)) {
            Some((other, at_ms)) if other != id && at_ms + MIN_STEP_MS > now_ms => {
                Err(Broken(format!("{other} did so {} ms ago, and now {id} does", now_ms - at_ms)))
            }
            _ => Ok(()),
        }
    }

    /// The items of another daemon's proposal to which this daemon must object, if it is reliable.
    pub fn objections(
        &self,
        daemon: &Daemon,
        of: &Proposal,
        now_ms: u64,
    ) -> (Vec<usize>, Vec<usize>) {
        let mono_ms = daemon.now(now_ms).mono_ms;
        let id = |text: &str| Id::parse(text, "id").expect("a good id");
        let must =
            |voice: Voice| is_known(daemon, &voice) && self.must_object(daemon.id, &voice, mono_ms);
        let connections = of
            .connections
            .iter()
            .enumerate()
            .filter(|(_, (user, connection, _))| must(Voice::Own(id(user), id(connection))));
        let leases =
            of.leases.iter().enumerate().filter(|(_, lease)| must(Voice::Lease(id(lease))));
        (connections.map(|(at, _)| at).collect(), leases.map(|(at, _)| at).collect())
    }

    /// Checks a stored write: the connections that it ended were silent for a lease not long ago,
    /// or
    /// had a request to disconnect.
    pub fn stored(
        &mut self,
        user: &Id,
        (before, after): (Option<&Record>, Option<&Record>),
        writer: (DaemonId, usize),
        now_ms: u64,
    ) -> Result<(), Broken> {
        let connections = |record: Option<&Record>| {
            record.map_or(Vec::new(), |record| record.connections.clone())
        };
        let (old, new) = (connections(before), connections(after));
        for each in &new {
            let before = old.iter().find(|other| other.id == each.id);
            if before.is_none_or(|before| before.generation != each.generation) {
                self.connected.insert(Voice::of(user, each), now_ms);
                self.connected_ms.insert((user.clone(), each.id.clone()), now_ms);
            }
        }
        for each in old.iter().filter(|each| new.iter().all(|other| other.id != each.id)) {
            if !self.left.contains(&(user.clone(), each.id.clone())) {
                self.counts.lapses += 1;
                self.check_lapse(user, each, writer, now_ms)?;
            }
        }
        let grace =
            |record: Option<&Record>| record.and_then(|record| Some(record.leaving.first()?.since));
        if grace(before).is_some() && grace(after).is_none() && new.is_empty() {
            let since_ms = self.graces.get(user).copied().unwrap_or(0);
            self.counts.graces += 1;
            if now_ms - since_ms + self.grace_ms / 500 + 2 < self.grace_ms {
                return Err(Broken(format!("a grace ended after {} ms", now_ms - since_ms)));
            }
        } else if grace(before).is_some() && !new.is_empty() {
            self.counts.reloads += 1;
        }
        if grace(after) != grace(before) {
            self.graces.insert(user.clone(), now_ms);
        }
        let active = |record: Option<&Record>| record.and_then(|record| record.last_active);
        if old == new && active(before) < active(after) {
            self.counts.refreshes += 1;
        }
        Ok(())
    }

    /// Checks a lapse. The voice must have been silent at the writer's server, for a lease that
    /// ended
    /// no longer ago than a write may take.
    fn check_lapse(
        &mut self,
        user: &Id,
        connection: &Connection,
        (writer, node): (DaemonId, usize),
        now_ms: u64,
    ) -> Result<(), Broken> {
        if self.ends.is_taken_over(user, connection, now_ms) {
            return Ok(());
        }
        let voice = Voice::of(user, connection);
        let key = (user.clone(), connection.id.clone());
        let connected_ms = self.connected_ms.get(&key).copied().unwrap_or(0);
        let beats = || self.beats.get(&voice).into_iter().flatten();
        let silent = |mut signs: Vec<u64>| {
            signs.extend([connected_ms, now_ms]);
            signs.retain(|at_ms| *at_ms >= connected_ms);
            signs.sort_unstable();
            let mut gaps = signs.windows(2);
            gaps.any(|gap| {
                gap[1] - gap[0] >= self.short_lease_ms() && gap[1] + WRITTEN_WITHIN_MS >= now_ms
            })
        };
        let here = beats().filter(|beat| beat.nodes[node]).map(|beat| beat.sent_ms).collect();
        if !silent(here) {
            let signs: Vec<_> = beats().map(|beat| beat.sent_ms).collect();
            return Err(Broken(format!(
                "{writer} ended {connection:?}, connected at {connected_ms}, which beat at \
                 {signs:?}"
            )));
        }
        if !silent(beats().map(|beat| beat.sent_ms).collect()) {
            self.counts.far_side += 1;
        }
        Ok(())
    }

    /// A lease by the fastest clock, less a millisecond for rounding.
    fn short_lease_ms(&self) -> u64 {
        self.lease_ms - self.lease_ms / 500 - 2
    }
}

/// Returns whether a daemon takes heartbeats of a voice.
pub fn is_known(daemon: &Daemon, voice: &Voice) -> bool {
    match voice {
        Voice::Lease(lease) => daemon.view.leases(|leases| leases.held(lease).is_some()),
        Voice::Own(user, connection) => {
            daemon.view.with_index(user, |index| index.agenda.heard(user, connection).is_some())
        }
    }
}

/// The voices that a write ends: a lease as a whole, or connections of a user.
pub fn ended_by(user: &Id, command: &Command, lease: Option<&Id>) -> Vec<Voice> {
    let (Command::Lapse { generations }, None) = (command, lease) else {
        return lease.map(|lease| Voice::Lease(lease.clone())).into_iter().collect();
    };
    generations
        .iter()
        .map(|connection_gen| Voice::Own(user.clone(), connection_gen.connection.clone()))
        .collect()
}
