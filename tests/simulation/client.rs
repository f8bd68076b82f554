//! The requests of clients, and the effect of each on the registers of the ledger.

use std::sync::Arc;

use presenced::presence::entity::Stored;
use presenced::presence::field::Kind;
use presenced::presence::filter::Filter;
use presenced::presence::id::Id;
use presenced::presence::time::Time;
use presenced::presence::user::{
    Choice, Command, ConnectionGen, Device, LeavingKey, NewConnection, Patch, Record, StatusEnd,
};
use serde_json::json;

use super::ledger::{OpId, Register, Value};

/// The user who is invisible from the start, and of whom no event may be published.
pub const GHOST: &str = "ghost";

/// Later than any run ends: daemons end statuses when the simulation says so.
const STATUS_END: i64 = 1_720_000_000_000;

/// The number of clients.
pub const CLIENTS: usize = 3;

pub fn id(text: &str) -> Id {
    Id::parse(text, "id").expect("a good id")
}

/// A request of a client, or of a daemon that ends a grace, a lease or a status, or repairs a key.
#[derive(Debug, Clone)]
pub struct Op {
    pub user: Id,
    pub client: usize,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub enum Action {
    Connect {
        on_lease: bool,
        idle: bool,
        fields: Fields,
    },
    UpdateConnection {
        idle: bool,
    },
    Disconnect,
    DisconnectLease,
    Upsert(Fields),
    Delete,
    /// Deletes the user if it has a status, as a filter asks.
    Erase,
    /// A user who is offline was touched then, and has aged out.
    Forget(Time),
    EndLeaving {
        ended: Vec<LeavingKey>,
    },
    /// A daemon has not heard the connection of the client for long.
    Lapse(ConnectionGen),
    /// The status that ends then has ended.
    ExpireStatus(Time),
    /// A daemon found that the store lost this.
    Repair {
        lost: Box<Stored<Record>>,
    },
}

/// The fields that a request sets. The values derive from the number of the request, so each value
/// is written only once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields {
    pub custom: bool,
    /// `Some(false)` removes the status.
    pub status: Option<bool>,
    /// Whether the status ends.
    pub ends: bool,
    pub invisible: Option<bool>,
    pub choice: Option<Choice>,
}

impl Op {
    /// A random request to one of `users`.
    pub fn any(rng: &mut fastrand::Rng, users: &[Id]) -> Self {
        let user = users[rng.usize(0..users.len())].clone();
        let client = rng.usize(0..CLIENTS);
        let ghost = user.as_str() == GHOST;
        let mut fields = Fields { custom: rng.u32(0..10) < 6, ..Fields::default() };
        if ghost {
            fields.invisible = Some(true);
        } else {
            fields.status = (rng.u32(0..10) < 2).then(|| rng.bool());
            fields.ends = rng.bool();
            fields.invisible = (rng.u32(0..10) < 2).then(|| rng.bool());
            let choices = [Choice::Auto, Choice::Away, Choice::Busy];
            fields.choice = (rng.u32(0..10) == 0).then(|| choices[rng.usize(0..3)]);
        }
        let action = match rng.u32(0..100) {
            0..35 => Action::Connect { on_lease: rng.bool(), idle: rng.bool(), fields },
            35..55 => Action::Disconnect,
            55..60 => Action::DisconnectLease,
            60..66 => Action::UpdateConnection { idle: rng.bool() },
            66..88 => Action::Upsert(fields),
            88..96 => {
                Action::Upsert(Fields { invisible: ghost.then_some(true), ..Fields::default() })
            }
            96 => Action::Erase,
            _ => Action::Delete,
        };
        Self { user, client, action }
    }

