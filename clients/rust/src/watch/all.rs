//! A watch of all users: one subscription, and the picture page by page.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use serde_json::{Map, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Found, Picture, Shared, Watch, WatchState};
use crate::error::Error;
use crate::hub::{HubHandle, MISSED};
use crate::id::Id;
use crate::link::{LOOK_INTERVAL, Link, LinkState, part, until};
use crate::merge::{Known, Merge, Merged};
use crate::query::ask_page;
use crate::retry;
use crate::signals::Signal;
use crate::user::{CustomFields, Seen};

const PAGE: usize = 100;
const DROPPED: &str = "messages were dropped";
/// The least time between two lists because of dropped messages, which come in bursts.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);

impl<F: CustomFields> Watch<F, Found> {
    /// Watches all users.
    pub(crate) fn all(link: Arc<Link>, hub: HubHandle, audit: Option<Duration>) -> Self {
        let shared = Arc::new(Shared::new(true));
        let (stop, stopped) = oneshot::channel();
        let all = All {
            seen_link: link.look(),
            link,
            hub: hub.clone(),
            picture: shared.clone(),
            audit,
            merge: Merge::default(),
            ids: BTreeSet::new(),
            page: None,
            due_at: Some(Instant::now()),
            behind: None,
            audited: None,
            missed: false,
            resynced: None,
            failed: 0,
            complete: false,
            denied: None,
        };
        tokio::spawn(all.run(stopped));
        Self::found(shared, hub, stop)
    }
}

/// A page that was asked for.
struct Page {
    query: u64,
    /// The users behind this one were asked for.
    behind: Option<Id>,
    audit: bool,
    found: Result<(Vec<Seen>, bool), Error>,
}

type Asked = Pin<Box<dyn Future<Output = Page> + Send>>;

struct All {
    link: Arc<Link>,
    hub: HubHandle,
    picture: Arc<dyn Picture>,
    audit: Option<Duration>,
    merge: Merge,
    /// All users of which something is known, also those who are gone, until the next complete
    /// list.
    ids: BTreeSet<Id>,
    page: Option<Asked>,
    /// The time at which the list is begun, or goes on after a page that failed.
    due_at: Option<Instant>,
    /// The list goes on behind this user.
    behind: Option<Id>,
    /// The last user of the last audit; the next one goes on behind it.
    audited: Option<Id>,
    /// An audit of this round, or of the one before, found an event missing.
    missed: bool,
    resynced: Option<Instant>,
    failed: u32,
    complete: bool,
    /// NATS refused the events over this connection, as [`LinkState::connects`] counts them.
    denied: Option<u64>,
    seen_link: LinkState,
}

