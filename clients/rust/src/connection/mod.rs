//! A connection of a user that keeps itself alive.

mod connect;
mod task;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::connect::Connect;
use self::task::Task;
use crate::beat::FIRST_INTERVAL;
use crate::error::Error;
use crate::hub::HubHandle;
use crate::id::Id;
use crate::link::Link;
use crate::patch::Patch;
use crate::standing::Standing;
use crate::user::{CustomFields, Fields, Seen};

/// The state of a [`Connection`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not yet acknowledged.
    Connecting,
    /// Acknowledged by the service.
    Online,
    /// The link is down, or the service does not answer; others see the user online for a lease.
    Interrupted,
    /// Ended by [`Connection::close`], or by a refusal. With an error also if nobody confirmed the
    /// disconnect of `close`: others see the user online until the lease ends it.
    Closed(Option<Error>),
}

/// The description that a connection gives of itself.
///
/// ```
/// use presenced_client::Device;
/// let device = Device::of("mobile").idle(true);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The kind of device: 1 to 32 of `[a-z0-9_-]`, such as `mobile`.
    pub kind: Option<String>,
    /// Whether the person is away from it.
    pub idle: bool,
}

impl Device {
    /// A device of this kind.
    pub fn of(kind: &str) -> Self {
        Self { kind: Some(kind.to_owned()), idle: false }
    }

    /// Sets whether the person is away from it.
    pub fn idle(self, idle: bool) -> Self {
        Self { idle, ..self }
    }

    /// Refuses a kind that the service would refuse with each connect.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        match &self.kind {
            Some(kind) if !(1..=32).contains(&kind.len()) || !kind.bytes().all(fits) => {
                Err(Error::invalid("invalid_request", "`device` takes 1 to 32 of [a-z0-9_-]"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn put(&self, body: &mut Value) {
        if let Some(kind) = &self.kind {
            body["device"] = kind.as_str().into();
        }
        if self.idle {
            body["idle"] = true.into();
        }
    }
}

/// A live connection of a user. Dropping it disconnects without waiting.
#[derive(Debug)]
pub struct Connection<F = Fields> {
    id: Id,
    commands: mpsc::UnboundedSender<Command>,
    closing: watch::Sender<bool>,
    states: watch::Receiver<ConnectionState>,
    standing: watch::Receiver<Standing>,
    me: watch::Receiver<Option<Arc<Seen>>>,
    _hub: HubHandle,
    fields: PhantomData<fn() -> F>,
}

enum Command {
    Update(Patch, oneshot::Sender<Result<(), Error>>),
    Device(Device, oneshot::Sender<Result<(), Error>>),
}

impl<F: CustomFields> Connection<F> {
    /// Begins to connect.
    fn start(
        link: Arc<Link>,
        hub: HubHandle,
        user: Id,
        patch: Patch,
        device: Device,
        defaults: Patch,
    ) -> Self {
        let id = Id::random("");
        let (commands, receiver) = mpsc::unbounded_channel();
        let (closing, closed) = watch::channel(false);
        let (state, states) = watch::channel(ConnectionState::Connecting);
        let (standing, stands) = watch::channel(Standing::default());
        let (me, my) = watch::channel(None);
        let task = Task {
            link,
            user,
            id: id.clone(),
            pending: patch,
            device,
            given: defaults.fields(),
            remembered: Map::new(),
            held: false,
            waiting: Vec::new(),
            interval: FIRST_INTERVAL,
            state,
            standing,
            me,
            hub: hub.clone(),
        };
        tokio::spawn(task.run(receiver, closed));
        Self {
            id,
            commands,
            closing,
            states,
            standing: stands,
            me: my,
            _hub: hub,
            fields: PhantomData,
        }
    }

    /// Waits until the service has acknowledged the connection.
    ///
    /// # Errors
    /// Refusals of the service, and [`Error::Closed`].
    pub async fn online(&self) -> Result<(), Error> {
        let settled = |state: &ConnectionState| {
            matches!(state, ConnectionState::Online | ConnectionState::Closed(_))
        };
        match self.states.clone().wait_for(settled).await.as_deref() {
            Ok(ConnectionState::Online) => Ok(()),
            Ok(ConnectionState::Closed(Some(error))) => Err(error.clone()),
            _ => Err(Error::Closed),
        }
    }

    /// Since when the connection is in its state.
    pub fn since(&self) -> Instant {
        self.standing.borrow().since
    }

    /// The reason why the connection is not online; `None` while all is well.
    ///
    /// [`Error::NoAnswer`] may be a missing permission, unless [`Signals`](crate::Signals) are
    /// tapped.
    pub fn last_error(&self) -> Option<Error> {
        self.standing.borrow().last_error.clone()
    }

    /// The id of the connection, random and never used again.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The state now.
    pub fn state(&self) -> ConnectionState {
        self.states.borrow().clone()
    }

    /// The state, to wait for another.
    pub fn states(&self) -> watch::Receiver<ConnectionState> {
        self.states.clone()
    }

    /// The user as it sees itself, as of the last answer.
    ///
    /// `None` also where its custom fields are not of the application's type.
    pub fn me(&self) -> Option<Arc<Seen<F>>> {
        self.me.borrow().as_ref()?.typed().ok()
    }

    /// Changes the user. While the link is down the changes are kept, and merged into one.
    ///
    /// # Errors
    /// [`Error::Refused`] for what cannot be accepted, [`Error::Closed`].
    pub async fn update(&self, patch: Patch) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Update(patch, reply), answer).await
    }

    /// Changes the kind of device, or whether the person is away from it.
    ///
    /// # Errors
    /// As [`Connection::update`].
    pub async fn set_device(&self, device: Device) -> Result<(), Error> {
        device.check()?;
        let (reply, answer) = oneshot::channel();
        self.command(Command::Device(device, reply), answer).await
    }

    async fn command(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<(), Error>>,
    ) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Disconnects; tried for two seconds, after which the lease ends it. The last of
    /// [`Connection::states`] says whether it was confirmed.
    pub async fn close(self) {
        self.closing.send_replace(true);
        let mut states = self.states.clone();
        // An error says that the task has ended.
        let _ = states.wait_for(|state| matches!(state, ConnectionState::Closed(_))).await;
    }
}
