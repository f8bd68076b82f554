//! `heartbeat`: connections or a lease are still there. The answer says which are unknown and must
//! connect again.

use crate::api::heartbeats::fast_path;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, wrong};
use crate::api::transport::responder::Responder;
use crate::presence::entity::Stored;
use crate::presence::id::{self, Id, IdRef};
use crate::presence::json;
use crate::presence::refusal::{Code, Refusal};
use crate::service::{Service, unreadable};

/// The most connections in one heartbeat.
pub const MAX_CONNECTIONS: usize = 1000;

/// The longest body of one, in bytes: so many connections with the longest ids, each character
/// escaped. What is longer is not worth the parsing.
pub const MAX_BYTES: usize = MAX_CONNECTIONS * (2 * 6 * id::MAX_BYTES + NAMES);

/// What the names of the fields of a connection may take, in bytes.
const NAMES: usize = 256;

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

    /// Reads any heartbeat, and says what is wrong with it.
    pub fn parse_any(body: &[u8], door: &Door) -> Result<Self, Refusal> {
        let mut fields = door.fields(body)?;
        let lease = fields.id("lease")?;
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

    pub fn run(self, service: &Service, deadline_ms: u64, mut responder: Responder) {
        if let Self::Connections(connections) = &self
            && let [(user, _)] = connections.as_slice()
            && service
                .store
                .users
                .with_stored(user, |stored| matches!(stored, Some((Stored::Unreadable, _))))
        {
            return responder.refuse(&unreadable().field("user_id"));
        }
        responder.invisible = self.is_invisible(service);
        match self.answer(service) {
            (body, false) => responder.ok(body),
            // Perhaps it is only unknown here, and for a moment: look again when all is seen that
            // is stored now.
            (_, true) => {
                let again = service.clone();
                service.when_fresh(true, None, deadline_ms, move |fresh| {
                    // It may have become invisible by what this daemon had not seen yet.
                    responder.invisible |= self.is_invisible(&again);
                    responder.result(fresh.map(|()| self.answer(&again).0));
                });
            }
        }
    }

    /// Whether it is for connections of invisible users only.
    fn is_invisible(&self, service: &Service) -> bool {
        match self {
            Self::Lease(_) => false,
            Self::Connections(connections) => {
                let mut users = connections.iter().map(|(user, _)| user).peekable();
                users.peek().is_some() && users.all(|user| service.is_invisible(user))
            }
        }
    }

    /// The answer as things are known now, and whether something is unknown.
    fn answer(&self, service: &Service) -> (Vec<u8>, bool) {
        let mut out = b"{\"unknown\":".to_vec();
        let doubtful = match self {
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
                // Nobody can say of a record that cannot be read what it does not hold.
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
        out.push(b'}');
        (out, doubtful)
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
