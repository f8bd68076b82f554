//! Finds users that are to be erased, by a filter that sees them as they truly are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Service;
use super::query::names_few;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Record, Seen, Viewer};

impl Service {
    /// The first `limit` users by id that match. A scan leaves the calling thread.
    pub async fn find_to_erase(
        &self,
        filter: Arc<Filter>,
        limit: usize,
        deadline_ms: u64,
    ) -> Result<Vec<Id>, Refusal> {
        let is_small = names_few(Some(&filter));
        self.search(is_small, move |service| service.first_matching(&filter, limit, deadline_ms))
            .await
    }

    fn first_matching(
        &self,
        filter: &Filter,
        limit: usize,
        deadline_ms: u64,
    ) -> Result<Vec<Id>, Refusal> {
        let matches =
            |id: &Id, record: &Record| filter.matches(&Seen { id, record, viewer: Viewer::Eraser });
        let mut first = BTreeSet::new();
        let offer = |id: &Id, record: &dyn Fn() -> Option<Arc<Record>>| {
            let is_behind = first.len() >= limit && first.last().is_some_and(|last| last < id);
            if !is_behind && record().is_some_and(|record| matches(id, &record)) {
                first.insert(id.clone());
                if first.len() > limit {
                    first.pop_last();
                }
            }
        };
        self.visit_users(Some(filter), deadline_ms, offer)?;
        Ok(first.into_iter().collect())
    }
}
