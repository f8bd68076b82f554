//! `explain`: why a user is shown as it is. For people on call.

use serde_json::{Value, json};

use super::fields::{Fields, missing};
use super::responder::Responder;
use crate::presence::entity::{Entity, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::user::{Record, Users, shown};
use crate::service::{Service, unavailable};

/// A parsed `explain`.
#[derive(Debug)]
pub struct Explain {
    user: Id,
}

impl Explain {
    pub fn parse(mut fields: Fields) -> Result<Self, Refusal> {
        let user = fields.id("user_id")?.ok_or_else(|| missing("user_id", "the id of a user"))?;
        fields.finish()?;
        Ok(Self { user })
    }

    pub fn run(self, service: &Service, deadline_ms: u64, responder: Responder) {
        let then = service.clone();
        service.when_fresh(true, None, deadline_ms, move |fresh| {
            responder.result(fresh.and_then(|()| self.answer(&then)));
        });
    }

    fn answer(&self, service: &Service) -> Result<Vec<u8>, Refusal> {
        let user = &self.user;
        let acts = service.beacons.peers().first_for(user.as_str());
        let answer = service.store.users.look_stored(user, |stored| {
            let (stored, rev) = stored?;
            let record = match stored {
                Stored::Present(record) => record,
                Stored::Absent { .. } => return None,
                Stored::Unreadable => return Some(Err(unreadable())),
            };
            Some(Ok(json!({
                "user_id": user.as_str(),
                "rev": rev,
                "record": serde_json::from_slice::<Value>(&Users::encode(record)).unwrap_or_default(),
                "shown": { "online": shown(Some(record)).online, "why": why(record) },
                "connections": record.connections.iter().map(|connection| json!({
                    "connection_id": connection.id.as_str(),
                    "lease": connection.lease.as_ref().map(Id::as_str),
                    "connects": connection.connects,
                    "acts": acts.to_string(),
                })).collect::<Vec<_>>(),
                "seen_by": service.store.link.daemon.to_string(),
            })))
        });
        match answer {
            Some(answer) => answer.map(|answer| answer.to_string().into_bytes()),
            None => Err(Refusal::new(Code::UserNotFound, "there is no such user").field("user_id")),
        }
    }
}

fn unreadable() -> Refusal {
    unavailable("the stored record of this user cannot be read; it is left as it is")
        .field("user_id")
}

fn why(record: &Record) -> String {
    let connections = record.connections.len();
    match (record.invisible, connections, record.grace_since) {
        (true, 0, _) => "offline: it is invisible, and has no connection".to_owned(),
        (true, ..) => {
            format!("offline to others: it is invisible; it has {connections} connections")
        }
        (false, 0, Some(since)) => {
            format!("online: its last connection ended at {since}, and the grace is not over")
        }
        (false, 0, None) => "offline: it has no connection".to_owned(),
        (false, ..) => format!("online: it has {connections} connections"),
    }
}
