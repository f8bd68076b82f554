//! The door of one user's own client.

use std::marker::PhantomData;

use async_nats::Client;
use serde_json::{Map, Value};

use super::{Builder, ChannelWatch, Door, Stats};
use crate::connection::Connect;
use crate::error::Error;
use crate::filter::{Filter, Sort};
use crate::hub::{HubHandle, Source};
use crate::id::Id;
use crate::patch::Patch;
use crate::query::{ChannelsQuery, Own, UsersQuery};
use crate::user::{CustomFields, Fields};
use crate::watch::{Found, Watch};

/// One user's own client: it acts, and looks, as that user only.
///
/// `F` is the type of custom fields: see [`User::typed`].
#[derive(Debug)]
pub struct User<F = Fields> {
    pub(super) door: Door,
    pub(super) id: Id,
    pub(super) fields: PhantomData<fn() -> F>,
}

// Derived, it would ask for fields that can be cloned, of which there are none.
impl<F> Clone for User<F> {
    fn clone(&self) -> Self {
        Self { door: self.door.clone(), id: self.id.clone(), fields: PhantomData }
    }
}

impl User {
    /// Over a connection that stays the application's, with the default settings.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn new(nats: Client, id: impl AsRef<str>) -> Result<Self, Error> {
        Builder::new(nats).user(id)
    }

    /// The same door, with custom fields as a type of the application, as
    /// [`Service::typed`](crate::Service::typed) has it.
    pub fn typed<F: CustomFields>(&self) -> User<F> {
        User { door: self.door.clone(), id: self.id.clone(), fields: PhantomData }
    }
}

impl<F: CustomFields> User<F> {
    /// The user.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Connects; the connection then keeps itself alive.
    pub fn connect(&self, patch: Patch) -> Connect<F> {
        Connect::new(self.door.link.clone(), self.door.hub.clone(), Ok(self.id.clone()), patch)
    }

    /// Watches users. Needs the permission for `query_users`.
    ///
    /// # Errors
    /// [`Error::Refused`] if one is no id.
    pub fn watch<S: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = S>,
    ) -> Result<Watch<F>, Error> {
        self.door.watch(ids)
    }

    /// Watches the first `limit` users that match, in an order: 1 to 100, as
    /// [`Service::watch_where`](crate::Service::watch_where) does.
    ///
    /// Needs the permissions for `query_users`, and for the events of those who are found.
    pub fn watch_where(&self, filter: Filter, sort: Option<Sort>, limit: u32) -> Watch<F, Found> {
        self.door.watch_where(filter, sort, limit)
    }

    /// Watches all users. Needs the permissions for `query_users` and the events of all.
    pub fn watch_all(&self) -> Watch<F, Found> {
        self.door.watch_all()
    }

    /// Gets or makes a channel, and watches its members: the first 100 in the order of joining.
    ///
    /// `data` counts only where the channel does not exist. Members who join later are not added.
    /// Needs no permission for `query_users`: the members are asked for ten at a time.
    ///
    /// # Errors
    /// `channel_not_found` as [`Error::Refused`] where the user is no member; see [`Error`].
    pub async fn watch_channel(
        &self,
        kind: impl AsRef<str>,
        id: impl AsRef<str>,
        data: Option<Map<String, Value>>,
    ) -> Result<ChannelWatch<F>, Error> {
        let (kind, id) = (Id::parse(kind)?, Id::parse(id)?);
        let (channel, ids) = self.door.channel(&kind, &id, data).await?;
        let source = Source::Channel { kind, id };
        let hub = HubHandle::start(self.door.link.clone(), self.door.audit, source);
        let door = Door { hub, ..self.door.clone() };
        Ok(ChannelWatch { channel, watch: door.watch(ids)? })
    }

    /// Asks for users, as this user sees them.
    pub fn users(&self) -> UsersQuery<F, Own> {
        UsersQuery::new(self.door.link.clone())
    }

    /// Asks for channels that this user is a member of.
    pub fn channels(&self) -> ChannelsQuery<Own> {
        ChannelsQuery::new(self.door.link.clone())
    }

    /// Asks for any operation, with the body and the answer as they stand on the wire.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        self.door.link.ask(operation, body).await
    }

    /// Counts of what this door did.
    pub fn stats(&self) -> Stats {
        self.door.stats()
    }
}
