//! The operations that a hub asks for users with.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::id::Id;
use crate::link::{Link, part};
use crate::user::Seen;

/// The place where a hub asks for users.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// `query_users`.
    Users,
    /// `watch_channel`: members of one channel, for users who may not query.
    Channel { kind: Id, id: Id },
}

impl Source {
    /// The maximum number of users in one request.
    pub fn most(&self) -> usize {
        match self {
            Self::Users => 100,
            Self::Channel { .. } => 10,
        }
    }

    pub async fn ask(&self, link: &Link, ids: &[Id]) -> Result<Vec<Seen>, Error> {
        match self {
            Self::Users => {
                let filter = json!({"id": {"$in": ids}});
                let body = json!({"filter": filter, "limit": self.most(), "presence": true});
                let users = part(&mut link.ask("query_users", &body).await?, "users");
                users.inspect_err(|error| link.count(error))
            }
            Self::Channel { .. } => match self.members(link, ids).await {
                // One of them is no member any more.
                Err(error) if error.code() == "invalid_request" => {
                    let mut found = Vec::new();
                    for one in ids.chunks(1) {
                        match self.members(link, one).await {
                            Err(error) if error.code() == "invalid_request" => {}
                            answer => found.extend(answer?),
                        }
                    }
                    Ok(found)
                }
                answer => answer,
            },
        }
    }
}

impl Source {
    /// Asks for members of the channel.
    async fn members(&self, link: &Link, ids: &[Id]) -> Result<Vec<Seen>, Error> {
        let Self::Channel { kind, id } = self else { return Ok(Vec::new()) };
        let body = json!({"type": kind, "id": id, "users": ids, "presence": true});
        Ok(members(&link.ask("watch_channel", &body).await?["channel"]))
    }
}

/// The members of a channel that are shown with their presence.
pub(crate) fn members(channel: &Value) -> Vec<Seen> {
    let members = channel["members"].as_array().into_iter().flatten();
    members.filter_map(|member| Seen::deserialize(&member["user"]).ok()).collect()
}
