//! `count_users`: the number of users that match, as the viewer sees them.

use super::context::Context;
use super::queries::Freshness;
use super::reply::Reply;
use super::rules::RequestRules;
use crate::api::request::fields::Fields;
use crate::presence::field::Kind;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;

/// A parsed `count_users`.
#[derive(Debug)]
pub struct CountUsers {
    filter: Option<Filter>,
    viewer: Option<Id>,
    freshness: Freshness,
}

impl CountUsers {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let filter = fields.take("filter").map(|filter| Filter::parse(Kind::Users, &filter));
        let presence = fields.boolean("presence")?.unwrap_or(false);
        let viewer = rules.door.viewer(fields.id("as")?)?;
        let freshness = Freshness::parse(&mut fields, presence, rules.door)?;
        fields.finish()?;
        Ok(Self { filter: filter.transpose()?, viewer, freshness })
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        self.freshness.wait(ctx).await?;
        let count = ctx.service.count_users(self.filter, self.viewer, ctx.deadline_ms).await?;
        Ok(format!("{{\"count\":{count}}}").into_bytes())
    }
}
