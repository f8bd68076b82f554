//! Queries: a lookup where the filter names ids, otherwise a scan of the replica.

use std::sync::Arc;

use super::{Service, overloaded, unavailable, unreadable};
use crate::presence::entity::{Entity, Stored};
use crate::presence::field::{Datum, Field, Subject};
use crate::presence::filter::Filter;
use crate::presence::id::Id;
use crate::presence::refusal::Refusal;
use crate::presence::sort::{Sort, TopK};
use crate::presence::user::{Record, Seen, Viewer, push_seen_by};
use crate::store::keyspace::{Keyspace, TicketStripe};

/// The number of filter tests that a query makes on the calling thread, which reads messages too: a
/// millisecond or two, unless the custom fields are large.
const MAX_INLINE_TESTS: usize = 1000;

/// A query for users.
#[derive(Debug)]
pub struct UserQuery {
    pub filter: Option<Filter>,
    pub sort: Sort,
    pub limit: usize,
    pub offset: usize,
    pub viewer: Option<Id>,
}

/// A user that matches, and its JSON as the viewer sees it.
pub type FoundUser = (Id, Vec<u8>);

impl Service {
    /// Answers a query from the replica. A scan leaves the calling thread.
    pub async fn query_users(
        &self,
        query: UserQuery,
        deadline_ms: u64,
    ) -> Result<Vec<FoundUser>, Refusal> {
        let is_small = names_few(query.filter.as_ref());
        self.search(is_small, move |service| service.search_users(&query, deadline_ms)).await
    }

    /// Counts the users that match, from the replica. A scan leaves the calling thread.
    pub async fn count_users(
        &self,
        filter: Option<Filter>,
        viewer: Option<Id>,
        deadline_ms: u64,
    ) -> Result<usize, Refusal> {
        let is_small = names_few(filter.as_ref());
        self.search(is_small, move |service| {
            service.count(filter.as_ref(), viewer.as_ref(), deadline_ms)
        })
        .await
    }

    fn count(
        &self,
        filter: Option<&Filter>,
        viewer: Option<&Id>,
        deadline_ms: u64,
    ) -> Result<usize, Refusal> {
        let viewer = viewer.map_or(Viewer::Other, Viewer::User);
        let mut count = 0;
        self.visit_users(filter, deadline_ms, |id, record| {
            let Some(record) = record() else { return };
            let seen = Seen { id, record: &record, viewer };
            count += usize::from(filter.is_none_or(|filter| filter.matches(&seen)));
        })?;
        Ok(count)
    }

    fn search_users(&self, query: &UserQuery, deadline_ms: u64) -> Result<Vec<FoundUser>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        let by_id = query.sort.is_by_key();
        self.visit_users(query.filter.as_ref(), deadline_ms, |id, record| {
            if by_id && !best.would_accept(&IdOnly(id)) {
                return;
            }
            if let Some(record) = record() {
                offer(query, &mut best, id, &record);
            }
        })?;
        Ok(best.into_sorted().into_iter().skip(query.offset).collect())
    }

    /// Visits the users that a filter names, or, if it names none, all that it admits by their ids.
    /// To unpack a record costs most of a scan, so the visitor asks for those that it needs.
    pub(super) fn visit_users(
        &self,
        filter: Option<&Filter>,
        deadline_ms: u64,
        mut visit: impl FnMut(&Id, &dyn Fn() -> Option<Arc<Record>>),
    ) -> Result<(), Refusal> {
        let users = &self.store.users;
        let Some(ids) = filter.and_then(|filter| filter.candidates(&Field::Id)) else {
            return self.scan_stripes(users, deadline_ms, |stripe| {
                let admitted = |id: &Id| filter.is_none_or(|filter| filter.admits(id.as_str()));
                let users = stripe.packed_records().filter(|(id, _)| admitted(id));
                users.for_each(|(id, record)| visit(id, &record));
            });
        };
        for id in ids.into_iter().filter_map(|id| Id::parse(id, "id").ok()) {
            users.with_stored(&id, |stored| match stored {
                Some((Stored::Unreadable, _)) => Err(unreadable()),
                Some((Stored::Present(record), _)) => {
                    visit(&id, &|| Some(record.clone()));
                    Ok(())
                }
                Some((Stored::Absent { .. }, _)) | None => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Runs a search on the calling thread if it is small, and as a scan otherwise.
    pub(super) async fn search<R: Send + 'static>(
        &self,
        is_small: bool,
        search: impl FnOnce(&Self) -> Result<R, Refusal> + Send + 'static,
    ) -> Result<R, Refusal> {
        if is_small {
            return search(self);
        }
        let service = self.clone();
        self.scan(move || search(&service)).await
    }

    /// Runs a scan on a thread of its own, once a permit for scans is free.
    pub(super) async fn scan<R: Send + 'static>(
        &self,
        scan: impl FnOnce() -> Result<R, Refusal> + Send + 'static,
    ) -> Result<R, Refusal> {
        let max_pending = self.limits().pending_scans;
        let slot = self.scans.join(max_pending).ok_or_else(overloaded)?;
        let permit = self.scans.permit().await;
        let found = tokio::task::spawn_blocking(scan).await;
        drop((permit, slot));
        found.unwrap_or_else(|_| Err(unavailable("the query could not be finished")))
    }

    /// Visits all stripes, and gives up at the deadline of the query.
    pub(super) fn scan_stripes<E: Entity>(
        &self,
        keyspace: &Keyspace<E>,
        deadline_ms: u64,
        mut visit: impl FnMut(&TicketStripe<E>),
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

/// A user of which nothing is known but the id, for an order that asks for nothing else.
struct IdOnly<'a>(&'a Id);

impl Subject for IdOnly<'_> {
    fn datum(&self, field: &Field) -> Datum<'_> {
        match field {
            Field::Id => Datum::text(self.0.as_str()),
            _ => Datum::Absent,
        }
    }
}

/// Returns whether a filter names so few users that they are looked up on the calling thread.
pub(super) fn names_few(filter: Option<&Filter>) -> bool {
    let named = filter.and_then(|filter| filter.candidates(&Field::Id));
    named.is_some_and(|ids| ids.len() <= max_inline_records(filter))
}

/// The number of records that a query may test against `filter` on the calling thread.
pub(super) fn max_inline_records(filter: Option<&Filter>) -> usize {
    MAX_INLINE_TESTS / (1 + filter.map_or(0, Filter::tests))
}

/// Keeps a user that matches and ranks among the best so far.
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