    /// The command that a daemon derives from it.
    pub fn command(&self, number: OpId) -> Command {
        let connection = || id(&format!("c{}", self.client));
        match &self.action {
            Action::Connect { on_lease, idle, fields } => Command::Connect {
                patch: self.patch(*fields, number),
                defaults: None,
                connection: NewConnection {
                    lease: on_lease.then(|| self.lease()),
                    device: Device::parse(["desktop", "mobile"][self.client % 2], "device").ok(),
                    idle: *idle,
                    ..NewConnection::plain(connection())
                },
                custom_in_answer: true,
            },
            Action::UpdateConnection { idle } => Command::UpdateConnection {
                connection: connection(),
                idle: Some(*idle),
                device: None,
            },
            Action::Disconnect => {
                Command::Disconnect { connection: connection(), lease: None, grace_ms: None }
            }
            Action::DisconnectLease => {
                Command::DisconnectLease { lease: self.lease(), grace_ms: None }
            }
            Action::Upsert(fields) => {
                Command::Upsert { patch: self.patch(*fields, number), custom_in_answer: true }
            }
            Action::Delete => Command::Delete { only: None },
            Action::Erase => {
                let with_status = json!({"status": {"$exists": true}});
                let filter = Filter::parse(Kind::Users, &with_status).expect("a filter");
                Command::Delete { only: Some(Arc::new(filter)) }
            }
            Action::Forget(touched) => Command::Forget { touched: *touched },
            Action::Lapse(generation) => Command::Lapse { generations: vec![generation.clone()] },
            Action::ExpireStatus(at) => Command::ExpireStatus { expires_at: *at },
            Action::EndLeaving { ended } => Command::EndLeaving { ended: ended.clone() },
            Action::Repair { lost } => Command::Repair { lost: lost.clone() },
        }
    }

    /// The registers that it sets, with the values.
    pub fn effects(&self, number: OpId) -> Vec<(Register, Value)> {
        let connection = Register::Connection(self.client);
        match &self.action {
            Action::Connect { on_lease, fields, .. } => {
                let mut effects = self.set(*fields, number);
                effects.push((connection, if *on_lease { Value::OnLease } else { Value::Own }));
                effects
            }
            Action::Disconnect => vec![(connection, Value::Absent)],
            Action::DisconnectLease => vec![(connection, Value::AbsentIfOnLease)],
            Action::Upsert(fields) => self.set(*fields, number),
            Action::Delete => Register::all().map(|each| (each, Value::Absent)).collect(),
            Action::Erase | Action::Forget(_) => {
                Register::all().map(|each| (each, Value::MaybeAbsent)).collect()
            }
            Action::Lapse(_) => vec![(connection, Value::MaybeAbsent)],
            Action::ExpireStatus(_) => vec![(Register::Status, Value::MaybeAbsent)],
            Action::UpdateConnection { .. } | Action::EndLeaving { .. } | Action::Repair { .. } => {
                Vec::new()
            }
        }
    }

    fn lease(&self) -> Id {
        id(&format!("l{}", self.client))
    }

    fn patch(&self, fields: Fields, number: OpId) -> Patch {
        let Fields { invisible, choice, .. } = fields;
        let mut patch = Patch { invisible, choice, ..Patch::default() };
        if fields.custom {
            patch.custom.push((format!("f{}", self.client).into(), Some(json!(number))));
        }
        patch.status = fields.status.map(|set| set.then(|| number.to_string().into()));
        if fields.ends && fields.status == Some(true) {
            let at = Time(STATUS_END + i64::try_from(number).unwrap_or(0));
            patch.status_expires_at =
                Some(Some(StatusEnd { at, field: "status_expires_at".into() }));
        }
        patch
    }

    fn set(&self, fields: Fields, number: OpId) -> Vec<(Register, Value)> {
        let mut effects = Vec::new();
        if fields.custom {
            effects.push((Register::Custom(self.client), Value::By(number)));
        }
        if let Some(set) = fields.status {
            effects.push((Register::Status, if set { Value::By(number) } else { Value::Absent }));
        }
        if let Some(invisible) = fields.invisible {
            let value = if invisible { Value::Invisible } else { Value::Absent };
            effects.push((Register::Invisible, value));
        }
        effects
    }
}
