//! Queries, counts and pages.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::filter::{Filter, Sort, id};
use crate::id::Id;
use crate::link::{Link, part};
use crate::page::halve;
use crate::user::{CustomFields, Fields, Seen};

type Asked<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// At the door of trusted services: queries see as any user, and read after a write.
#[derive(Debug)]
pub struct Trusted;

/// At a user's own door: queries see as that user, and all that was stored before.
#[derive(Debug)]
pub struct Own;

/// A query of users. `await` it for one page, or take [`UsersQuery::pages`] for all. `D` is the
/// door: [`Trusted`] or [`Own`].
#[derive(Debug)]
#[must_use = "a query is sent when it is awaited"]
pub struct UsersQuery<F = Fields, D = Trusted> {
    link: Arc<Link>,
    filter: Filter,
    body: Map<String, Value>,
    kind: PhantomData<fn() -> (F, D)>,
}

// Derived, it would ask for fields that can be cloned, of which there are none.
impl<F, D> Clone for UsersQuery<F, D> {
    fn clone(&self) -> Self {
        let (link, filter, body) = (self.link.clone(), self.filter.clone(), self.body.clone());
        Self { link, filter, body, kind: PhantomData }
    }
}

/// A page of users.
#[derive(Debug, Clone, PartialEq)]
pub struct Users<F = Fields> {
    /// The users, in the order that was asked for.
    pub users: Vec<Seen<F>>,
    /// Whether others match behind this page.
    pub more: bool,
}

impl<F: CustomFields, D> UsersQuery<F, D> {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, filter: Filter::all(), body: Map::new(), kind: PhantomData }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Only those that match.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// The order; by id where none is named.
    pub fn sort(self, sort: Sort) -> Self {
        self.with("sort", sort.to_json())
    }

    /// At most so many: 1 to 100, 30 by default.
    pub fn limit(self, limit: u32) -> Self {
        self.with("limit", limit.into())
    }

    /// Without so many at the beginning: at most 1000.
    pub fn offset(self, offset: u32) -> Self {
        self.with("offset", offset.into())
    }

    /// Not before the daemon has seen all that is stored when the query arrives.
    pub fn fresh(self) -> Self {
        self.with("presence", true.into())
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.body.insert(name.to_owned(), value);
        self
    }

    /// The number of matching users, of all pages.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(self) -> Result<u64, Error> {
        let mut body = self.body;
        for name in ["sort", "limit", "offset"] {
            body.remove(name);
        }
        body.insert("filter".to_owned(), self.filter.to_json());
        let mut answer = self.link.ask("count_users", &Value::Object(body)).await?;
        part(&mut answer, "count")
    }

    /// All users that match, by id, page by page. A page whose answer would exceed NATS'
    /// `max_payload` is asked for in smaller ones.
    pub fn pages(mut self) -> Pages<F, D> {
        self.body.remove("sort");
        self.body.remove("offset");
        self.body.entry("limit").or_insert_with(|| 100.into());
        Pages { query: self, asked: None, users: VecDeque::new(), last: None, done: false }
    }

    async fn ask(self) -> Result<Users<F>, Error> {
        let mut body = self.body;
        body.insert("filter".to_owned(), self.filter.to_json());
        let mut answer = self.link.ask("query_users", &Value::Object(body)).await?;
        let users: Vec<Seen<F>> = part(&mut answer, "users")?;
        let more = part(&mut answer, "more")?;
        Ok(Users { users, more })
    }
}

impl<F: CustomFields> UsersQuery<F, Trusted> {
    /// As this user sees them.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn seen_by(self, viewer: impl AsRef<str>) -> Result<Self, Error> {
        let viewer = Id::parse(viewer)?;
        Ok(self.with("as", viewer.as_str().into()))
    }

    /// Not before the daemon has seen this revision, which a write returned.
    pub fn read_after(self, rev: u64) -> Self {
        self.with("min_rev", rev.into())
    }
}

