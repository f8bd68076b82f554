//! The seats of a lease: what each should be, and the operations that make it so. Pure.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::connection::Device;
use crate::error::Error;
use crate::id::Id;
use crate::patch::Patch;

/// A connection of a user on a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub user: Id,
    /// The connection id, as the number that its hexadecimal digits are.
    pub connection: u128,
}

pub type Reply = oneshot::Sender<Result<(), Error>>;

#[derive(Debug, Default)]
struct Seat {
    /// The changes that the service has not acknowledged; boxed, as most seats have none.
    pending: Option<Box<Patch>>,
    /// The application's defaults, and what a record that is gone would forget.
    defaults: Option<Box<Value>>,
    /// `None` is no kind, and not idle.
    device: Option<Box<Device>>,
    /// The service has not acknowledged the device of now.
    device_due: bool,
    waiting: Vec<Reply>,
    /// The lease's run under which the connection was acknowledged; 0 is none.
    run: u32,
    /// The service has acknowledged the connection once: its owner relies on it.
    established: bool,
    /// A connect may have been stored though its answer did not say so.
    doubtful: bool,
    gone: bool,
    busy: bool,
    queued: bool,
    /// Tries in a row that the service could not do, or refused.
    failed: u16,
}

/// An operation that is to be tried again, later than the others.
#[derive(Debug, Clone)]
pub struct Retry {
    pub key: Key,
    pub error: Error,
    /// Tries in a row that failed.
    pub failed: u32,
}

/// All seats of a lease.
#[derive(Debug)]
pub struct Seats {
    seats: HashMap<Key, Seat>,
    queue: VecDeque<Key>,
    /// Grows with each new name of the lease.
    run: u32,
    acknowledged: usize,
}

/// The operation that was sent for a seat.
#[derive(Debug)]
pub struct Sent {
    key: Key,
    kind: SentKind,
    run: u32,
}

#[derive(Debug)]
enum SentKind {
    Connect(Patch),
    Update(Patch),
    Device(Device),
    Disconnect,
}

impl Seat {
    /// Removes a status that was sent and has ended meanwhile.
    fn drop_ended(&mut self, sent: &SentKind, refusal: &Error) -> bool {
        let (SentKind::Connect(sent) | SentKind::Update(sent)) = sent else { return false };
        self.pending.as_mut().is_some_and(|pending| pending.drop_ended(sent, refusal))
    }
}

