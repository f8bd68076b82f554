//! `explain`: the reasons for what others see of a user. For people on call.

use serde_json::{Value, json};

use super::context::Context;
use super::reply::Reply;
use super::rules::RequestRules;
use crate::api::request::fields::{Fields, missing};
use crate::presence::entity::{Entity, Stored};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::time::{Now, Time};
use crate::presence::user::{Choice, Connection, Device, Leaving, Record, Users, shown};
use crate::service::{Service, unreadable};

/// A parsed `explain`.
#[derive(Debug)]
pub struct Explain {
    user: Id,
}

impl Explain {
    pub fn parse(mut fields: Fields, _: &RequestRules<'_>) -> Result<Self, Refusal> {
        let user = fields.id("user_id")?.ok_or_else(|| missing("user_id", "the id of a user"))?;
        fields.finish()?;
        Ok(Self { user })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        ctx.service.all_stored(ctx.deadline_ms).await?;
        self.answer(&ctx.service)
    }

    fn answer(&self, service: &Service) -> Result<Reply, Refusal> {
        let user = &self.user;
        let found = service.store.users.with_stored(user, |stored| {
            let (stored, rev) = stored?;
            Some((stored.clone(), rev))
        });
        let (record, rev) = match found {
            Some((Stored::Present(record), rev)) => (record, rev),
            Some((Stored::Unreadable, _)) => return Err(unreadable().field("user_id")),
            Some((Stored::Absent { .. }, _)) | None => {
                let refusal = Refusal::new(Code::UserNotFound, "there is no such user");
                return Err(refusal.field("user_id"));
            }
        };
        let now = service.now();
        let connections: Vec<_> =
            record.connections.iter().map(|each| self.connection(service, each, now)).collect();
        let leaving: Vec<_> =
            record.leaving.iter().map(|each| self.leaving(service, each, now)).collect();
        let answer = json!({
            "user_id": user.as_str(),
            "rev": rev,
            "record": serde_json::from_slice::<Value>(&Users::encode(&record)).unwrap_or_default(),
            "shown": {
                "online": record.is_shown_online(),
                "availability": shown(Some(&record)).availability.name(),
                "why": why(&record),
            },
            "connections": connections,
            "leaving": leaving,
            "status_expires_at": record.status_expires_at.map(|at| at.to_string()),
            "deaf": service.beacons.hearing().deaf(now.mono_ms),
            "seen_by": service.store.context.daemon.to_string(),
        });
        Ok(answer.to_string().into_bytes())
    }

    /// A connection that is leaving, and until when by this daemon's clock.
    fn leaving(&self, service: &Service, leaving: &Leaving, now: Now) -> Value {
        let seen_ms = service.store.users.with_index(&self.user, |index| {
            index.agenda.leaving_seen_ms(&self.user, &leaving.key())
        });
        let grace_ms = leaving.grace_ms.unwrap_or(service.beacons.longest().grace_ms);
        json!({
            "connection_id": leaving.connection.as_ref().map(Id::as_str),
            "device": leaving.device.as_ref().map(Device::as_str),
            "idle": leaving.idle,
            "since": leaving.since.to_string(),
            "until": seen_ms.map(|at_ms| as_wall(at_ms.saturating_add(grace_ms), now).to_string()),
        })
    }

    /// The daemon's view of a connection. Times are measured on the monotonic clock, and converted
    /// to wall time for people.
    fn connection(&self, service: &Service, connection: &Connection, now: Now) -> Value {
        let (heard, key) = match &connection.lease {
            Some(lease) => (service.store.leases().heard(lease), lease),
            None => (
                service
                    .store
                    .users
                    .with_index(&self.user, |index| index.agenda.heard(&self.user, &connection.id)),
                &self.user,
            ),
        };
        let deaf = service.beacons.hearing().deaf(now.mono_ms).is_some();
        let times = service.store.context.told_lease.times(now);
        let at = heard.map(|heard| as_wall(heard.at_ms, now));
        let lapses_at = heard.map(|heard| as_wall(times.lapses_ms(heard), now).to_string());
        let confirmed = heard.filter(|heard| heard.confirmed);
        json!({
            "connection_id": connection.id.as_str(),
            "lease": connection.lease.as_ref().map(Id::as_str),
            "device": connection.device.as_ref().map(Device::as_str),
            "idle": connection.idle,
            "connects": connection.generation,
            "last_heard": confirmed.and(at).map(|at| at.to_string()),
            "lapses_at": lapses_at,
            "acts": service.beacons.peers().first_to_act(key.as_str(), deaf).to_string(),
        })
    }
}

/// A moment of the monotonic clock as the wall clock shows it, for people.
fn as_wall(at_ms: u64, now: Now) -> Time {
    let ahead_ms = i128::from(at_ms) - i128::from(now.mono_ms);
    Time(now.wall.0.saturating_add(i64::try_from(ahead_ms).unwrap_or(i64::MAX)))
}

fn why(record: &Record) -> String {
    let online = why_online(record);
    if !record.is_shown_online() {
        return online;
    }
    let active = record.connections.iter().filter(|each| !each.idle).map(|each| each.id.as_str());
    let active: Vec<_> = active.collect();
    let leaving = record.leaving.iter().filter(|each| !each.idle).count();
    let availability = match record.choice {
        Choice::Auto if !active.is_empty() => format!("active: by {}", active.join(", ")),
        Choice::Auto if leaving > 0 => "active: by a connection that is leaving".to_owned(),
        Choice::Auto => "away: every connection is idle".to_owned(),
        choice => format!("{}: the user chose it", choice.name()),
    };
    format!("{online}; {availability}")
}

fn why_online(record: &Record) -> String {
    let connections = record.connections.len();
    let since = record.leaving.iter().map(|each| each.since).max();
    match (record.invisible, connections, since) {
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
