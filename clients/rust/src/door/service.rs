//! The door of trusted services.

use std::collections::BTreeMap;

use async_nats::Client;
use serde_json::{Map, Value, json};

use super::{Builder, ChannelWatch, Door, Stats, Written, written};
use crate::connection::{Connection, Device};
use crate::error::Error;
use crate::id::Id;
use crate::lease::Lease;
use crate::link::part;
use crate::patch::{Patch, UserPatch};
use crate::query::{ChannelsQuery, UsersQuery};
use crate::user::Seen;
use crate::watch::Watch;

/// A trusted service: it acts for any user. Clones share watches and queries.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) door: Door,
}

impl Service {
    /// Over a connection that stays the application's, with the default settings.
    pub fn new(nats: Client) -> Self {
        Builder::new(nats).build()
    }

    /// With other settings.
    pub fn builder(nats: Client) -> Builder {
        Builder::new(nats)
    }

    /// Watches users.
    ///
    /// # Errors
    /// [`Error::Refused`] if one is no id.
    pub fn watch<S: AsRef<str>>(&self, ids: impl IntoIterator<Item = S>) -> Result<Watch, Error> {
        self.door.watch(ids)
    }

    /// Gets or makes a channel, and watches its members: the first 100 in the order of joining.
    ///
    /// `data` counts only where the channel does not exist. Members who join later are not added.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watch_channel(
        &self,
        kind: impl AsRef<str>,
        id: impl AsRef<str>,
        data: Option<Map<String, Value>>,
    ) -> Result<ChannelWatch, Error> {
        let (channel, ids) = self.door.channel(&Id::parse(kind)?, &Id::parse(id)?, data).await?;
        Ok(ChannelWatch { channel, watch: self.door.watch(ids)? })
    }

    /// Asks for users.
    pub fn users(&self) -> UsersQuery {
        UsersQuery::new(self.door.link.clone())
    }

    /// Asks for channels.
    pub fn channels(&self) -> ChannelsQuery {
        ChannelsQuery::new(self.door.link.clone())
    }

    /// Connects a user with a heartbeat of its own. Many users belong on a [`Lease`].
    ///
    /// # Errors
    /// What the service refuses; a link that is down is waited for.
    pub async fn connect(
        &self,
        user: impl AsRef<str>,
        patch: Patch,
        device: Device,
    ) -> Result<Connection, Error> {
        let user = Id::parse(user)?;
        Connection::open(self.door.link.clone(), self.door.hub.clone(), user, patch, device).await
    }

    /// Opens a lease with a name that begins so.
    ///
    /// # Errors
    /// [`Error::Refused`] if the name is none, or longer than 238 bytes.
    pub fn lease(&self, name: &str) -> Result<Lease, Error> {
        Lease::open(self.door.link.clone(), self.door.hub.clone(), name)
    }

    /// Makes or changes up to 100 users, and returns them as they see themselves.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn upsert(
        &self,
        users: impl IntoIterator<Item = UserPatch>,
    ) -> Result<Written<BTreeMap<String, Seen>>, Error> {
        let users: Vec<Value> = users.into_iter().map(|user| user.body()).collect();
        let mut answer = self.door.link.ask("upsert_users", &json!({"users": users})).await?;
        Ok(written(part(&mut answer, "users")?, &answer))
    }

    /// Deletes up to 100 users, and returns the ids of those that there were.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<S: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = S>,
    ) -> Result<Written<Vec<String>>, Error> {
        let ids: Vec<Id> = ids.into_iter().map(Id::parse).collect::<Result<_, _>>()?;
        let mut answer = self.door.link.ask("delete_users", &json!({"ids": ids})).await?;
        Ok(written(part(&mut answer, "deleted")?, &answer))
    }

    /// Makes or changes a channel; `change` holds `data`, `members`, `add_members`, `remove_members`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn upsert_channel(
        &self,
        kind: impl AsRef<str>,
        id: impl AsRef<str>,
        mut change: Map<String, Value>,
    ) -> Result<Written<Map<String, Value>>, Error> {
        change.insert("type".to_owned(), Id::parse(kind)?.as_str().into());
        change.insert("id".to_owned(), Id::parse(id)?.as_str().into());
        let mut answer = self.door.link.ask("upsert_channel", &Value::Object(change)).await?;
        Ok(written(part(&mut answer, "channel")?, &answer))
    }

    /// Deletes a channel, and says whether there was one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_channel(
        &self,
        kind: impl AsRef<str>,
        id: impl AsRef<str>,
    ) -> Result<Written<bool>, Error> {
        let body = json!({"type": Id::parse(kind)?, "id": Id::parse(id)?});
        let mut answer = self.door.link.ask("delete_channel", &body).await?;
        Ok(written(part(&mut answer, "deleted")?, &answer))
    }

    /// Why a user is shown as it is, for people on call.
    ///
    /// # Errors
    /// `user_not_found` as [`Error::Refused`]; see [`Error`].
    pub async fn explain(&self, user: impl AsRef<str>) -> Result<Value, Error> {
        self.door.link.ask("explain", &json!({"user_id": Id::parse(user)?})).await
    }

    /// Counts of what this door did.
    pub fn stats(&self) -> Stats {
        self.door.stats()
    }
}
