//! The request for a connection.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use super::{Connection, Device};
use crate::error::Error;
use crate::hub::HubHandle;
use crate::id::Id;
use crate::link::Link;
use crate::patch::Patch;
use crate::user::{CustomFields, Fields};

/// A connection that is to be made. `await` it: it ends when the service has acknowledged it.
///
/// # Errors
/// Refusals of the service. A link that is down is no error: the call waits for it.
#[derive(Debug)]
#[must_use = "a connection is made when it is awaited"]
pub struct Connect<F = Fields> {
    link: Arc<Link>,
    hub: HubHandle,
    /// An error is that of an id that is none.
    user: Result<Id, Error>,
    patch: Patch,
    device: Device,
    defaults: Patch,
    fields: PhantomData<fn() -> F>,
}

impl<F> Connect<F> {
    pub(crate) fn new(
        link: Arc<Link>,
        hub: HubHandle,
        user: Result<Id, Error>,
        patch: Patch,
    ) -> Self {
        let (device, defaults) = (Device::default(), Patch::new());
        Self { link, hub, user, patch, device, defaults, fields: PhantomData }
    }

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

impl<F: CustomFields> Connect<F> {
    /// Begins to connect, and returns at once. [`Connection::last_error`] says what it waits for,
    /// [`Connection::online`] when it is done.
    ///
    /// # Errors
    /// [`Error::Refused`] for an id or a kind of device that is none.
    pub fn start(self) -> Result<Connection<F>, Error> {
        let Self { link, hub, user, patch, device, defaults, .. } = self;
        device.check()?;
        Ok(Connection::start(link, hub, user?, patch, device, defaults))
    }
}

impl<F: CustomFields> IntoFuture for Connect<F> {
    type Output = Result<Connection<F>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let connection = self.start()?;
            connection.online().await?;
            Ok(connection)
        })
    }
}
