//! The ends of shared leases, as they really went: what each is about, and who carried it on.

use std::collections::{BTreeMap, BTreeSet};

use presenced::liveness::judge::Sentence;
use presenced::presence::id::Id;
use presenced::presence::user::{Command, Connection};

use super::bounds::{AFTER_A_FAULT_MS, BOUND_MS};
use super::truth::{Voice, WRITTEN_WITHIN_MS};
use super::world::World;

/// Within so long an end must be done, whatever becomes of who began it.
const DONE_WITHIN_MS: u64 = BOUND_MS + AFTER_A_FAULT_MS;

/// A connection at a moment of its life: user, id, and how often it had connected.
type Line = (Id, Id, u64);

#[derive(Debug)]
struct End {
    begun_ms: u64,
    /// When it was last carried on.
    carried_on_ms: Option<u64>,
    /// Whether somebody had heard the lease, and could not say so in time.
    contested: bool,
    lines: BTreeSet<Line>,
}

#[derive(Debug, Default)]
pub struct Ends {
    begun: BTreeMap<Id, End>,
    /// When a daemon last began to work on the end of a lease.
    last_ms: BTreeMap<Voice, u64>,
    /// What was left over when no daemon could be relied on.
    pub left_over: BTreeSet<(Id, Id)>,
}

impl Ends {
    /// A daemon begins to end a lease.
    pub fn begin(&mut self, lease: &Id, sentences: &[Sentence], contested: bool, now_ms: u64) {
        let lines = sentences.iter().flat_map(lines).collect();
        let end = End { begun_ms: now_ms, carried_on_ms: None, contested, lines };
        self.begun.insert(lease.clone(), end);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
    }

    /// A daemon carries on the end of a lease that began not long ago, and ends nothing else.
    pub fn go_on(&mut self, lease: &Id, sentences: &[Sentence], now_ms: u64) -> Result<(), String> {
        let end = self.begun.get_mut(lease);
        let end = end.ok_or_else(|| format!("the end of {lease:?} goes on for too long"))?;
        if let Some(line) = sentences.iter().flat_map(lines).find(|line| !end.lines.contains(line))
        {
            return Err(format!("the end of {lease:?} goes on with {line:?}"));
        }
        end.carried_on_ms = Some(now_ms);
        self.last_ms.insert(Voice::Lease(lease.clone()), now_ms);
        Ok(())
    }

    /// When a daemon last began to work on the end of what hangs on a voice.
    pub fn last_ms(&self, voice: &Voice) -> Option<u64> {
        self.last_ms.get(voice).copied()
    }

    /// Whether a connection was just ended by somebody who carried on the end of its lease.
    pub fn is_carried_on(&self, user: &Id, connection: &Connection, now_ms: u64) -> bool {
        let end = connection.lease.as_ref().and_then(|lease| self.begun.get(lease));
        let line = (user.clone(), connection.id.clone(), connection.connects);
        end.is_some_and(|end| {
            end.carried_on_ms.is_some_and(|at_ms| at_ms + WRITTEN_WITHIN_MS > now_ms)
                && end.lines.contains(&line)
        })
    }
}

impl World {
    /// A lease whose end has begun is ended whole in time, whatever becomes of who began it, as long
    /// as one daemon can be relied on all the while.
    pub fn check_ends(&mut self) -> Result<(), String> {
        let now_ms = self.agenda.now_ms;
        let over = |end: &End| end.begun_ms + DONE_WITHIN_MS < now_ms;
        let ends = self.truth.ends.begun.extract_if(.., |_, end| over(end));
        for (lease, end) in ends.collect::<Vec<_>>() {
            let left: Vec<_> = end.lines.iter().filter(|line| self.is_stored(line)).collect();
            let relied_on = self.reliable_since_ms().is_some_and(|ms| ms <= end.begun_ms);
            if !left.is_empty() && relied_on && !end.contested {
                return Err(format!("the end of {lease:?} has left {left:?}"));
            }
            let left = left.into_iter().map(|(user, id, _)| (user.clone(), id.clone()));
            self.truth.ends.left_over.extend(left);
        }
        Ok(())
    }

    fn is_stored(&self, (user, id, connects): &Line) -> bool {
        let connections = self.stored(user).map_or(&[][..], |record| &record.connections);
        connections.iter().any(|each| (&each.id, &each.connects) == (id, connects))
    }
}

/// The connections that a sentence ends.
fn lines(sentence: &Sentence) -> Vec<Line> {
    let Command::Lapse { lines } = &sentence.command else { return Vec::new() };
    let user = &sentence.user;
    lines.iter().map(|line| (user.clone(), line.connection.clone(), line.connects)).collect()
}
