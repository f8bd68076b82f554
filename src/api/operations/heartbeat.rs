//! `heartbeat`: keeps connections or a lease alive. The answer names the unknown ones, which must
//! connect again.

use super::context::Context;
use super::reply::{Reply, push_heartbeat};
use crate::api::heartbeats::fast_path;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
use crate::presence::entity::Stored;
use crate::presence::id::{self, Id, IdRef};
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::{Service, unreadable};

/// The most connections in one heartbeat.
pub const MAX_CONNECTIONS: usize = 1000;

/// The longest body, in bytes: the most connections with the longest ids, each character escaped. A
/// longer body is refused before it is parsed.
pub const MAX_BYTES: usize = MAX_CONNECTIONS * (2 * 6 * id::MAX_BYTES + FIELD_NAME_BYTES);

/// The room for the field names of one connection, in bytes.
const FIELD_NAME_BYTES: usize = 256;

/// A parsed `heartbeat`.
#[derive(Debug, PartialEq, Eq)]
pub enum Heartbeat<I = Id> {
    /// User and connection of each.
    Connections(Vec<(I, I)>),
    Lease(I),
}

impl Heartbeat<IdRef<'_>> {
    pub fn into_owned(self) -> Heartbeat {
        match self {
            Self::Lease(lease) => Heartbeat::Lease(lease.to_id()),
            Self::Connections(connections) => Heartbeat::Connections(
                connections.into_iter().map(|(user, each)| (user.to_id(), each.to_id())).collect(),
            ),
        }
    }
}

impl Heartbeat {
    pub fn parse(body: &[u8], door: &Door) -> Result<Self, Refusal> {
        if body.len() > MAX_BYTES {
            let message = format!("a heartbeat is at most {MAX_BYTES} bytes long");
            return Err(Refusal::new(Code::LimitExceeded, message).limit(MAX_BYTES as u64));
        }
        match fast_path::read(body, door) {
            Some(plain) => Ok(plain.into_owned()),
            None => Self::parse_any(body, door),
        }
    }

    /// Parses any heartbeat, and names what is wrong with it.
    pub fn parse_any(body: &[u8], door: &Door) -> Result<Self, Refusal> {
        Self::parse_fields(door.fields(body)?, door)
    }

    fn parse_fields(mut fields: Fields, door: &Door) -> Result<Self, Refusal> {
        let lease = fields.lease()?;
        let connections = fields.array("connections", MAX_CONNECTIONS)?;
        let heartbeat = match (lease, connections) {
            (Some(lease), None) => Self::Lease(lease),
            (Some(_), Some(_)) => {
                return Err(wrong("connections", "does not go with `lease`: send two heartbeats"));
            }
            (None, Some(connections)) => {
                let parse = |(index, value)| {
                    let mut entry = Fields::of(value, &format!("connections[{index}]"))?;
                    let connection = connection(&mut entry, door)?;
                    entry.finish().map(|()| connection)
                };
                let connections = connections.into_iter().enumerate().map(parse);
                Self::Connections(connections.collect::<Result<_, _>>()?)
            }
            (None, None) => Self::Connections(vec![connection(&mut fields, door)?]),
        };
        fields.finish()?;
        Ok(heartbeat)
    }

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

fn connection(fields: &mut Fields, door: &Door) -> Result<(Id, Id), Refusal> {
    let path = fields.path("user_id");
    let user = door.user(fields.id("user_id")?, &path)?;
    let connection = fields
        .id("connection_id")?
        .ok_or_else(|| missing(&fields.path("connection_id"), "the id of a connection"))?;
    Ok((user, connection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_heartbeat_is_taken_and_no_longer_one() {
        let id = "\\u0041".repeat(id::MAX_BYTES);
        let names = ["user_id", "connection_id"]
            .map(|name| name.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>());
        let each = format!(r#"{{"{}":"{id}","{}":"{id}"}}"#, names[0], names[1]);
        let mut body = format!(r#"{{"connections":[{}]}}"#, vec![each; MAX_CONNECTIONS].join(","));
        assert!(Heartbeat::parse(body.as_bytes(), &Door::Trusted).is_ok());
        body.push_str(&" ".repeat(MAX_BYTES + 1 - body.len()));
        let refusal = Heartbeat::parse(body.as_bytes(), &Door::Trusted).unwrap_err();
        assert_eq!(refusal.code, Code::LimitExceeded);
    }
}
