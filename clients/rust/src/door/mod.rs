//! The two doors: a trusted service, and one user's own client.

mod service;
mod user;

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use serde_json::{Map, Value};

pub use self::service::Service;
pub use self::user::User;
use crate::error::Error;
use crate::filter::{Filter, Sort};
use crate::hub::{HubHandle, Source, ask_channel, members};
use crate::id::Id;
use crate::link::{Link, part};
use crate::query::UsersQuery;
use crate::retry::DEADLINE;
use crate::signals::Signals;
use crate::user::{CustomFields, Fields};
use crate::watch::{Found, Watch};

const AUDIT: Duration = Duration::from_secs(600);

/// The options of a door.
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

    /// The interval at which a query checks some of the watched users; `None` is never.
    pub fn audit(mut self, every: Option<Duration>) -> Self {
        self.audit = every;
        self
    }

    /// The time for which a request is repeated where a repeat may help: 10 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The signals tapped from the options of the connection.
    pub fn signals(mut self, signals: Signals) -> Self {
        self.signals = signals;
        self
    }

    /// A door for trusted services. Needs a Tokio runtime.
    pub fn build(self) -> Service {
        Service { door: self.open(None), fields: PhantomData }
    }

    /// A door for one user. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn user(self, id: impl AsRef<str>) -> Result<User, Error> {
        let id = Id::parse(id)?;
        Ok(User { door: self.open(Some(id.clone())), id, fields: PhantomData })
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
    /// Answers that could not be read.
    pub malformed: u64,
    /// Times that all watched users were asked for again.
    pub resyncs: u64,
}

impl Door {
    fn watch<S: AsRef<str>, F: CustomFields>(
        &self,
        ids: impl IntoIterator<Item = S>,
    ) -> Result<Watch<F>, Error> {
        let ids: HashSet<Id> = ids.into_iter().map(Id::parse).collect::<Result<_, _>>()?;
        Ok(Watch::new(self.hub.clone(), ids))
    }

    fn watch_where<F: CustomFields>(
        &self,
        filter: Filter,
        sort: Option<Sort>,
        limit: u32,
    ) -> Watch<F, Found> {
        let query = UsersQuery::new(self.link.clone()).filter(filter).limit(limit);
        let query = match sort {
            Some(sort) => query.sort(sort),
            None => query,
        };
        Watch::matching(query, self.hub.clone())
    }

    fn watch_all<F: CustomFields>(&self) -> Watch<F, Found> {
        Watch::all(self.link.clone(), self.hub.clone(), self.audit)
    }

    /// Gets or makes a channel, and names those of its members that come with their presence.
    async fn channel(
        &self,
        kind: &Id,
        id: &Id,
        data: Option<Map<String, Value>>,
    ) -> Result<(Map<String, Value>, Vec<String>), Error> {
        let mut body = Map::new();
        body.insert("type".to_owned(), kind.as_str().into());
        body.insert("id".to_owned(), id.as_str().into());
        if let Some(data) = data {
            body.insert("data".to_owned(), Value::Object(data));
        }
        let mut answer = ask_channel(&self.link, body).await?;
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
            malformed: self.link.malformed(),
            resyncs: read(&counts.resyncs),
        }
    }
}

/// A channel whose members are watched.
#[derive(Debug)]
pub struct ChannelWatch<F = Fields> {
    /// The channel as it was: `cid`, `member_count`, `members`, and its data.
    pub channel: Map<String, Value>,
    /// Its members.
    pub watch: Watch<F>,
}

/// Users that were deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Their ids.
    pub ids: Vec<String>,
    /// Whether others match.
    pub more: bool,
}

/// The result of a write: its change, and the time from which it can be read.
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
