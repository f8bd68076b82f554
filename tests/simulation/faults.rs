//! Faults, and their repair.

use presenced::presence::entity::DaemonId;
use presenced::presence::user::ConnectionGen;

use super::checks::Broken;
use super::client::{Action, CLIENTS, Op, id};
use super::network::{Event, Incoming};
use super::world::World;

/// The number of a daemon's ticks, per 1000, that end a connection or a status.
const ENDS_PER_1000: u32 = 50;

/// Daemons crash one at a time, and the next one only after the announcements of the last were
/// repeated, except in wild runs.
const BETWEEN_CRASHES_MS: u64 = 8000;

impl World {
    /// Causes a random fault.
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let all: Vec<_> = self.daemons.keys().copied().collect();
        let until_ms = |world: &mut Self, from, to| world.net.now_ms + world.net.rng.u64(from..to);
        if !all.is_empty() {
            let id = all[self.net.rng.usize(0..all.len())];
            match self.net.rng.u32(0..12) {
                0..2 if self.may_crash(id) => self.crash(id),
                2..4 => {
                    self.counts.pauses += 1;
                    let until = until_ms(self, 100, 4500);
                    self.note(None, || format!("{id} pauses until {until}"));
                    self.with(id, |daemon, _| daemon.paused_until_ms = until);
                }
                4..6 => {
                    self.counts.leaderless += 1;
                    let until = until_ms(self, 100, 3000);
                    self.note(None, || format!("the stream has no leader until {until}"));
                    self.bucket.leaderless_until_ms = until;
                }
                6..8 => {
                    self.counts.slow_feeds += 1;
                    let until = until_ms(self, 500, 5000);
                    self.note(None, || format!("the replica of {id} is slow until {until}"));
                    self.with(id, |daemon, _| daemon.slow_until_ms = until);
                }
                8..11 => {
                    let skew_ms = self.net.rng.i64(-4000..=4000);
                    self.with(id, |daemon, _| daemon.skew_ms = skew_ms);
                }
                11 if self.net.weather.replace => self.change_stream(),
                _ => {}
            }
        }
        let ms = self.net.rng.u64(50..900);
        self.net.after(ms, Event::Fault);
    }

    /// Has a daemon end a connection, a status or an absent user that it knows, in the middle of
    /// everything else.
    pub fn end_any(&mut self, daemon: DaemonId) -> Result<(), Broken> {
        if self.calm || !self.net.chance(ENDS_PER_1000) {
            return Ok(());
        }
        let Some(known) = self.daemons.get(&daemon).filter(|known| known.is_ready()) else {
            return Ok(());
        };
        let user = self.users[self.net.rng.usize(0..self.users.len())].clone();
        let Some(record) = known.machine.record(&user) else { return Ok(()) };
        if let Some(at) = record.status_expires_at.filter(|_| self.net.rng.bool()) {
            let action = Action::ExpireStatus(at);
            return self.command(daemon, Op { user, client: 0, action });
        }
        if !record.is_online() {
            let stream = known.now(self.net.now_ms).stream;
            let action = Action::Forget(record.touched(stream));
            return self.command(daemon, Op { user, client: 0, action });
        }
        let connection = record.connections.first();
        let named = |client: &usize| connection.is_some_and(|c| c.id == id(&format!("c{client}")));
        let (Some(each), Some(client)) = (connection, (0..CLIENTS).find(named)) else {
            return Ok(());
        };
        let (connection, generation) = (each.id.clone(), each.generation);
        let action = Action::Lapse(ConnectionGen { connection, generation });
        self.command(daemon, Op { user, client, action })
    }

    /// Returns whether a daemon may crash now: except in wild runs another daemon must know of it.
    pub fn may_crash(&self, id: DaemonId) -> bool {
        let survivors = self.daemons.values().filter(|other| other.id != id);
        self.net.weather.wild
            || (self.crashed_ms == 0 || self.crashed_ms + BETWEEN_CRASHES_MS <= self.net.now_ms)
                && survivors.clone().next().is_some()
                && survivors.clone().all(|o| o.is_ready() && o.peers.alive().any(|a| a == id))
    }

    pub fn crash(&mut self, id: DaemonId) {
        self.counts.crashes += 1;
        self.note(None, || format!("{id} dies"));
        self.daemons.remove(&id);
        self.crashed_ms = self.net.now_ms;
        let ms = self.net.rng.u64(500..6000);
        self.net.after(ms, Event::Start);
    }

    /// The stream becomes another behind the daemons' back.
    fn change_stream(&mut self) {
        match self.net.rng.u32(0..3) {
            0 => {
                self.note(None, || "the bucket is deleted and created again".to_owned());
                self.counts.replaced += 1;
                self.bucket.replace();
            }
            1 => {
                let count = self.net.rng.usize(1..=20);
                self.note(None, || format!("the stream loses its last {count} messages"));
                self.counts.lost_tails += 1;
                self.bucket.lose_tail(count);
            }
            _ => {
                let key = self.users[self.net.rng.usize(0..self.users.len())].clone();
                self.note(None, || format!("{key:?} is purged"));
                self.counts.purges += 1;
                self.bucket.purge(&key);
            }
        }
        self.ledger.replaced_ms.push(self.net.now_ms);
        for id in self.daemons.keys().copied() {
            let ms = self.net.rng.u64(10..1500);
            self.net.after(ms, Event::To(id, Incoming::Replaced));
        }
    }

    /// Ends all faults, and delivers all messages.
    pub fn calm_down(&mut self) {
        self.calm = true;
        // The last action may be one that no other daemon has seen.
        self.doomed = self.daemons.keys().next().copied();
        self.note(None, || "all faults are over".to_owned());
        self.bucket.leaderless_until_ms = 0;
        let weather = &mut self.net.weather;
        (weather.lost, weather.late, weather.crash) = (0, 0, 0);
        for daemon in self.daemons.values_mut() {
            daemon.slow_until_ms = 0;
        }
    }
}
