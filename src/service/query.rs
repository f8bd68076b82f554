//! Queries: a lookup where the filter names ids, otherwise a scan of the replica.

use std::sync::atomic::Ordering;

use super::{Service, overloaded, unavailable, unreadable};
use crate::presence::entity::Stored;
use crate::presence::field::Field;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::sort::{Sort, TopK};
use crate::presence::user::{Record, Seen, Viewer, push_seen_by};

/// How many tests of records a query makes before it leaves the calling thread, which has messages
/// to read, alone: a millisecond or two, unless the custom fields are large.
const TESTS_AT_ONCE: usize = 1000;

/// Which users, in which order, before whose eyes.
#[derive(Debug)]
pub struct UserQuery {
    pub filter: Option<Filter>,
    pub sort: Sort,
    pub limit: usize,
    pub offset: usize,
    pub viewer: Option<Id>,
}

/// A user that was found, and its JSON as the viewer sees it.
pub type FoundUser = (Id, Vec<u8>);

impl Service {
    /// Answers a query from the replica; a scan leaves the calling thread alone.
    pub fn query_users(
        &self,
        query: UserQuery,
        then: impl FnOnce(Result<Vec<FoundUser>, Refusal>) + Send + 'static,
    ) {
        let most = at_once(query.filter.as_ref());
        let ids = query.filter.as_ref().and_then(|filter| filter.candidates(&Field::Id));
        if ids.as_ref().is_some_and(|ids| ids.len() <= most) {
            return then(self.search_users(&query));
        }
        let service = self.clone();
        self.scan(move || service.search_users(&query), |found| then(found.flatten()));
    }

    fn search_users(&self, query: &UserQuery) -> Result<Vec<FoundUser>, Refusal> {
        match query.filter.as_ref().and_then(|filter| filter.candidates(&Field::Id)) {
            Some(ids) => {
                self.look_up(query, ids.into_iter().filter_map(|id| Id::parse(id, "id").ok()))
            }
            None => Ok(self.scan_users(query)),
        }
    }

    /// Lets a scan run when it is its turn; the calling thread goes on.
    pub(super) fn scan<R: Send + 'static>(
        &self,
        scan: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(Result<R, Refusal>) + Send + 'static,
    ) {
        if self.scans.waiting.fetch_add(1, Ordering::Relaxed) >= self.limits.pending_scans {
            self.scans.waiting.fetch_sub(1, Ordering::Relaxed);
            return then(Err(overloaded()));
        }
        let service = self.clone();
        self.store.link.tracker.spawn(async move {
            let turn = service.scans.running.acquire().await;
            let found = tokio::task::spawn_blocking(scan).await;
            drop(turn);
            service.scans.waiting.fetch_sub(1, Ordering::Relaxed);
            then(found.map_err(|_| unavailable("the query could not be finished")));
        });
    }

    fn look_up(
        &self,
        query: &UserQuery,
        ids: impl IntoIterator<Item = Id>,
    ) -> Result<Vec<FoundUser>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        for id in ids {
            self.store.users.look_stored(&id, |stored| match stored {
                Some((Stored::Unreadable, _)) => Err(unreadable()),
                Some((Stored::Present(record), _)) => {
                    offer(query, &mut best, &id, record);
                    Ok(())
                }
                Some((Stored::Absent { .. }, _)) | None => Ok(()),
            })?;
        }
        Ok(page(query, best))
    }

    fn scan_users(&self, query: &UserQuery) -> Vec<FoundUser> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        self.store.users.for_each_part(|part| {
            for (id, record) in part.records() {
                offer(query, &mut best, id, record);
            }
        });
        page(query, best)
    }
}

/// How many records may be held against a filter on the calling thread.
pub(super) fn at_once(filter: Option<&Filter>) -> usize {
    TESTS_AT_ONCE / (1 + filter.map_or(0, Filter::tests))
}

/// Keeps a user if it matches and is among the first so far.
fn offer(query: &UserQuery, best: &mut TopK<'_, FoundUser>, id: &Id, record: &Record) {
    let viewer = query.viewer.as_ref().map_or(Viewer::Other, Viewer::User);
    let seen = Seen { id, record, viewer };
    if best.would_accept(&seen) && query.filter.as_ref().is_none_or(|filter| filter.matches(&seen))
    {
        best.offer(&seen, || {
            let mut user = Vec::with_capacity(256);
            push_seen_by(&mut user, id, record, viewer);
            (id.clone(), user)
        });
    }
}

fn page(query: &UserQuery, best: TopK<'_, FoundUser>) -> Vec<FoundUser> {
    best.into_sorted().into_iter().skip(query.offset).collect()
}
