//! Finds users that are to be erased, by a filter that sees them as they truly are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::query::max_inline_records;
use super::{Service, unreadable};
use crate::presence::entity::Stored;
use crate::presence::field::Field;
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
        let most = max_inline_records(Some(&filter));
        if filter.candidates(&Field::Id).is_some_and(|ids| ids.len() <= most) {
            return self.first_matching(&filter, limit, deadline_ms);
        }
        let service = self.clone();
        self.scan(move || service.first_matching(&filter, limit, deadline_ms)).await
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
        let mut offer = |id: &Id, record: &Record| {
            let is_behind = first.len() >= limit && first.last().is_some_and(|last| last < id);
            if !is_behind && matches(id, record) {
                first.insert(id.clone());
                if first.len() > limit {
                    first.pop_last();
                }
            }
        };
        if let Some(ids) = filter.candidates(&Field::Id) {
            for id in ids.into_iter().filter_map(|id| Id::parse(id, "id").ok()) {
                self.store.users.with_stored(&id, |stored| match stored {
                    Some((Stored::Unreadable, _)) => Err(unreadable()),
                    Some((Stored::Present(record), _)) => {
                        offer(&id, record);
                        Ok(())
                    }
                    Some((Stored::Absent { .. }, _)) | None => Ok(()),
                })?;
            }
        } else {
            self.scan_stripes(&self.store.users, deadline_ms, |stripe| {
                stripe.records().for_each(|(id, record)| offer(id, &record));
            })?;
        }
        Ok(first.into_iter().collect())
    }
}
