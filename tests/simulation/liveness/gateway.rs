//! The gateways through which users are connected. They send heartbeats, query answers, reconnect
//! unknown connections, and repeat requests; their users connect, leave and reload their pages.

use std::collections::{BTreeMap, BTreeSet};

use presenced::presence::id::Id;
use presenced::presence::user::{Command, NewConnection, Patch};

use super::events::{Event, Heartbeat, Incoming, Reply, ToGateway};
use super::truth::{Beat, Voice};
use super::world::{NODES, World, id};

/// The time after which a request is repeated: its outcome is settled by then.
const REPEAT_MS: u64 = 3000;

#[derive(Debug)]
pub struct Gateway {
    /// The server to which it is connected.
    pub node: usize,
    /// The number of its starts.
    pub run: u64,
    pub alive: bool,
    pub paused_until_ms: u64,
    /// Whether all its connections are on one lease.
    on_lease: bool,
    /// Whether it sends one heartbeat for all its connections.
    in_lists: bool,
    pub members: BTreeMap<(Id, Id), Member>,
    /// Connections that went while it was paused: it ends them afterwards, unless its lease has
    /// lapsed
    /// and they with it.
    vanished: BTreeSet<(Id, Id)>,
    requests: BTreeMap<u64, Request>,
    last_number: u64,
    /// The number of times in a row that the service held another number of connections.
    differs: u32,
}

#[derive(Debug, Default)]
pub struct Member {
    pub acknowledged: bool,
}

#[derive(Debug, Clone)]
struct Request {
    user: Id,
    connection: Id,
    connects: bool,
}

impl Gateway {
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            node: rng.usize(0..NODES),
            run: 0,
            alive: true,
            paused_until_ms: 0,
            on_lease: rng.bool(),
            in_lists: rng.bool(),
            members: BTreeMap::new(),
            vanished: BTreeSet::new(),
            requests: BTreeMap::new(),
            last_number: 0,
            differs: 0,
        }
    }

    /// Starts again, with nothing left.
    pub fn restart(&mut self) {
        self.run += 1;
        self.alive = true;
        self.members.clear();
        self.vanished.clear();
        self.requests.clear();
    }

    /// Pauses; if all its connections are on a lease, one of them may go meanwhile.
    pub fn pause(&mut self, until_ms: u64, rng: &mut fastrand::Rng) {
        self.paused_until_ms = until_ms;
        let idle = self.idle_members();
        if let Some(member) = rng.choice(idle).filter(|_| self.on_lease && rng.bool()) {
            self.members.remove(&member);
            self.vanished.insert(member);
        }
    }

    /// The acknowledged connections without a pending request.
    fn idle_members(&self) -> Vec<(Id, Id)> {
        let idle =
            |(id, member): &(&(Id, Id), &Member)| member.acknowledged && !self.is_asked_for(id);
        self.members.iter().filter(idle).map(|(id, _)| id.clone()).collect()
    }

    /// Returns whether the gateway keeps a connection alive at the moment.
    pub fn keeps(&self, user: &Id, connection: &Id, now_ms: u64) -> bool {
        let member = (user.clone(), connection.clone());
        self.alive && self.paused_until_ms <= now_ms && self.members.contains_key(&member)
    }

    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// The lease of that run, if it has one.
    fn lease(&self, number: usize) -> Option<Id> {
        self.on_lease.then(|| id(&format!("gateway-{number}-{}", self.run)))
    }

    /// The id of its next connection.
    pub fn new_connection(&self, number: usize) -> Id {
        id(&format!("{number}-{}-{}", self.run, self.last_number + 1))
    }

    fn request(&mut self, user: Id, connection: Id, connects: bool) -> u64 {
        self.last_number += 1;
        self.requests.insert(self.last_number, Request { user, connection, connects });
        self.last_number
    }

    fn is_asked_for(&self, (user, connection): &(Id, Id)) -> bool {
        self.requests.values().any(|r| r.user == *user && r.connection == *connection)
    }
}

