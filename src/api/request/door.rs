//! The two doors: the user that a request acts as (`docs/protocol.md`, *The two doors*).

use super::fields::{Fields, missing};
use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};

/// The door through which a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// A trusted service, which acts for the ids that it names.
    Trusted,
    /// A user's own client, which acts as that user only.
    Own(Id),
}

impl Door {
    /// The user that a request acts as. The body names `named` in `field`.
    pub fn user(&self, named: Option<Id>, field: &str) -> Result<Id, Refusal> {
        match (self, named) {
            (Self::Trusted, Some(id)) => Ok(id),
            (Self::Trusted, None) => Err(missing(field, "the id of a user")),
            (Self::Own(own), None) => Ok(own.clone()),
            (Self::Own(own), Some(id)) if id == *own => Ok(id),
            (Self::Own(_), Some(_)) => Err(mismatch(field, "names another user than the subject")),
        }
    }

    /// The viewer: the user of the subject, or the user that a trusted service names with `as`.
    pub fn viewer(&self, named: Option<Id>) -> Result<Option<Id>, Refusal> {
        match self {
            Self::Trusted => Ok(named),
            Self::Own(_) => self.user(named, "as").map(Some),
        }
    }

    /// Takes the user and the connection that an object names.
    pub fn connection(&self, fields: &mut Fields) -> Result<(Id, Id), Refusal> {
        let user = self.user(fields.id("user_id")?, &fields.path("user_id"))?;
        let connection = fields.id("connection_id")?;
        let missing = || missing(&fields.path("connection_id"), "the id of a connection");
        Ok((user, connection.ok_or_else(missing)?))
    }

    /// The fields of a request without flaws. Only trusted services may name a lease, in any
    /// operation.
    pub fn fields(&self, body: &[u8]) -> Result<Fields, Refusal> {
        let fields = Fields::parse(body)?;
        fields.refuse_flaws()?;
        match self {
            Self::Own(_) if fields.has("lease") => {
                Err(mismatch("lease", "can be named only by trusted services"))
            }
            Self::Own(_) | Self::Trusted => Ok(fields),
        }
    }

    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Trusted)
    }
}

fn mismatch(field: &str, what: &str) -> Refusal {
    Refusal::new(Code::IdentityMismatch, format!("`{field}` {what}")).field(field)
}
