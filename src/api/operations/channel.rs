//! The fields that operations on channels share.

use crate::api::request::fields::{Fields, missing};
use crate::presence::channel::ChannelKey;
use crate::presence::refusal::Refusal;

/// The most members named in one request.
pub const MAX_MEMBERS_PER_CALL: usize = 100;

/// The most members that an answer shows of a channel.
pub const MAX_SHOWN: usize = 100;

/// Takes the `type` and the `id` of a channel.
pub fn key(fields: &mut Fields) -> Result<ChannelKey, Refusal> {
    let kind = fields.id("type")?.ok_or_else(|| missing("type", "the type of a channel"))?;
    let id = fields.id("id")?.ok_or_else(|| missing("id", "the id of a channel"))?;
    ChannelKey::new(&kind, &id, "type")
}

/// Takes the number of members to show.
pub fn member_limit(fields: &mut Fields) -> Result<usize, Refusal> {
    let limit = fields.number("member_limit", 1..=MAX_SHOWN as u64)?;
    Ok(limit.map_or(MAX_SHOWN, super::queries::to_usize))
}
