//! `heartbeat`: keeps connections or a lease alive. The answer names the unknown ones, which must
//! connect again.
//!
//! The listener of each daemon records the heartbeat; the daemon that is asked only answers.

use super::context::Context;
use super::reply::{Reply, push_heartbeat};
use crate::api::heartbeats::Heartbeat;
use crate::presence::entity::Stored;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::service::{Service, unreadable};

impl Heartbeat {
    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        let service = &ctx.service;
        if let Self::Connections(connections) = &self
            && let [(user, _)] = connections.as_slice()
            && service
                .store
                .users
                .with_stored(user, |stored| matches!(stored, Some((Stored::Unreadable, _))))
        {
            return Err(unreadable().field("user_id"));
        }
        ctx.set_invisible(self.is_invisible(service));
        match self.answer(service) {
            (reply, false) => Ok(reply),
            // It may be unknown here only, and for a moment.
            (_, true) => {
                let fresh = service.all_stored(ctx.deadline_ms).await;
                // A write that this daemon had not seen may have made the user invisible.
                ctx.set_invisible(ctx.is_invisible() || self.is_invisible(service));
                fresh.map(|()| self.answer(service).0)
            }
        }
    }

    /// Whether the heartbeat is for connections of invisible users only.
    fn is_invisible(&self, service: &Service) -> bool {
        match self {
            Self::Lease(_) => false,
            Self::Connections(connections) => {
                let mut users = connections.iter().map(|(user, _)| user).peekable();
                users.peek().is_some() && users.all(|user| service.is_invisible(user))
            }
        }
    }

    /// The answer from the replica, and whether something is unknown.
    fn answer(&self, service: &Service) -> (Reply, bool) {
        let mut out = b"{\"unknown\":".to_vec();
        let is_unknown = match self {
            Self::Lease(lease) => {
                let held = service.store.leases().held(lease);
                let unknown = held.is_none().then_some(lease);
                json::push_array(&mut out, unknown, |out, lease| {
                    json::push_str(out, lease.as_str())
                });
                json::push(&mut out, ",\"held\":");
                json::push_number(&mut out, held.unwrap_or(0) as u64);
                held.is_none()
            }
            Self::Connections(connections) => {
                // An unreadable record may hold the connection.
                let is_unknown = |(user, connection): &&(Id, Id)| {
                    service.store.users.with_stored(user, |stored| match stored {
                        Some((Stored::Present(record), _)) => {
                            !record.connections.iter().any(|each| each.id == *connection)
                        }
                        Some((Stored::Unreadable, _)) => false,
                        Some((Stored::Absent { .. }, _)) | None => true,
                    })
                };
                let unknown: Vec<_> = connections.iter().filter(is_unknown).collect();
                json::push_array(&mut out, &unknown, |out, (user, connection)| {
                    json::push(out, "{\"user_id\":");
                    json::push_str(out, user.as_str());
                    json::push(out, ",\"connection_id\":");
                    json::push_str(out, connection.as_str());
                    out.push(b'}');
                });
                !unknown.is_empty()
            }
        };
        out.push(b',');
        push_heartbeat(&mut out, service);
        out.push(b'}');
        (out, is_unknown)
    }
}
