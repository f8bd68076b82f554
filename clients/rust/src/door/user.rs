//! The door of one user's own client.

use async_nats::Client;
use serde_json::{Map, Value};

use super::{Builder, ChannelWatch, Door, Stats};
use crate::connection::{Connection, Device};
use crate::error::Error;
use crate::hub::{HubHandle, Source};
use crate::id::Id;
use crate::patch::Patch;
use crate::query::{ChannelsQuery, UsersQuery};
use crate::watch::Watch;

/// One user's own client: it acts, and looks, as that user only.
#[derive(Debug, Clone)]
pub struct User {
    pub(super) door: Door,
    pub(super) id: Id,
}

impl User {
    /// Over a connection that stays the application's, with the default settings.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn new(nats: Client, id: impl AsRef<str>) -> Result<Self, Error> {
        Builder::new(nats).user(id)
    }

    /// The user.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Connects; the connection then keeps itself alive.
    ///
    /// # Errors
    /// What the service refuses; a link that is down is waited for.
    pub async fn connect(&self, patch: Patch) -> Result<Connection, Error> {
        self.connect_as(patch, Device::default()).await
    }

    /// Connects from a device of a kind.
    ///
    /// # Errors
    /// As [`User::connect`].
    pub async fn connect_as(&self, patch: Patch, device: Device) -> Result<Connection, Error> {
        let Door { link, hub, .. } = self.door.clone();
        Connection::open(link, hub, self.id.clone(), patch, device).await
    }

    /// Watches users. Needs the permission for `query_users`.
    ///
    /// # Errors
    /// [`Error::Refused`] if one is no id.
    pub fn watch<S: AsRef<str>>(&self, ids: impl IntoIterator<Item = S>) -> Result<Watch, Error> {
        self.door.watch(ids)
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
    ) -> Result<ChannelWatch, Error> {
        let (kind, id) = (Id::parse(kind)?, Id::parse(id)?);
        let (channel, ids) = self.door.channel(&kind, &id, data).await?;
        let source = Source::Channel { kind, id };
        let hub = HubHandle::start(self.door.link.clone(), self.door.audit, source);
        let door = Door { hub, ..self.door.clone() };
        Ok(ChannelWatch { channel, watch: door.watch(ids)? })
    }

    /// Asks for users, as this user sees them.
    pub fn users(&self) -> UsersQuery {
        UsersQuery::new(self.door.link.clone())
    }

    /// Asks for channels that this user is a member of.
    pub fn channels(&self) -> ChannelsQuery {
        ChannelsQuery::new(self.door.link.clone())
    }

    /// Counts of what this door did.
    pub fn stats(&self) -> Stats {
        self.door.stats()
    }
}
