//! What the operations on channels have in common.

use crate::api::request::fields::{Fields, missing};
use crate::presence::channel::{ChannelKey, Outcome};
use crate::presence::refusal::Refusal;
use crate::store::stripe::Answer;

/// The most members that one call names.
pub const MAX_MEMBERS_PER_CALL: usize = 100;

/// The most members that an answer shows of a channel.
pub const MAX_SHOWN: usize = 100;

/// What became of a command for a channel.
pub type Done = Result<Answer<Outcome>, Refusal>;

/// Takes the `type` and the `id` of a channel.
pub fn key(fields: &mut Fields) -> Result<ChannelKey, Refusal> {
    let kind = fields.id("type")?.ok_or_else(|| missing("type", "the type of a channel"))?;
    let id = fields.id("id")?.ok_or_else(|| missing("id", "the id of a channel"))?;
    ChannelKey::new(&kind, &id, "type")
}

/// Takes how many members are to be shown.
pub fn member_limit(fields: &mut Fields) -> Result<usize, Refusal> {
    let limit = fields.number("member_limit", 1..=MAX_SHOWN as u64)?;
    Ok(limit.map_or(MAX_SHOWN, super::query_users::to_usize))
}
