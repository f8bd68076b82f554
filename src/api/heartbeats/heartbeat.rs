//! The heartbeat of a client: the connections, or the lease, that are alive.

use super::fast_path;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, wrong};
use crate::presence::id::{self, Id, IdRef};
use crate::presence::refusal::{Code, Refusal};

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
    /// Reads a body: the usual one on the fast path.
    pub fn read(body: &[u8], door: &Door) -> Result<Self, Refusal> {
        if body.len() > MAX_BYTES {
            let message = format!("a heartbeat is at most {MAX_BYTES} bytes long");
            return Err(Refusal::new(Code::LimitExceeded, message).limit(MAX_BYTES as u64));
        }
        match fast_path::read(body, door) {
            Some(plain) => Ok(plain.into_owned()),
            None => Self::parse(door.fields(body)?, door),
        }
    }

    /// Parses any heartbeat, and names what is wrong with it.
    pub fn parse(mut fields: Fields, door: &Door) -> Result<Self, Refusal> {
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
                    let connection = door.connection(&mut entry)?;
                    entry.finish().map(|()| connection)
                };
                let connections = connections.into_iter().enumerate().map(parse);
                Self::Connections(connections.collect::<Result<_, _>>()?)
            }
            (None, None) => Self::Connections(vec![door.connection(&mut fields)?]),
        };
        fields.finish()?;
        Ok(heartbeat)
    }
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
        assert!(Heartbeat::read(body.as_bytes(), &Door::Trusted).is_ok());
        body.push_str(&" ".repeat(MAX_BYTES + 1 - body.len()));
        let refusal = Heartbeat::read(body.as_bytes(), &Door::Trusted).unwrap_err();
        assert_eq!(refusal.code, Code::LimitExceeded);
    }
}
