//! Channels: commands, queries, and the JSON of a channel with its members.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use super::query::max_inline_records;
use super::{Service, occupancy, stopped, unreadable};
use crate::config::ChannelType;
use crate::presence::channel::{
    ChannelKey, Channels, Command, MAX_WATCHED, Outcome, Page, Record, Seen, Watched, push_fields,
};
use crate::presence::entity::{Entity, Stored};
use crate::presence::field::Field;
use crate::presence::filter::Filter;
use crate::presence::id::{self, Id};
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::sort::{Sort, TopK};
use crate::presence::user::{Viewer, push_member, push_member_without_presence};
use crate::store::keyspace::CommandResult;

/// The settings of the channel types, by name.
pub type ChannelTypes = Arc<BTreeMap<String, ChannelType>>;

/// A query for channels.
#[derive(Debug)]
pub struct ChannelQuery {
    pub filter: Option<Filter>,
    pub sort: Sort,
    pub limit: usize,
    pub offset: usize,
    /// The number of members shown of each channel.
    pub member_limit: usize,
    /// Limits the query to channels of which this user is a member.
    pub of_member: Option<Id>,
}

impl Service {
    /// Submits a command before it returns; the future is its answer.
    pub fn channel_command(
        &self,
        key: ChannelKey,
        command: Command,
        deadline_ms: u64,
    ) -> impl Future<Output = CommandResult<Channels>> + Send + use<> {
        let answer = self.store.channels.command(key, command, deadline_ms);
        async move { answer.await.unwrap_or_else(|_| Err(stopped())) }
    }

    /// The channel as a command would leave it, decided on the replica.
    pub fn preview_channel(
        &self,
        key: &ChannelKey,
        command: &Command,
    ) -> Result<Option<Record>, Refusal> {
        let (nothing, daemon, now) = (Stored::default(), self.store.context.daemon, self.now());
        let decision = self.store.channels.with_stored(key, |stored| {
            let stored = stored.map_or(&nothing, |(stored, _)| stored);
            Channels::decide(key, stored, command, &(), daemon, now)
        })?;
        Ok(match decision.outcome {
            Outcome::Channel(record) => Some(*record),
            Outcome::Deleted(_) => None,
        })
    }

    /// The settings of a channel's type.
    pub fn channel_type(&self, key: &ChannelKey) -> ChannelType {
        self.channel_types.get(key.kind()).copied().unwrap_or_default()
    }

    /// Answers a query from the replica.
    ///
    /// A filter that names channels or a member limits the search to those. A search of more than a
    /// few records leaves the calling thread and counts as a scan.
    pub async fn query_channels(
        &self,
        query: ChannelQuery,
        deadline_ms: u64,
    ) -> Result<Vec<Page>, Refusal> {
        let most = max_inline_records(query.filter.as_ref());
        if let Some(found) = self.search_channels(&query, most, deadline_ms) {
            return found;
        }
        let service = self.clone();
        self.scan(move || {
            service.search_channels(&query, usize::MAX, deadline_ms).unwrap_or(Ok(Vec::new()))
        })
        .await
    }

    /// Tests the channels that can match; returns `None` if they are more than `most`.
    fn search_channels(
        &self,
        query: &ChannelQuery,
        most: usize,
        deadline_ms: u64,
    ) -> Option<Result<Vec<Page>, Refusal>> {
        let filter = query.filter.as_ref();
        if let Some(cids) = filter.and_then(|filter| filter.candidates(&Field::Cid)) {
            return (cids.len() <= most).then(|| {
                let keys = cids.into_iter().filter_map(ChannelKey::from_cid).collect();
                self.look_up_channels(query, &keys)
            });
        }
        let own = query.of_member.as_ref().map(|user| vec![user.as_str()]);
        match own.or_else(|| filter.and_then(Filter::member_candidates)) {
            Some(members) if members.len() > most => None,
            Some(members) => self.channels_of(query, &members, most).map(Ok),
            None => (most == usize::MAX).then(|| self.scan_channels(query, deadline_ms)),
        }
    }

