//! Queries: a lookup where the filter names ids, otherwise a scan of the replica.

use super::{Service, overloaded, unavailable, unreadable};
use crate::presence::entity::{Entity, Stored};
use crate::presence::field::Field;
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::sort::{Sort, TopK};
use crate::presence::user::{Record, Seen, Viewer, push_seen_by};
use crate::store::keyspace::{Keyspace, ReplyStripe};

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
        deadline_ms: u64,
        then: impl FnOnce(Result<Vec<FoundUser>, Refusal>) + Send + 'static,
    ) {
        let most = at_once(query.filter.as_ref());
        let ids = query.filter.as_ref().and_then(|filter| filter.candidates(&Field::Id));
        if ids.as_ref().is_some_and(|ids| ids.len() <= most) {
            return then(self.search_users(&query, deadline_ms));
        }
        let service = self.clone();
        self.scan(move || service.search_users(&query, deadline_ms), then);
    }

    /// Counts the users that match, from the replica; a scan leaves the calling thread alone.
    pub fn count_users(
        &self,
        filter: Option<Filter>,
        viewer: Option<Id>,
        deadline_ms: u64,
        then: impl FnOnce(Result<usize, Refusal>) + Send + 'static,
    ) {
        let most = at_once(filter.as_ref());
        let ids = filter.as_ref().and_then(|filter| filter.candidates(&Field::Id));
        let is_short = ids.is_some_and(|ids| ids.len() <= most);
        let service = self.clone();
        let count = move || service.count(filter.as_ref(), viewer.as_ref(), deadline_ms);
        if is_short { then(count()) } else { self.scan(count, then) }
    }

    fn count(
        &self,
        filter: Option<&Filter>,
        viewer: Option<&Id>,
        deadline_ms: u64,
    ) -> Result<usize, Refusal> {
        let viewer = viewer.map_or(Viewer::Other, Viewer::User);
        let matches = |id: &Id, record: &Record| {
            filter.is_none_or(|filter| filter.matches(&Seen { id, record, viewer }))
        };
        let mut count = 0;
        if let Some(ids) = filter.and_then(|filter| filter.candidates(&Field::Id)) {
            for id in ids.into_iter().filter_map(|id| Id::parse(id, "id").ok()) {
                count += self.store.users.with_stored(&id, |stored| match stored {
                    Some((Stored::Unreadable, _)) => Err(unreadable()),
                    Some((Stored::Present(record), _)) => Ok(usize::from(matches(&id, record))),
                    Some((Stored::Absent { .. }, _)) | None => Ok(0),
                })?;
            }
            return Ok(count);
        }
        self.scan_stripes(&self.store.users, deadline_ms, |stripe| {
            count += stripe.records().filter(|(id, record)| matches(id, record)).count();
        })?;
        Ok(count)
    }

    fn search_users(&self, query: &UserQuery, deadline_ms: u64) -> Result<Vec<FoundUser>, Refusal> {
        match query.filter.as_ref().and_then(|filter| filter.candidates(&Field::Id)) {
            Some(ids) => {
                self.look_up(query, ids.into_iter().filter_map(|id| Id::parse(id, "id").ok()))
            }
            None => self.scan_users(query, deadline_ms),
        }
    }

    /// Lets a scan run when it is its turn; the calling thread goes on.
    pub(super) fn scan<R: Send + 'static>(
        &self,
        scan: impl FnOnce() -> Result<R, Refusal> + Send + 'static,
        then: impl FnOnce(Result<R, Refusal>) + Send + 'static,
    ) {
        if !self.scans.join(self.limits().pending_scans) {
            return then(Err(overloaded()));
        }
        let service = self.clone();
        self.store.context.tracker.spawn(async move {
            let turn = service.scans.turn().await;
            let found = tokio::task::spawn_blocking(scan).await;
            drop(turn);
            service.scans.leave();
            then(found.unwrap_or_else(|_| Err(unavailable("the query could not be finished"))));
        });
    }

    fn look_up(
        &self,
        query: &UserQuery,
        ids: impl IntoIterator<Item = Id>,
    ) -> Result<Vec<FoundUser>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        for id in ids {
            self.store.users.with_stored(&id, |stored| match stored {
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

    fn scan_users(&self, query: &UserQuery, deadline_ms: u64) -> Result<Vec<FoundUser>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        self.scan_stripes(&self.store.users, deadline_ms, |stripe| {
            for (id, record) in stripe.records() {
                offer(query, &mut best, id, record);
            }
        })?;
        Ok(page(query, best))
    }

    /// Visits all parts, and gives up when nobody waits for the answer any more.
    pub(super) fn scan_stripes<E: Entity>(
        &self,
        keyspace: &Keyspace<E>,
        deadline_ms: u64,
        mut visit: impl FnMut(&ReplyStripe<E>),
    ) -> Result<(), Refusal> {
        let mut late = false;
        keyspace.for_each_stripe(|stripe| {
            late = late || self.now().mono_ms >= deadline_ms;
            if !late {
                visit(stripe);
            }
        });
        let message =
            "the query looked at every record and was not done in time: filter by `id`, or by less";
        if late { Err(unavailable(message)) } else { Ok(()) }
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
