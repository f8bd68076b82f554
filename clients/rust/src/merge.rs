//! Events and answers become one picture that never goes back. Pure: the hub sends and receives.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::id::Id;
use crate::user::{CustomFields, Fields, Seen};

const TYPE: &str = "user.presence.changed";

/// The known state of a user.
#[derive(Debug, Default, PartialEq)]
pub enum Known<F = Fields> {
    /// Nothing yet. That is not offline.
    #[default]
    Unknown,
    /// A fresh answer does not name the user: nobody of that id.
    Absent,
    /// The user.
    User(Arc<Seen<F>>),
    /// The user has custom fields that are not of the application's type; what serde says of them.
    Unreadable(Arc<str>),
}

// Derived, it would ask for fields that can be cloned, which are shared instead.
impl<F> Clone for Known<F> {
    fn clone(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Absent => Self::Absent,
            Self::User(user) => Self::User(user.clone()),
            Self::Unreadable(error) => Self::Unreadable(error.clone()),
        }
    }
}

impl<F> Known<F> {
    /// The user, if there is one.
    pub fn user(&self) -> Option<&Arc<Seen<F>>> {
        match self {
            Self::User(user) => Some(user),
            _ => None,
        }
    }
}

impl Known {
    /// The same with custom fields as another type.
    pub(crate) fn typed<F: CustomFields>(self) -> Known<F> {
        match self {
            Self::Unknown => Known::Unknown,
            Self::Absent => Known::Absent,
            Self::Unreadable(error) => Known::Unreadable(error),
            Self::User(user) => match user.typed() {
                Ok(user) => Known::User(user),
                Err(error) => Known::Unreadable(error.to_string().into()),
            },
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    known: Known,
    /// The newest version heard of; stays as a floor when the user is gone.
    version: u64,
    /// The query before which answers do not count for what has no newer version.
    not_before: u64,
    /// The query before which a user who is missing does not count as absent.
    present_until: u64,
}

/// A change of one user that the merge let through.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    pub id: Id,
    pub before: Known,
    pub now: Known,
}

/// The picture of all users that a hub follows.
#[derive(Debug, Default)]
pub struct Merge {
    users: HashMap<Id, Entry>,
    /// The number of queries sent.
    sent: u64,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    user: Seen,
}

impl Merge {
    pub fn get(&self, id: &str) -> Known {
        self.users.get(id).map(|entry| entry.known.clone()).unwrap_or_default()
    }

    /// Forgets a user that is no longer followed.
    pub fn forget(&mut self, id: &str) {
        self.users.remove(id);
    }

    /// The number of the last query.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// A query is about to be sent; the number goes with its answer.
    pub fn on_query(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Query `query` asked for `asked` and found `found`.
    pub fn on_answer(&mut self, query: u64, asked: &[Id], found: Vec<Seen>) -> Vec<Merged> {
        let mut found: HashMap<String, Seen> =
            found.into_iter().map(|user| (user.id.clone(), user)).collect();
        asked.iter().filter_map(|id| self.on_one(query, id, found.remove(id.as_str()))).collect()
    }

    fn on_one(&mut self, query: u64, id: &Id, found: Option<Seen>) -> Option<Merged> {
        let entry = self.users.entry(id.clone()).or_default();
        let now = match found {
            Some(user) if user.version > entry.version => {
                entry.version = user.version;
                known(user)
            }
            Some(user) if user.version == entry.version && query >= entry.not_before => known(user),
            None if query >= entry.not_before && query > entry.present_until => Known::Absent,
            _ => return None,
        };
        entry.not_before = entry.not_before.max(query);
        replace(id, entry, now)
    }

    /// Returns whether a message on the subject of `id` is an event with something new. `Err` says
    /// that it is foreign.
    pub fn is_news(&self, id: &Id, payload: &[u8]) -> Result<bool, Foreign> {
        let known = self.users.get(id).map_or(0, |entry| entry.version);
        Ok(parse(id, payload)?.user.version > known)
    }

    /// A message arrived on the subject of `id`. `Err` says that it is foreign, and was dropped.
    pub fn on_event(&mut self, id: &Id, payload: &[u8]) -> Result<Option<Merged>, Foreign> {
        let event = parse(id, payload)?;
        let sent = self.sent;
        let entry = self.users.entry(id.clone()).or_default();
        if event.user.version <= entry.version {
            return Ok(None);
        }
        entry.version = event.user.version;
        entry.present_until = sent;
        Ok(replace(id, entry, known(event.user)))
    }
}

/// A message that is no event of the user on whose subject it came.
#[derive(Debug, PartialEq)]
pub struct Foreign;

fn parse(id: &Id, payload: &[u8]) -> Result<Event, Foreign> {
    let event: Event = serde_json::from_slice(payload).map_err(|_| Foreign)?;
    let is_its = event.kind == TYPE && event.user.id == id.as_str();
    is_its.then_some(event).ok_or(Foreign)
}

fn known(user: Seen) -> Known {
    if user.exists() { Known::User(Arc::new(user)) } else { Known::Absent }
}

fn replace(id: &Id, entry: &mut Entry, now: Known) -> Option<Merged> {
    if entry.known == now {
        return None;
    }
    let before = std::mem::replace(&mut entry.known, now.clone());
    Some(Merged { id: id.clone(), before, now })
}
