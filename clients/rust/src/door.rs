//! The two doors: a trusted service, and one user's own client.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use serde_json::{Map, Value, json};

use crate::connection::{Connection, Device};
use crate::error::Error;
use crate::hub::{HubHandle, Source, members};
use crate::id::Id;
use crate::lease::Lease;
use crate::link::{Link, part};
use crate::patch::{Patch, UserPatch};
use crate::query::{ChannelsQuery, UsersQuery};
use crate::retry::DEADLINE;
use crate::signals::Signals;
use crate::user::Seen;
use crate::watch::Watch;

const AUDIT: Duration = Duration::from_secs(600);

/// How a door is opened.
#[derive(Debug)]
pub struct Builder {
    nats: Client,
    prefix: String,
    events: String,
    audit: Option<Duration>,
    deadline: Duration,
    signals: Signals,
}

impl Builder {
    fn new(nats: Client) -> Self {
        Self {
            nats,
            prefix: "presence".to_owned(),
            events: "user.presence.changed".to_owned(),
            audit: Some(AUDIT),
            deadline: DEADLINE,
            signals: Signals::none(),
        }
    }

    /// The daemons' setting `subjects.prefix`, without the version.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// The daemons' setting `subjects.events`.
    pub fn events(mut self, events: &str) -> Self {
        self.events = events.to_owned();
        self
    }

    /// How often some of what is watched is checked by a query; `None` is never.
    pub fn audit(mut self, every: Option<Duration>) -> Self {
        self.audit = every;
        self
    }

    /// How long a request is repeated where a repeat may help: 10 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What was tapped from the options of the connection.
    pub fn signals(mut self, signals: Signals) -> Self {
        self.signals = signals;
        self
    }

    /// A door for trusted services. Needs a Tokio runtime.
    pub fn build(self) -> Service {
        Service(self.open(None))
    }

    /// A door for one user. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn user(self, id: impl AsRef<str>) -> Result<User, Error> {
        let id = Id::parse(id)?;
        Ok(User { door: self.open(Some(id.clone())), id })
    }

    fn open(self, user: Option<Id>) -> Door {
        let Self { nats, prefix, events, audit, deadline, signals } = self;
        let link = Link::new(nats, &prefix, &events, user, deadline, signals);
        let hub = HubHandle::start(link.clone(), audit, Source::Users);
        Door { link, hub, audit }
    }
}

#[derive(Debug, Clone)]
struct Door {
    link: Arc<Link>,
    hub: HubHandle,
    audit: Option<Duration>,
}

/// Counts of what a door did, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Messages on event subjects that are none.
    pub foreign: u64,
    /// Audits that found an event missing.
    pub missed: u64,
    /// Times that all watched users were asked for again.
    pub resyncs: u64,
}

impl Door {
    fn watch<S: AsRef<str>>(&self, ids: impl IntoIterator<Item = S>) -> Result<Watch, Error> {
        let ids: HashSet<Id> = ids.into_iter().map(Id::parse).collect::<Result<_, _>>()?;
        Ok(Watch::new(self.hub.clone(), ids))
    }

    /// Gets or makes a channel, and names those of its members that come with their presence.
    async fn channel(
        &self,
        kind: &Id,
        id: &Id,
        data: Option<Map<String, Value>>,
    ) -> Result<(Map<String, Value>, Vec<String>), Error> {
        let mut body = json!({"type": kind, "id": id});
        if let Some(data) = data {
            body["data"] = Value::Object(data);
        }
        let mut answer = self.link.ask("watch_channel", &body).await?;
        let ids = members(&answer["channel"]).into_iter().map(|user| user.id).collect();
        Ok((part(&mut answer, "channel")?, ids))
    }

    fn stats(&self) -> Stats {
        let counts = self.hub.counts();
        let read =
            |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        Stats {
            foreign: read(&counts.foreign),
            missed: read(&counts.missed),
            resyncs: read(&counts.resyncs),
        }
    }
}

/// A channel whose members are watched.
#[derive(Debug)]
pub struct ChannelWatch {
    /// The channel as it was: `cid`, `member_count`, `members`, and its data.
    pub channel: Map<String, Value>,
    /// Its members.
    pub watch: Watch,
}

/// What a write changed, and when it can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Written<T> {
    /// The result.
    pub value: T,
    /// The revision to hand to [`UsersQuery::read_after`].
    pub rev: Option<u64>,
}

fn written<T>(value: T, answer: &Value) -> Written<T> {
    Written { value, rev: answer["rev"].as_u64() }
}

/// A trusted service: it acts for any user. Clones share watches and queries.
#[derive(Debug, Clone)]
pub struct Service(Door);

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
        self.0.watch(ids)
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
        let (channel, ids) = self.0.channel(&Id::parse(kind)?, &Id::parse(id)?, data).await?;
        Ok(ChannelWatch { channel, watch: self.0.watch(ids)? })
    }

    /// Asks for users.
    pub fn users(&self) -> UsersQuery {
        UsersQuery::new(self.0.link.clone())
    }

    /// Asks for channels.
    pub fn channels(&self) -> ChannelsQuery {
        ChannelsQuery::new(self.0.link.clone())
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
        Connection::open(self.0.link.clone(), self.0.hub.clone(), user, patch, device).await
    }

    /// Opens a lease with a name that begins so.
    ///
    /// # Errors
    /// [`Error::Refused`] if the name is none, or longer than 238 bytes.
    pub fn lease(&self, name: &str) -> Result<Lease, Error> {
        Lease::open(self.0.link.clone(), self.0.hub.clone(), name)
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
        let mut answer = self.0.link.ask("upsert_users", &json!({"users": users})).await?;
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
        let mut answer = self.0.link.ask("delete_users", &json!({"ids": ids})).await?;
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
        let mut answer = self.0.link.ask("upsert_channel", &Value::Object(change)).await?;
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
        let mut answer = self.0.link.ask("delete_channel", &body).await?;
        Ok(written(part(&mut answer, "deleted")?, &answer))
    }

    /// Why a user is shown as it is, for people on call.
    ///
    /// # Errors
    /// `user_not_found` as [`Error::Refused`]; see [`Error`].
    pub async fn explain(&self, user: impl AsRef<str>) -> Result<Value, Error> {
        self.0.link.ask("explain", &json!({"user_id": Id::parse(user)?})).await
    }

    /// Asks for any operation, with the body and the answer as they stand on the wire.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        self.0.link.ask(operation, body).await
    }

    /// Counts of what this door did.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

/// One user's own client: it acts, and looks, as that user only.
#[derive(Debug, Clone)]
pub struct User {
    door: Door,
    id: Id,
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
