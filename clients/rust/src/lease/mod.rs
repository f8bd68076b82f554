//! A lease: the connections of many users, kept alive by one heartbeat.

mod seats;
mod task;

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use self::seats::{Key, Reply};
use self::task::Task;
use crate::connection::Device;
use crate::error::Error;
use crate::hub::HubHandle;
use crate::id::Id;
use crate::link::Link;
use crate::patch::Patch;
use crate::retry;

/// The state of a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseState {
    /// The name of now; another after the service had lost the lease.
    pub name: Id,
    /// Whether NATS is reached.
    pub up: bool,
    /// Seats that there should be.
    pub seats: usize,
    /// Seats that the service has acknowledged.
    pub acknowledged: usize,
    /// The number of heartbeats sent.
    pub heartbeats: u64,
    /// Since when NATS is reached, or not.
    pub since: Instant,
    /// The reason why the service is not reached; `None` while it is. [`Error::NoAnswer`] may be a
    /// missing permission, unless [`Signals`](crate::Signals) are tapped.
    pub last_error: Option<Error>,
    /// Whether it has ended: closed, with the client of NATS, or as its heartbeats are refused, which
    /// [`LeaseState::last_error`] then says.
    pub closed: bool,
}

/// Connections of many users under one heartbeat, for gateways.
///
/// A dropped lease lives on until the last of its seats is gone.
#[derive(Debug)]
pub struct Lease {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<LeaseState>,
}

/// A connection of a user on a [`Lease`]. Dropping it disconnects without waiting.
#[derive(Debug)]
pub struct Seat {
    key: Option<Key>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Connect { key: Key, patch: Patch, device: Device, defaults: Patch, reply: Reply },
    Patch(Key, Patch, Reply),
    Device(Key, Device, Reply),
    Close(Key, Option<Reply>),
    End { grace: bool, reply: Reply },
}

impl Lease {
    pub(crate) fn open(link: Arc<Link>, hub: HubHandle, prefix: &str) -> Result<Self, Error> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (task, states) = Task::new(link, Id::parse(prefix)?)?;
        // The hub looks at the link for as long as a seat is held, also without the lease.
        tokio::spawn(async move {
            task.run(receiver).await;
            drop(hub);
        });
        Ok(Self { commands, state: states })
    }

    /// Connects a user. Many calls at a time share a request.
    pub fn connect(&self, user: impl AsRef<str>, patch: Patch) -> ConnectSeat {
        ConnectSeat {
            user: Id::parse(user),
            commands: self.commands.clone(),
            patch,
            device: Device::default(),
            defaults: Patch::new(),
        }
    }

    /// The state of the lease.
    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    /// The states of the lease, to wait for a change.
    pub fn states(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Disconnects all seats with one request.
    ///
    /// # Errors
    /// An error is returned if the service did not confirm it; then the connections lapse.
    pub async fn close(&self) -> Result<(), Error> {
        self.end(false).await
    }

    /// Ends for a planned restart: the users stay online for a lease, to connect to the next
    /// process.
    ///
    /// # Errors
    /// As [`Lease::close`].
    pub async fn hand_over(&self) -> Result<(), Error> {
        self.end(true).await
    }

    async fn end(&self, grace: bool) -> Result<(), Error> {
        command(&self.commands, |reply| Command::End { grace, reply }).await
    }
}

/// A seat that is to be made. `await` it: it ends when the service has acknowledged it.
///
/// # Errors
/// Refusals of the service. While the service cannot be reached, the call waits.
#[derive(Debug)]
#[must_use = "a seat is made when it is awaited"]
pub struct ConnectSeat {
    /// An error is that of an id that is none.
    user: Result<Id, Error>,
    commands: mpsc::UnboundedSender<Command>,
    patch: Patch,
    device: Device,
    defaults: Patch,
}

impl ConnectSeat {
    /// From a device of this kind, with the person at it or away from it.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The fields that count only if the user does not exist yet.
    pub fn defaults(mut self, defaults: Patch) -> Self {
        self.defaults = defaults;
        self
    }
}

impl IntoFuture for ConnectSeat {
    type Output = Result<Seat, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { user, commands, patch, device, defaults } = self;
        Box::pin(async move {
            device.check()?;
            let key = Key { user: user?, connection: crate::id::random() };
            // Made first: a caller that gives up disconnects by dropping it.
            let seat = Seat { key: Some(key.clone()), commands };
            let connect = |reply| Command::Connect { key, patch, device, defaults, reply };
            command(&seat.commands, connect).await?;
            Ok(seat)
        })
    }
}

async fn command(
    commands: &mpsc::UnboundedSender<Command>,
    command: impl FnOnce(Reply) -> Command,
) -> Result<(), Error> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).map_err(|_| Error::Closed)?;
    answer.await.unwrap_or(Err(Error::Closed))
}

impl Seat {
    /// Changes the user.
    ///
    /// # Errors
    /// Refusals of the service, and [`Error::Closed`].
    pub async fn update(&self, patch: Patch) -> Result<(), Error> {
        let key = self.key.clone().ok_or(Error::Closed)?;
        command(&self.commands, |reply| Command::Patch(key, patch, reply)).await
    }

    /// Changes the kind of device, or whether the person is away from it.
    ///
    /// # Errors
    /// As [`Seat::update`].
    pub async fn set_device(&self, device: Device) -> Result<(), Error> {
        device.check()?;
        let key = self.key.clone().ok_or(Error::Closed)?;
        command(&self.commands, |reply| Command::Device(key, device, reply)).await
    }

    /// Disconnects, and waits up to two seconds for it; it is tried on by the lease in any case.
    pub async fn close(mut self) {
        let Some(key) = self.key.take() else { return };
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close(key, Some(reply))).is_ok() {
            let _ = timeout(retry::LAST_DISCONNECT, answer).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let _ = self.commands.send(Command::Close(key, None));
        }
    }
}