/// The gateway, and its run, that made a connection.
pub fn made_by(connection: &Id) -> (usize, u64) {
    let mut numbers = connection.as_str().split('-').map(|part| part.parse().expect("a number"));
    let number = numbers.next().expect("a gateway");
    let run = numbers.next().expect("a run");
    (usize::try_from(number).expect("a gateway"), run)
}

impl World {
    /// A message reaches a gateway, unless that run has ended; if it is paused, later.
    pub fn reach_gateway(&mut self, number: usize, run: u64, what: ToGateway) {
        let now_ms = self.agenda.now_ms;
        let gateway = &mut self.gateways[number];
        if !gateway.alive || gateway.run != run {
            return;
        }
        if gateway.paused_until_ms > now_ms {
            let at_ms = gateway.paused_until_ms;
            self.agenda.at(at_ms, Event::Gateway { number, run, what });
            return;
        }
        match what {
            ToGateway::Die => {
                gateway.alive = false;
                self.note(|| format!("gateway {number} dies"));
            }
            ToGateway::Beat => self.beat(number),
            ToGateway::Act => self.act(number),
            ToGateway::Send { request } => self.send_request(number, request),
            ToGateway::Flash => self.flash(number),
            ToGateway::Done { request } => {
                let Some(done) = gateway.requests.remove(&request).filter(|done| done.connects)
                else {
                    return;
                };
                let member = gateway.members.get_mut(&(done.user, done.connection));
                member.into_iter().for_each(|member| member.acknowledged = true);
            }
            ToGateway::Unknown { connections } => self.connect_again(number, &connections),
            ToGateway::Held { held } => {
                let vanished = std::mem::take(&mut self.gateways[number].vanished);
                for (user, connection) in vanished.into_iter().filter(|_| held.is_some()) {
                    self.disconnect(number, user, connection);
                }
                let gateway = &mut self.gateways[number];
                let all: Vec<_> = gateway.members.keys().cloned().collect();
                let acknowledged = gateway.members.values().filter(|m| m.acknowledged).count();
                let differs = gateway.is_idle() && held != Some(acknowledged);
                gateway.differs = if differs { gateway.differs + 1 } else { 0 };
                if (held.is_none() && !all.is_empty()) || gateway.differs > 1 {
                    gateway.differs = 0;
                    self.connect_again(number, &all);
                }
            }
        }
    }

    fn connect_again(&mut self, number: usize, connections: &[(Id, Id)]) {
        for member in connections {
            let gateway = &mut self.gateways[number];
            if gateway.members.contains_key(member) && !gateway.is_asked_for(member) {
                let request = gateway.request(member.0.clone(), member.1.clone(), true);
                self.send_request(number, request);
            }
        }
    }

    fn beat(&mut self, number: usize) {
        let (now_ms, interval_ms) = (self.agenda.now_ms, self.settings.interval_ms);
        let gateway = &self.gateways[number];
        let (node, run) = (gateway.node, gateway.run);
        let all: Vec<_> = gateway.members.keys().cloned().collect();
        let beats: Vec<(usize, Heartbeat)> = match gateway.lease(number) {
            Some(lease) => vec![(0, Heartbeat::Lease(lease))],
            None if gateway.in_lists => vec![(0, Heartbeat::Connections(all))],
            None => all.into_iter().map(|one| (1, Heartbeat::Connections(vec![one]))).collect(),
        };
        let nodes = std::array::from_fn(|other| self.routes.is_open(node, other));
        for (lane, beat) in beats {
            let voices = Voice::all(&beat);
            self.note(|| format!("gateway {number} beats for {voices:?}, to {nodes:?}"));
            self.truth.beat(&voices, Beat { sent_ms: now_ms, nodes });
            for daemon in self.all_daemons() {
                self.publish(
                    daemon,
                    node,
                    Incoming::Heartbeat { lane, beat: beat.clone(), sent_ms: now_ms },
                );
            }
            let to = Reply { number, run, request: 0 };
            self.ask(node, Incoming::Ask { to, beat, since_ms: now_ms });
        }
        let ms = interval_ms - interval_ms / 20 + self.rng.u64(0..=interval_ms / 20);
        self.agenda.after(ms, Event::Gateway { number, run, what: ToGateway::Beat });
    }