impl<F: CustomFields, D: 'static> IntoFuture for UsersQuery<F, D> {
    type Output = Result<Users<F>, Error>;
    type IntoFuture = Asked<Users<F>>;

    fn into_future(self) -> Asked<Users<F>> {
        Box::pin(self.ask())
    }
}

/// All users of a query, as a [`Stream`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Pages<F = Fields, D = Trusted> {
    query: UsersQuery<F, D>,
    asked: Option<Asked<Users<F>>>,
    users: VecDeque<Seen<F>>,
    last: Option<String>,
    done: bool,
}

// Users are moved out of their queue, never pinned in it.
impl<F, D> Unpin for Pages<F, D> {}

impl<F: CustomFields, D: 'static> Stream for Pages<F, D> {
    type Item = Result<Seen<F>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(user) = self.users.pop_front() {
                return Poll::Ready(Some(Ok(user)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            let query = match &self.last {
                None => self.query.clone(),
                Some(last) => {
                    let filter = self.query.filter.clone().and(id().gt(last));
                    self.query.clone().filter(filter)
                }
            };
            let asked = self.asked.get_or_insert_with(|| query.into_future());
            let page = ready!(asked.as_mut().poll(context));
            self.asked = None;
            match page {
                Ok(page) => {
                    self.last = page.users.last().map(|user| user.id.clone());
                    self.done = !page.more || page.users.is_empty();
                    self.users = page.users.into();
                }
                Err(error) if halve(&error, &mut self.query.body, "limit") => {}
                Err(error) => {
                    self.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// One try of a page of users, with fewer where the answer would be too large.
pub(crate) async fn ask_page(link: &Link, mut body: Map<String, Value>) -> Result<Value, Error> {
    loop {
        match link.ask_once("query_users", &Value::Object(body.clone())).await {
            Err(error) if halve(&error, &mut body, "limit") => {}
            answer => return answer,
        }
    }
}

/// A query of channels.
#[derive(Debug, Clone)]
#[must_use = "a query is sent when it is awaited"]
pub struct ChannelsQuery<D = Trusted> {
    link: Arc<Link>,
    body: Value,
    door: PhantomData<fn() -> D>,
}

impl<D> ChannelsQuery<D> {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, body: json!({}), door: PhantomData }
    }

    /// Only those that match.
    pub fn filter(mut self, filter: &Filter) -> Self {
        self.body["filter"] = filter.to_json();
        self
    }

    /// The order; the newest message first where none is named.
    pub fn sort(mut self, sort: &Sort) -> Self {
        self.body["sort"] = sort.to_json();
        self
    }

    /// At most so many: 1 to 30, 10 by default.
    pub fn limit(mut self, limit: u32) -> Self {
        self.body["limit"] = limit.into();
        self
    }

    /// Without so many at the beginning: at most 1000.
    pub fn offset(mut self, offset: u32) -> Self {
        self.body["offset"] = offset.into();
        self
    }

    /// At most so many members of each: 1 to 100, all of them by default.
    pub fn member_limit(mut self, limit: u32) -> Self {
        self.body["member_limit"] = limit.into();
        self
    }

    /// With `online_count`: how many members are online.
    pub fn online_count(mut self) -> Self {
        self.body["online_count"] = true.into();
        self
    }
}

impl ChannelsQuery<Trusted> {
    /// As this user sees them.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no id.
    pub fn seen_by(mut self, viewer: impl AsRef<str>) -> Result<Self, Error> {
        self.body["as"] = Id::parse(viewer)?.as_str().into();
        Ok(self)
    }

    /// Not before the daemon has seen this revision, which a write returned.
    pub fn read_after(mut self, rev: u64) -> Self {
        self.body["min_rev"] = rev.into();
        self
    }
}

impl<D> IntoFuture for ChannelsQuery<D> {
    type Output = Result<Vec<Map<String, Value>>, Error>;
    type IntoFuture = Asked<Vec<Map<String, Value>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut answer = self.link.ask("query_channels", &self.body).await?;
            part(&mut answer, "channels")
        })
    }
}
