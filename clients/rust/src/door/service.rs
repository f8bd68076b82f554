//! The door of trusted services.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use async_nats::Client;
use serde_json::{Map, Value, json};

use super::{Builder, ChannelWatch, Deleted, Door, Stats, Written, written};
use crate::connection::Connect;
use crate::error::Error;
use crate::filter::{Filter, Sort};
use crate::id::Id;
use crate::lease::Lease;
use crate::link::part;
use crate::patch::{Patch, UserPatch};
use crate::query::{ChannelsQuery, UsersQuery};
use crate::user::{CustomFields, Fields, Seen};
use crate::watch::{Found, Watch};

/// A trusted service: it acts for any user. Clones share watches and queries.
///
/// `F` is the type of custom fields: see [`Service::typed`].
#[derive(Debug)]
pub struct Service<F = Fields> {
    pub(super) door: Door,
    pub(super) fields: PhantomData<fn() -> F>,
}

// Derived, it would ask for fields that can be cloned, of which there are none.
impl<F> Clone for Service<F> {
    fn clone(&self) -> Self {
        Self { door: self.door.clone(), fields: PhantomData }
    }
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

    /// The same door, with custom fields as a type of the application.
    ///
    /// Where a user's fields are not of that type, queries fail as [`Error::Malformed`], and
    /// watches show the user as [`Known::Unreadable`](crate::Known::Unreadable).
    ///
    /// ```
    /// # use presenced_client::{Error, Service};
    /// #[derive(Debug, PartialEq, serde::Deserialize)]
    /// struct Profile {
    ///     name: Option<String>,
    /// }
    ///
    /// # async fn example(presence: Service) -> Result<(), Error> {
    /// let presence = presence.typed::<Profile>();
    /// let watch = presence.watch(["john"])?;
    /// let name = watch.get("john").and_then(|john| john.custom.name.clone());
    /// # Ok(()) }
    /// ```
    pub fn typed<F: CustomFields>(&self) -> Service<F> {
        Service { door: self.door.clone(), fields: PhantomData }
    }
}

impl<F: CustomFields> Service<F> {
    /// Watches users.
    ///
    /// # Errors
    /// [`Error::Refused`] if one is no id.
    pub fn watch<S: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = S>,
    ) -> Result<Watch<F>, Error> {
        self.door.watch(ids)
    }

    /// Watches the first `limit` users that match, in an order: 1 to 100.
    ///
    /// A query asks whether a watched user still matches, a second after it changed. Others are not
    /// listened to: they are looked for every ten seconds.
    pub fn watch_where(&self, filter: Filter, sort: Option<Sort>, limit: u32) -> Watch<F, Found> {
        self.door.watch_where(filter, sort, limit)
    }

    /// Watches all users. Needs the permission to subscribe to the events of all.
    pub fn watch_all(&self) -> Watch<F, Found> {
        self.door.watch_all()
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
    ) -> Result<ChannelWatch<F>, Error> {
        let (channel, ids) = self.door.channel(&Id::parse(kind)?, &Id::parse(id)?, data).await?;
        Ok(ChannelWatch { channel, watch: self.door.watch(ids)? })
    }

    /// Asks for users.
    pub fn users(&self) -> UsersQuery<F> {
        UsersQuery::new(self.door.link.clone())
    }

    /// Asks for channels.
    pub fn channels(&self) -> ChannelsQuery {
        ChannelsQuery::new(self.door.link.clone())
    }

    /// Connects a user with a heartbeat of its own. Many users belong on a [`Lease`].
    pub fn connect(&self, user: impl AsRef<str>, patch: Patch) -> Connect<F> {
        Connect::new(self.door.link.clone(), self.door.hub.clone(), Id::parse(user), patch)
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
    ) -> Result<Written<BTreeMap<String, Seen<F>>>, Error> {
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

    /// Deletes the first `limit` users by id, at most 100, that match as they truly are.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_where(
        &self,
        filter: &Filter,
        limit: u32,
    ) -> Result<Written<Deleted>, Error> {
        let body = json!({"filter": filter.to_json(), "limit": limit});
        let mut answer = self.door.link.ask("delete_users", &body).await?;
        let ids = part(&mut answer, "deleted")?;
        let more = part(&mut answer, "more")?;
        Ok(written(Deleted { ids, more }, &answer))
    }

    /// Makes or changes a channel; `change` holds `data`, `members`, `add_members`,
    /// `remove_members`.
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

    /// Explains why a user is shown as it is, for people on call.
    ///
    /// # Errors
    /// `user_not_found` as [`Error::Refused`]; see [`Error`].
    pub async fn explain(&self, user: impl AsRef<str>) -> Result<Value, Error> {
        self.door.link.ask("explain", &json!({"user_id": Id::parse(user)?})).await
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