impl All {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let subject = self.link.all_events_subject();
        let mut events = tokio::select! {
            events = self.link.subscribe(subject.clone()) => events,
            _ = &mut stopped => return,
        };
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = self.link.signals().listen();
        let mut audit_at = self.next_audit();
        loop {
            let idle = self.page.is_none() && self.seen_link.up;
            let due_at = self.due_at.filter(|_| idle);
            let audit_due = audit_at.filter(|_| idle && self.complete && self.due_at.is_none());
            tokio::select! {
                _ = &mut stopped => break,
                message = next(&mut events) => match message {
                    Some(message) => self.on_event(&message),
                    // The client of NATS has ended.
                    None => {
                        self.link.on_ended();
                        break;
                    }
                },
                page = answer(&mut self.page) => self.on_page(page),
                signal = signals.recv() => match signal {
                    Ok(Signal::Denied(denied)) if denied == subject => {
                        self.denied = Some(self.link.look().connects);
                        self.deny(Error::Permission { subject: denied, may_have_applied: false });
                    }
                    Ok(Signal::Denied(_)) => {}
                    _ => self.resync(DROPPED),
                },
                () = until(due_at) => {
                    let behind = self.behind.take();
                    self.list(behind);
                }
                () = until(audit_due) => {
                    self.ask(self.audited.clone(), true);
                    audit_at = self.next_audit();
                }
                _ = looks.tick() => self.on_look(),
            }
        }
        self.picture.is(WatchState::Closed);
    }

    fn next_audit(&self) -> Option<Instant> {
        self.audit.map(|every| Instant::now() + every.mul_f64(0.8 + 0.4 * fastrand::f64()))
    }

    /// Asks for the page behind a user; for the first one if there is none.
    fn list(&mut self, behind: Option<Id>) {
        self.due_at = None;
        self.ask(behind, false);
    }

    fn ask(&mut self, behind: Option<Id>, audit: bool) {
        let query = self.merge.on_query();
        let link = self.link.clone();
        self.page = Some(Box::pin(async move {
            let mut body = Map::new();
            body.insert("limit".to_owned(), PAGE.into());
            body.insert("presence".to_owned(), true.into());
            if let Some(behind) = &behind {
                body.insert("filter".to_owned(), json!({"id": {"$gt": behind}}));
            }
            let found = async {
                let mut answer = ask_page(&link, body).await?;
                let users = part(&mut answer, "users");
                let page = users.and_then(|users| Ok((users, part(&mut answer, "more")?)));
                page.inspect_err(|error| link.count(error))
            };
            let found = found.await;
            Page { query, behind, audit, found }
        }));
    }

    fn on_page(&mut self, page: Page) {
        let Page { query, behind, audit, found } = page;
        let (users, more) = match found {
            Ok(found) => found,
            Err(_) if audit => return,
            Err(error) if error.may_pass() => {
                self.picture.failed(&error);
                self.failed += 1;
                // A list that is to begin again does not go on.
                if self.due_at.is_none() {
                    self.behind = behind;
                    self.due_at = Some(Instant::now() + retry::wait(&error, self.failed));
                }
                return;
            }
            Err(error) => return self.deny(error),
        };
        self.failed = 0;
        let last = users.last().and_then(|user| Id::parse(&user.id).ok());
        let end = last.filter(|_| more);
        let missed = self.merge_page(query, behind.as_ref(), end.as_ref(), users);
        if audit { self.on_audited(end, missed) } else { self.on_listed(end) }
    }

    /// Merges a page of the users after `behind` up to `end`. Whether it shows something newer
    /// than the events did.
    fn merge_page(
        &mut self,
        query: u64,
        behind: Option<&Id>,
        end: Option<&Id>,
        users: Vec<Seen>,
    ) -> bool {
        self.ids.extend(users.iter().filter_map(|user| Id::parse(&user.id).ok()));
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let to = end.map_or(Bound::Unbounded, Bound::Included);
        // An end before its begin is an answer to another question.
        let is_range = behind.zip(end).is_none_or(|(behind, end)| behind < end);
        let asked: Vec<Id> = match is_range {
            true => self.ids.range::<Id, _>((from, to)).cloned().collect(),
            false => Vec::new(),
        };
        let merged = self.merge.on_answer(query, &asked, users);
        let version = |known: &Known| known.user().map(|user| user.version);
        let is_newer = merged.iter().any(|each| version(&each.before) < version(&each.now));
        merged.into_iter().for_each(|each| self.show(each));
        is_newer
    }

    /// A page of an audit was merged, which ended behind `end`; the last one has no end.
    fn on_audited(&mut self, end: Option<Id>, missed: bool) {
        let round_is_over = end.is_none();
        self.audited = end;
        if missed {
            self.missed = true;
            self.audited = None;
            self.hub.counts().missed.fetch_add(1, Ordering::Relaxed);
            self.resync(MISSED);
        } else if round_is_over && self.missed {
            // The next round shows whether events arrive again.
            self.missed = false;
            self.picture.is(WatchState::Live);
        }
    }

    /// A page of the list was merged, which ended behind `end`; the last one has no end.
    fn on_listed(&mut self, end: Option<Id>) {
        if self.due_at.is_some() {
            // A list that is to begin again does not go on.
            return;
        }
        if end.is_some() {
            return self.list(end);
        }
        self.complete = true;
        self.forget_gone();
        let state = if self.missed { WatchState::Degraded(MISSED) } else { WatchState::Live };
        self.picture.is(state);
    }

    /// Versions of users who are gone count until a whole list has been asked for after that.
    fn forget_gone(&mut self) {
        let merge = &mut self.merge;
        self.ids.retain(|id| {
            let there = merge.get(id.as_str()) != Known::Absent;
            if !there {
                merge.forget(id.as_str());
            }
            there
        });
    }

    fn on_event(&mut self, message: &Message) {
        let token = message.subject.rsplit('.').next().unwrap_or_default();
        let merged = match Id::from_token(token) {
            Some(id) => self.merge.on_event(&id, &message.payload),
            None => Err(crate::merge::Foreign),
        };
        match merged {
            Ok(Some(merged)) => {
                self.ids.insert(merged.id.clone());
                self.show(merged);
            }
            Ok(None) => {}
            Err(_) => {
                self.hub.counts().foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn show(&self, merged: Merged) {
        self.picture.show(&merged.id, merged.now);
    }

    fn deny(&mut self, error: Error) {
        self.due_at = None;
        self.page = None;
        self.picture.is(WatchState::Denied(error));
    }

    fn go_stale(&self, why: &'static str) {
        if self.complete {
            self.picture.is(WatchState::Stale(why));
        }
    }

    fn resync(&mut self, why: &'static str) {
        self.denied = self.denied.filter(|over| *over >= self.seen_link.connects);
        if self.denied.is_some() {
            return;
        }
        // The list begins anyhow.
        if self.due_at.is_some() && self.behind.is_none() && self.failed == 0 {
            return self.go_stale(why);
        }
        self.hub.counts().resyncs.fetch_add(1, Ordering::Relaxed);
        self.go_stale(why);
        self.behind = None;
        let spread = if self.ids.len() > 1000 { 5000 } else { 1000 };
        let at = Instant::now() + Duration::from_millis(fastrand::u64(0..spread));
        let earliest = self.resynced.filter(|_| why == DROPPED).map(|at| at + RESYNC_INTERVAL);
        let at = earliest.map_or(at, |earliest| at.max(earliest));
        self.resynced = Some(at);
        self.due_at = Some(at);
    }

    fn on_look(&mut self) {
        let before = std::mem::replace(&mut self.seen_link, self.link.look());
        if !self.seen_link.up && before.up {
            self.go_stale("disconnected from NATS");
            self.picture.failed(&self.link.down());
        } else if self.seen_link.up && before != self.seen_link {
            self.resync("the connection to NATS was made again");
        }
    }
}

async fn next(events: &mut Result<Subscriber, Error>) -> Option<Message> {
    match events {
        Ok(events) => events.next().await,
        Err(_) => None,
    }
}

/// The page that was asked for, which is then no longer under way.
async fn answer(page: &mut Option<Asked>) -> Page {
    match page {
        Some(asked) => {
            let answer = asked.await;
            *page = None;
            answer
        }
        None => std::future::pending().await,
    }
}
