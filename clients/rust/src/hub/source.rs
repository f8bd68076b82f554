//! The operations that a hub asks for users with.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::id::Id;
use crate::link::{Link, part};
use crate::page::halve;
use crate::user::Seen;

/// The maximum number of members that the service shows of a channel.
const MAX_MEMBERS: usize = 100;

/// The place where a hub asks for users.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// `query_users`.
    Users,
    /// `watch_channel`: members of one channel, for users who may not query.
    Channel { kind: Id, id: Id },
}

/// The answer to a question about users.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub users: Vec<Seen>,
    /// Users who are there, and of whom the answer shows nothing: members of a channel behind those
    /// that are shown.
    pub not_shown: HashSet<Id>,
}

impl Source {
    /// The maximum number of users in one request.
    pub fn most(&self) -> usize {
        match self {
            Self::Users => 100,
            Self::Channel { .. } => 10,
        }
    }

    pub async fn ask(&self, link: &Link, ids: &[Id]) -> Result<Found, Error> {
        let Self::Channel { kind, id } = self else {
            let filter = json!({"id": {"$in": ids}});
            let body = json!({"filter": filter, "limit": self.most(), "presence": true});
            let users = part(&mut link.ask("query_users", &body).await?, "users");
            let users = users.inspect_err(|error| link.count(error))?;
            return Ok(Found { users, not_shown: HashSet::new() });
        };
        let about = async |ids: &[Id]| {
            let mut body = Map::new();
            body.insert("type".to_owned(), kind.as_str().into());
            body.insert("id".to_owned(), id.as_str().into());
            body.insert("users".to_owned(), json!(ids));
            body.insert("presence".to_owned(), true.into());
            ask_channel(link, body).await.map(|answer| shown(&answer, ids))
        };
        match about(ids).await {
            // One of them is no member any more.
            Err(error) if error.code() == "invalid_request" => {}
            answer => return answer,
        }
        let mut found = Found::default();
        for one in ids.chunks(1) {
            match about(one).await {
                Err(error) if error.code() == "invalid_request" => {}
                answer => {
                    let Found { users, not_shown } = answer?;
                    found.users.extend(users);
                    found.not_shown.extend(not_shown);
                }
            }
        }
        Ok(found)
    }
}

/// Asks for a channel, with fewer members where the answer would be too large.
pub(crate) async fn ask_channel(link: &Link, mut body: Map<String, Value>) -> Result<Value, Error> {
    body.insert("member_limit".to_owned(), MAX_MEMBERS.into());
    loop {
        match link.ask("watch_channel", &Value::Object(body.clone())).await {
            Err(error) if halve(&error, &mut body, "member_limit") => {}
            answer => return answer,
        }
    }
}

/// The members of a channel that are shown with their presence.
pub(crate) fn members(channel: &Value) -> Vec<Seen> {
    let members = channel["members"].as_array().into_iter().flatten();
    members.filter_map(|member| Seen::deserialize(&member["user"]).ok()).collect()
}

/// The part of an answer about a channel that concerns some of its members, all of them members.
fn shown(answer: &Value, ids: &[Id]) -> Found {
    let users = members(&answer["channel"]);
    let shown: HashSet<&str> = users.iter().map(|user| user.id.as_str()).collect();
    let not_shown = ids.iter().filter(|id| !shown.contains(id.as_str())).cloned().collect();
    Found { users, not_shown }
}
