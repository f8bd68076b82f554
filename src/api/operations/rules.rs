//! The rules for the fields of one request: its door, and the settings in force.

use std::sync::Arc;

use arc_swap::Guard;

use crate::api::request::door::Door;
use crate::config::Limits;
use crate::presence::custom::Changes;
use crate::presence::refusal::{Code, Refusal};
use crate::service::Service;

/// Everything besides its body that decides whether a request is accepted.
#[derive(Debug)]
pub struct RequestRules<'a> {
    pub door: &'a Door,
    limits: Guard<Arc<Limits>>,
    /// Whether users' own clients may make themselves invisible.
    allow_invisible: bool,
    /// The longest grace that a request may ask for.
    pub lease_ms: u64,
}

impl<'a> RequestRules<'a> {
    pub fn of(door: &'a Door, service: &Service) -> Self {
        Self {
            door,
            limits: service.limits(),
            allow_invisible: service.user_settings.allow_invisible,
            lease_ms: service.lease_ms(),
        }
    }

    /// Refuses custom fields at `path` that only trusted services may set.
    pub fn check_custom(&self, custom: &Changes, path: &str) -> Result<(), Refusal> {
        let mut names = custom.iter().map(|(name, _)| &**name);
        match names.find(|name| self.limits.trusted_fields.contains(*name)) {
            Some(name) => self.check_trusted(&format!("{path}.{name}")),
            None => Ok(()),
        }
    }

    /// Refuses to make a user at `path` invisible where only trusted services may do so.
    pub fn check_invisible(&self, invisible: Option<bool>, path: &str) -> Result<(), Refusal> {
        if invisible == Some(true) && !self.allow_invisible {
            return self.check_trusted(&format!("{path}.invisible"));
        }
        Ok(())
    }

    fn check_trusted(&self, field: &str) -> Result<(), Refusal> {
        if self.door.is_trusted() {
            return Ok(());
        }
        let message = format!("`{field}` can be set only by trusted services");
        Err(Refusal::new(Code::ForbiddenField, message).field(field))
    }
}