    fn look_up_channels(
        &self,
        query: &ChannelQuery,
        keys: &BTreeSet<ChannelKey>,
    ) -> Result<Vec<Page>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        for key in keys {
            self.store.channels.with_stored(key, |stored| match stored {
                // A viewer of the own channels only learns nothing of this one.
                Some((Stored::Unreadable, _)) if query.of_member.is_none() => Err(unreadable()),
                Some((Stored::Present(record), _)) => {
                    offer(query, &mut best, key, record);
                    Ok(())
                }
                _ => Ok(()),
            })?;
        }
        Ok(page(query, best))
    }

    fn channels_of(
        &self,
        query: &ChannelQuery,
        members: &[&str],
        most: usize,
    ) -> Option<Vec<Page>> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        let mut visited = 0;
        self.store.channels.for_each_stripe(|stripe| {
            if visited > most {
                return;
            }
            let keys: BTreeSet<_> =
                members.iter().flat_map(|member| stripe.index().of(member)).collect();
            visited += keys.len();
            for key in keys {
                if let Some(record) = stripe.record(key) {
                    offer(query, &mut best, key, &record);
                }
            }
        });
        (visited <= most).then(|| page(query, best))
    }

    fn scan_channels(&self, query: &ChannelQuery, deadline_ms: u64) -> Result<Vec<Page>, Refusal> {
        let mut best = TopK::new(&query.sort, query.offset + query.limit);
        self.scan_stripes(&self.store.channels, deadline_ms, |stripe| {
            for (key, record) in stripe.records() {
                offer(query, &mut best, key, &record);
            }
        })?;
        Ok(page(query, best))
    }

    /// The number of `members` whom the viewer sees online.
    fn count_online(&self, members: &[Id], viewer: Option<&Id>) -> usize {
        let viewer = viewer.map_or(Viewer::Other, Viewer::User);
        let is_online = |id: &&Id| {
            self.store.users.with_record(id, |record| {
                record.is_some_and(|record| record.is_online_for(id, viewer))
            })
        };
        members.iter().filter(is_online).count()
    }

    /// Counts the members of each channel that the viewer sees online, where the channel's type
    /// has presence. Many members leave the calling thread, as a scan.
    pub async fn with_online_counts(
        &self,
        mut pages: Vec<Page>,
        viewer: Option<Id>,
    ) -> Result<Vec<Page>, Refusal> {
        let service = self.clone();
        let members: usize = pages.iter().map(|page| page.member_count).sum();
        let count = move || {
            for page in pages.iter_mut().filter(|page| service.channel_type(&page.key).presence) {
                let now = service
                    .store
                    .channels
                    .with_record(&page.key, |record| record.map(|record| record.members.clone()));
                if let Some(members) = &now {
                    page.member_count = members.len();
                }
                // A channel that was deleted meanwhile is shown as it was.
                let members = now.as_ref().unwrap_or(&page.record.members);
                page.online_count = Some(service.count_online(members, viewer.as_ref()));
            }
            Ok(pages)
        };
        if members <= max_inline_records(None) { count() } else { self.scan(count).await }
    }

    /// The subject on which the count of a channel is announced, if it is.
    pub fn occupancy_subject(&self, key: &ChannelKey) -> Option<String> {
        let interval = self.channel_type(key).occupancy_interval;
        interval.map(|_| occupancy::subject(&self.channel_events, key))
    }

    /// Appends a channel as `viewer` sees it, with a presence block if `presence` is given.
    pub fn push_channel(
        &self,
        out: &mut Vec<u8>,
        page: &Page,
        members: usize,
        viewer: Option<&Id>,
        presence: Option<(&str, &Watched)>,
    ) {
        let viewer = viewer.map_or(Viewer::Other, Viewer::User);
        let shows_presence = self.channel_type(&page.key).presence;
        push_fields(out, page, members, |out, id| {
            self.store.users.with_stored(id, |stored| {
                let stored = stored.map(|(stored, _)| stored);
                if shows_presence {
                    push_member(out, id, stored, viewer);
                } else {
                    push_member_without_presence(out, id, stored.and_then(Stored::record));
                }
            });
        });
        if !shows_presence {
            json::push(out, ",\"presence_disabled\":true");
        }
        if let Some((events, watched)) = presence {
            json::push(out, ",\"presence\":");
            push_watched(out, events, watched, self.occupancy_subject(&page.key).as_deref());
        }
        out.push(b'}');
    }
}

/// Appends a presence block: the users to watch, their subjects, the users left out, and the
/// subject of the channel's count if that is announced.
pub fn push_watched(out: &mut Vec<u8>, events: &str, watched: &Watched, occupancy: Option<&str>) {
    json::push(out, "{\"users\":");
    let push_id = |out: &mut Vec<u8>, id: &Id| json::push_str(out, id.as_str());
    json::push_array(out, &watched.users, push_id);
    json::push(out, ",\"subjects\":");
    json::push_array(out, &watched.users, |out, id| {
        json::push_str(out, &id::subject(events, [id.as_str()]));
    });
    json::push(out, ",\"truncated\":");
    json::push_bool(out, watched.truncated);
    json::push(out, ",\"not_watched\":");
    json::push_array(out, &watched.not_watched, push_id);
    if let Some(subject) = occupancy {
        json::push(out, ",\"occupancy_subject\":");
        json::push_str(out, subject);
    }
    out.push(b'}');
}

/// Keeps a channel that matches and ranks among the best so far.
fn offer(query: &ChannelQuery, best: &mut TopK<'_, Page>, key: &ChannelKey, record: &Record) {
    let seen = Seen { key, record };
    if best.would_accept(&seen)
        && query.of_member.as_ref().is_none_or(|user| record.is_member(user))
        && query.filter.as_ref().is_none_or(|filter| filter.matches(&seen))
    {
        best.offer(&seen, || Page::of(key, record, query.member_limit.max(MAX_WATCHED)));
    }
}

fn page(query: &ChannelQuery, best: TopK<'_, Page>) -> Vec<Page> {
    best.into_sorted().into_iter().skip(query.offset).collect()
}