    /// Sends a request to a daemon that the gateway can reach.
    fn ask(&mut self, node: usize, incoming: Incoming) {
        let daemons = self.daemons.values().filter(|daemon| daemon.is_ready());
        let reached = daemons.filter(|daemon| self.routes.is_open(node, daemon.node));
        let reached: Vec<_> = reached.map(|daemon| daemon.id).collect();
        if let Some(daemon) = self.rng.choice(reached) {
            let ms = self.rng.u64(0..=8);
            self.agenda.after(ms, Event::To(daemon, incoming));
        }
    }

    /// Sends a request, and repeats it until it is answered.
    fn send_request(&mut self, number: usize, request: u64) {
        let gateway = &self.gateways[number];
        let Some(Request { user, connection, connects }) = gateway.requests.get(&request).cloned()
        else {
            return;
        };
        let (node, run, lease) = (gateway.node, gateway.run, gateway.lease(number));
        self.note(|| {
            format!("gateway {number} asks: {user:?}/{connection:?} connects: {connects}")
        });
        let command = if connects {
            let connection = NewConnection { lease, ..NewConnection::plain(connection) };
            let patch = Patch::default();
            Command::Connect { patch, defaults: None, connection, custom_in_answer: false }
        } else {
            self.truth.left.insert((user.clone(), connection.clone()));
            Command::Disconnect { connection, lease: None, grace_ms: None }
        };
        let (to, since_ms) = (Reply { number, run, request }, self.agenda.now_ms);
        let command = Box::new(command);
        self.ask(node, Incoming::Request { to, user, command, since_ms });
        let what = ToGateway::Send { request };
        self.agenda.after(REPEAT_MS, Event::Gateway { number, run, what });
    }

    /// Users connect, leave, or reload.
    fn act(&mut self, number: usize) {
        if self.calm {
            return;
        }
        let run = self.gateways[number].run;
        match self.rng.u32(0..10) {
            0..5 => self.join(number, None),
            5..7 => {
                self.leave(number);
            }
            _ => {
                if let Some(user) = self.leave(number) {
                    let alive = (0..self.gateways.len()).filter(|n| self.gateways[*n].alive);
                    let to = self.rng.choice(alive.collect::<Vec<_>>()).unwrap_or(number);
                    self.join(to, Some(user));
                }
            }
        }
        let ms = self.rng.u64(200..2000);
        self.agenda.after(ms, Event::Gateway { number, run, what: ToGateway::Act });
    }

    /// A user connects: at once, or a little later after a reload.
    fn join(&mut self, number: usize, reloads: Option<Id>) {
        let ms = if reloads.is_some() { self.rng.u64(0..=self.settings.grace_ms) } else { 0 };
        let user = reloads.unwrap_or_else(|| {
            let users = self.settings.users;
            id(&format!("u{}", self.rng.usize(0..users)))
        });
        let gateway = &mut self.gateways[number];
        let (run, connection) = (gateway.run, gateway.new_connection(number));
        gateway.members.insert((user.clone(), connection.clone()), Member::default());
        let request = gateway.request(user, connection, true);
        let what = ToGateway::Send { request };
        self.agenda.after(ms, Event::Gateway { number, run, what });
    }

    /// Ends a random connection. Returns its user.
    fn leave(&mut self, number: usize) -> Option<Id> {
        let idle = self.gateways[number].idle_members();
        let (user, connection) = self.rng.choice(idle)?;
        self.gateways[number].members.remove(&(user.clone(), connection.clone()));
        self.disconnect(number, user.clone(), connection);
        Some(user)
    }

    /// Sends a connect that may make no member: the gateway holds the socket no more.
    pub fn connect(&mut self, number: usize, user: Id, connection: Id) {
        let request = self.gateways[number].request(user, connection, true);
        self.send_request(number, request);
    }

    pub fn disconnect(&mut self, number: usize, user: Id, connection: Id) {
        let request = self.gateways[number].request(user, connection, false);
        self.send_request(number, request);
    }
}
