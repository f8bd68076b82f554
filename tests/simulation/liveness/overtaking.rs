//! Disconnects that overtake their connects, as requests of one client reach different daemons: a
//! small version of what the service does about them.

use presenced::liveness::early_disconnects::window;
use presenced::liveness::expiry::View;
use presenced::presence::entity::DaemonId;
use presenced::presence::id::Id;
use presenced::presence::user::{BeforeConnect, Command, EarlyDisconnect, Outcome, Window};
use presenced::store::stripe::Job;

use super::Broken;
use super::daemon::{REQUEST_MS, Ticket};
use super::events::{Incoming, Reply};
use super::world::{World, id};

/// The number of sockets of a gateway that open and close at once.
const SOCKETS: usize = 20;

impl World {
    /// A request that changes a user reaches a daemon.
    pub fn on_request(
        &mut self,
        daemon: DaemonId,
        to: Reply,
        user: Id,
        command: Command,
    ) -> Result<(), Broken> {
        let Some(arrived_ms) = self.mono_ms(daemon) else { return Ok(()) };
        let mut ended = None;
        let mut ticket = Ticket::Request(to);
        match &command {
            Command::Connect { connection, .. } => {
                let view = &self.daemons[&daemon].view;
                let before = view.with_index(&user, |index| {
                    index.early_disconnects.before_connect(&user, connection, arrived_ms)
                });
                match before {
                    BeforeConnect::Nothing => {}
                    BeforeConnect::Ended(early) => ended = Some(early),
                    BeforeConnect::TooLate(void) => {
                        let message = || Incoming::Void { user: user.clone(), void: void.clone() };
                        self.send_to_others(daemon, message);
                    }
                }
            }
            Command::Disconnect { connection, lease, grace_ms } => {
                let (connection, lease) = (connection.clone(), lease.clone());
                let early = EarlyDisconnect { connection, lease, grace_ms: *grace_ms };
                ticket = Ticket::Disconnect { to, user: user.clone(), early, arrived_ms };
            }
            _ => {}
        }
        let deadline_ms = arrived_ms + REQUEST_MS;
        let job = Job { command, ticket, deadline_ms };
        self.drive(daemon, |machine, now| machine.on_command(user.clone(), job, now))?;
        if let Some(early) = ended {
            self.note(|| format!("{daemon} ends {user:?}/{early:?} at once"));
            self.truth.counts.overtaken += 1;
            let ticket = Ticket::PendingWrite(None);
            let job = Job { command: early.command(), ticket, deadline_ms };
            self.drive(daemon, |machine, now| machine.on_command(user, job, now))?;
        }
        Ok(())
    }

    /// A disconnect is done. If it found no connection, it is remembered, and the other daemons
    /// hear of it.
    pub fn on_disconnected(
        &mut self,
        daemon: DaemonId,
        (user, early, arrived_ms): (Id, EarlyDisconnect, u64),
        outcome: &Outcome,
    ) {
        if matches!(outcome, Outcome::Disconnected { count: 1.., .. }) {
            return;
        }
        let window = window(arrived_ms, REQUEST_MS);
        self.remember(daemon, &user, early.clone(), window);
        self.publish_disconnect(daemon, &user, &early, window);
    }

    /// A daemon publishes a disconnect with the time that is left of its window.
    fn publish_disconnect(
        &mut self,
        daemon: DaemonId,
        user: &Id,
        early: &EarlyDisconnect,
        window: Window,
    ) {
        let Some(now_ms) = self.mono_ms(daemon) else { return };
        let left = Window {
            arrives_until_ms: window.arrives_until_ms.saturating_sub(now_ms),
            appears_until_ms: window.appears_until_ms.saturating_sub(now_ms),
        };
        let message =
            || Incoming::EarlyDisconnect { user: user.clone(), early: early.clone(), left };
        self.send_to_others(daemon, message);
    }

    /// Another daemon told of a disconnect.
    pub fn on_early_disconnect(
        &mut self,
        daemon: DaemonId,
        user: &Id,
        early: EarlyDisconnect,
        left: Window,
    ) {
        let Some(now_ms) = self.mono_ms(daemon) else { return };
        let window = Window {
            arrives_until_ms: now_ms + left.arrives_until_ms,
            appears_until_ms: now_ms + left.appears_until_ms,
        };
        self.remember(daemon, user, early, window);
    }

    fn remember(&mut self, daemon: DaemonId, user: &Id, early: EarlyDisconnect, window: Window) {
        let Some(now_ms) = self.mono_ms(daemon) else { return };
        let view = &self.daemons[&daemon].view;
        let record = view.machine.borrow().record(user);
        view.with_index(user, |index| {
            index.early_disconnects.insert(user, early, window, now_ms);
            index.early_disconnects.observe(user, record.as_deref(), now_ms);
        });
    }

    fn mono_ms(&self, daemon: DaemonId) -> Option<u64> {
        self.daemons.get(&daemon).map(|daemon| daemon.now(self.agenda.now_ms).mono_ms)
    }

    /// Sockets of a gateway open and close at once.
    pub fn flash(&mut self, number: usize) {
        for _ in 0..SOCKETS {
            let user = id(&format!("u{}", self.rng.usize(0..self.settings.users)));
            let connection = self.gateways[number].new_connection(number);
            self.connect(number, user.clone(), connection.clone());
            self.disconnect(number, user, connection);
        }
    }
}
