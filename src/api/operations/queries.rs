//! The fields that queries and watches share.

use super::context::Context;
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, wrong};
use crate::presence::refusal::Refusal;

/// The state that the replica must have reached before a query is answered.
#[derive(Debug)]
pub struct Freshness {
    /// All that is stored when the request arrives, so that "subscribe, then query" has no gap.
    all_stored: bool,
    min_rev: Option<u64>,
}

impl Freshness {
    /// Takes `min_rev`, which reveals invisible writes of others and is for trusted services only.
    pub fn parse(fields: &mut Fields, presence: bool, door: &Door) -> Result<Self, Refusal> {
        let min_rev = fields.number("min_rev", 0..=u64::MAX)?;
        if min_rev.is_some() && !door.is_trusted() {
            return Err(wrong(
                "min_rev",
                "is for trusted services; this door always waits for all that is stored",
            ));
        }
        Ok(Self { all_stored: presence || !door.is_trusted(), min_rev })
    }

    pub async fn wait(&self, ctx: &Context) -> Result<(), Refusal> {
        if self.all_stored {
            ctx.service.all_stored(ctx.deadline_ms).await?;
        }
        match self.min_rev {
            Some(rev) => ctx.service.seen(rev, ctx.deadline_ms).await,
            None => Ok(()),
        }
    }
}

pub fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