impl Seats {
    pub fn new() -> Self {
        Self { seats: HashMap::new(), queue: VecDeque::new(), run: 1, acknowledged: 0 }
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// The number of connections that the service has acknowledged on the present lease.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Returns whether nothing waits and nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.acknowledged == self.seats.len()
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A seat should be made.
    pub fn on_connect(
        &mut self,
        key: Key,
        patch: Patch,
        device: Device,
        defaults: Patch,
        reply: Reply,
    ) {
        let seat = self.seats.entry(key.clone()).or_default();
        seat.device = boxed(device);
        let defaults = (!defaults.is_empty()).then(|| Value::Object(defaults.fields()));
        seat.defaults = defaults.map(Box::new);
        self.on_patch(key, patch, reply);
    }

    /// A seat's device should change.
    pub fn on_device(&mut self, key: Key, device: Device, reply: Reply) {
        let Some(seat) = self.seats.get_mut(&key) else {
            // Its owner has closed it, or the service has refused it.
            let _ = reply.send(Err(Error::Closed));
            return;
        };
        seat.device = boxed(device);
        seat.device_due = true;
        seat.waiting.push(reply);
        self.enqueue(key);
    }

    /// A user should change.
    pub fn on_patch(&mut self, key: Key, patch: Patch, reply: Reply) {
        let seat = self.seats.entry(key.clone()).or_default();
        if !patch.is_empty() {
            seat.pending.get_or_insert_default().merge(patch);
        }
        seat.waiting.push(reply);
        self.enqueue(key);
    }

    /// A seat should go.
    pub fn on_close(&mut self, key: Key, reply: Option<Reply>) {
        let Some(seat) = self.seats.get_mut(&key) else { return };
        seat.gone = true;
        seat.pending = None;
        fail(seat, &Error::Closed);
        if let Some(reply) = reply {
            seat.waiting.push(reply);
        }
        self.enqueue(key);
    }

    /// The lease ends: nobody waits any longer.
    pub fn refuse(&mut self, error: &Error) {
        self.seats.values_mut().for_each(|seat| fail(seat, error));
        *self = Self::new();
    }

    /// All have to connect again; under a new name of the lease if `renamed`.
    pub fn on_lost(&mut self, renamed: bool) {
        if renamed {
            self.run += 1;
            self.acknowledged = 0;
        }
        let keys: Vec<_> = self.seats.keys().cloned().collect();
        for key in keys {
            if let Some(seat) = self.seats.get_mut(&key) {
                if seat.run == self.run {
                    self.acknowledged -= 1;
                }
                seat.run = 0;
            }
            self.enqueue(key);
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(seat) = self.seats.get_mut(&key)
            && !seat.queued
        {
            seat.queued = true;
            self.queue.push_back(key);
        }
    }

    /// At most `most` operations that are due, and what to hold their results against.
    pub fn next_batch(&mut self, lease: &Id, most: usize) -> (Vec<Value>, Vec<Sent>) {
        let (mut ops, mut sent, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        while ops.len() < most {
            let Some(key) = self.queue.pop_front() else { break };
            let Some(seat) = self.seats.get_mut(&key) else { continue };
            if seat.busy {
                busy.push(key);
                continue;
            }
            seat.queued = false;
            let patch = seat.pending.as_deref().cloned().unwrap_or_default();
            let Some((op, kind)) = op(&key, seat, patch, lease, self.run) else {
                succeed(seat);
                continue;
            };
            seat.busy = true;
            ops.push(op);
            sent.push(Sent { key, kind, run: self.run });
        }
        self.queue.extend(busy);
        if self.queue.is_empty() {
            // A lease that connected all its seats keeps no room for doing so again.
            self.queue.shrink_to_fit();
        }
        (ops, sent)
    }

    /// The operation was not taken up, or `may_have_applied`: it is due again.
    pub fn on_unsent(&mut self, sent: Sent, may_have_applied: bool) {
        if let Some(seat) = self.seats.get_mut(&sent.key) {
            seat.busy = false;
            seat.doubtful |= may_have_applied && matches!(sent.kind, SentKind::Connect(_));
        }
        self.enqueue(sent.key);
    }

    /// The result of one operation. Returns an operation to try again later with [`Self::retry`].
    pub fn on_result(&mut self, sent: Sent, result: Result<Value, Error>) -> Option<Retry> {
        let Sent { key, kind, run } = sent;
        let seat = self.seats.get_mut(&key)?;
        seat.busy = false;
        seat.failed = seat.failed.saturating_add(1);
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                let failed = seat.failed.into();
                return self.on_failure(&key, &kind, &error).then_some(Retry {
                    key,
                    error,
                    failed,
                });
            }
        };
        seat.failed = 0;
        let patch = match kind {
            SentKind::Disconnect => {
                succeed(seat);
                self.forget(&key);
                return None;
            }
            SentKind::Device(device) => {
                seat.device_due &= seat.device.as_deref() != boxed(device).as_deref();
                let unknown = answer["unknown"].as_array().is_some_and(|all| !all.is_empty());
                if unknown && seat.run == self.run {
                    seat.run = 0;
                    self.acknowledged -= 1;
                }
                Patch::new()
            }
            SentKind::Connect(patch) => {
                seat.established = true;
                if run == self.run && seat.run != run {
                    seat.run = run;
                    self.acknowledged += 1;
                }
                patch
            }
            SentKind::Update(patch) => patch,
        };
        remember(seat, &patch);
        if let Some(pending) = &mut seat.pending {
            pending.acknowledge(&patch);
            if pending.is_empty() {
                seat.pending = None;
            }
        }
        let done = seat.pending.is_none() && !seat.device_due && !seat.gone;
        if seat.run == self.run && done {
            succeed(seat);
            return None;
        }
        self.enqueue(key);
        None
    }

    /// An operation failed. Whether it is to be tried again later.
    fn on_failure(&mut self, key: &Key, kind: &SentKind, error: &Error) -> bool {
        let Some(seat) = self.seats.get_mut(key) else { return false };
        seat.doubtful |= error.may_have_applied() && matches!(kind, SentKind::Connect(_));
        if error.may_pass() {
            return true;
        }
        if seat.drop_ended(kind, error) {
            seat.failed = seat.failed.saturating_sub(1);
            self.enqueue(key.clone());
            return false;
        }
        fail(seat, &error.clone().of_one_user());
        match kind {
            // A connection that was there is made again for as long as its owner holds the seat.
            // The fault may lie in the patch, so the next try goes without.
            SentKind::Connect(_) if seat.established => {
                seat.pending = None;
                return true;
            }
            SentKind::Update(_) => seat.pending = None,
            SentKind::Device(_) => seat.device_due = false,
            // The lease would keep what an earlier try has stored.
            SentKind::Connect(_) if seat.doubtful => {
                seat.gone = true;
                seat.pending = None;
                self.enqueue(key.clone());
            }
            SentKind::Connect(_) | SentKind::Disconnect => self.forget(key),
        }
        false
    }

    pub fn retry(&mut self, key: Key) {
        self.enqueue(key);
    }

    fn forget(&mut self, key: &Key) {
        if self.seats.remove(key).is_some_and(|seat| seat.run == self.run) {
            self.acknowledged -= 1;
        }
    }
}

fn op(key: &Key, seat: &Seat, patch: Patch, lease: &Id, run: u32) -> Option<(Value, SentKind)> {
    let connection = format!("{:032x}", key.connection);
    let mut user = patch.fields();
    user.insert("id".to_owned(), key.user.as_str().into());
    if seat.gone {
        let op = json!({"op": "disconnect", "user_id": key.user, "connection_id": connection});
        return Some((op, SentKind::Disconnect));
    }
    // A change makes a record that was deleted meanwhile again. So it rides in a connect where there
    // are defaults: an invisible user stays so.
    if seat.run != run || !patch.is_empty() && seat.defaults.is_some() {
        let mut op =
            json!({"op": "connect", "user": user, "connection_id": connection, "lease": lease});
        if let Some(device) = &seat.device {
            device.put(&mut op);
        }
        if let Some(defaults) = &seat.defaults {
            op["defaults"] = (**defaults).clone();
        }
        return Some((op, SentKind::Connect(patch)));
    }
    if seat.device_due {
        let device = seat.device.as_deref().cloned().unwrap_or_default();
        let mut op = json!({"op": "update_connection", "user_id": key.user,
            "connection_id": connection, "idle": device.idle});
        device.put(&mut op);
        return Some((op, SentKind::Device(device)));
    }
    let update =
        || (json!({"op": "upsert_users", "users": [user]}), SentKind::Update(patch.clone()));
    (!patch.is_empty()).then(update)
}

fn boxed(device: Device) -> Option<Box<Device>> {
    (device != Device::default()).then(|| Box::new(device))
}

/// Keeps what decides how the user appears, for a record that is made again.
fn remember(seat: &mut Seat, patch: &Patch) {
    for (name, value) in patch.fields() {
        let plain = matches!(name.as_str(), "invisible" | "availability");
        if plain && !(value == false || value == "auto") {
            seat.defaults.get_or_insert_with(|| Box::new(json!({})))[&name] = value;
        } else if plain && let Some(defaults) = &mut seat.defaults {
            if let Some(defaults) = defaults.as_object_mut() {
                defaults.remove(&name);
            }
            if defaults.as_object().is_some_and(|defaults| defaults.is_empty()) {
                seat.defaults = None;
            }
        }
    }
}

fn succeed(seat: &mut Seat) {
    for waiting in std::mem::take(&mut seat.waiting) {
        let _ = waiting.send(Ok(()));
    }
}

fn fail(seat: &mut Seat, error: &Error) {
    for waiting in std::mem::take(&mut seat.waiting) {
        let _ = waiting.send(Err(error.clone()));
    }
}
