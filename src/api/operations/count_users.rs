//! `count_users`: how many users match, as the viewer sees them.

use super::query_users::min_rev;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::api::transport::responder::Responder;
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// A parsed `count_users`.
#[derive(Debug)]
pub struct CountUsers {
    filter: Option<Filter>,
    viewer: Option<Id>,
    presence: bool,
    min_rev: Option<u64>,
}

impl CountUsers {
    pub fn parse(mut fields: Fields, door: &Door) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Users, &filter));
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = door.viewer(fields.id("as")?)?;
        let min_rev = min_rev(&mut fields, door)?;
        fields.finish()?;
        Ok(Self { filter: filter.transpose()?, viewer, presence, min_rev })
    }

    /// With `presence`, as at the second door, the count takes in all that is stored when the
    /// request arrives.
    pub fn run(self, service: &Service, door: &Door, deadline_ms: u64, responder: Responder) {
        let Self { filter, viewer, presence, min_rev } = self;
        let then = service.clone();
        service.when_fresh(presence || !door.is_trusted(), min_rev, deadline_ms, move |fresh| {
            if let Err(refusal) = fresh {
                return responder.refuse(&refusal);
            }
            then.count_users(filter, viewer, deadline_ms, move |count| {
                let body = |count| format!("{{\"count\":{count}}}").into_bytes();
                responder.result(count.map(body));
            });
        });
    }
}
