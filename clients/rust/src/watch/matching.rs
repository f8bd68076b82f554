//! A watch of the users that a query finds: asked for again at intervals, and after changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Found, Picture, Shared, Watch, WatchState};
use crate::error::Error;
use crate::hub::{Command, HubHandle};
use crate::id::Id;
use crate::link::LinkState;
use crate::merge::Known;
use crate::query::UsersQuery;
use crate::retry;
use crate::user::{CustomFields, Fields};

/// The interval of the query for users whose changes are not heard, as they are not watched.
const QUERY_INTERVAL: Duration = Duration::from_secs(10);
/// The delay after a change of a watched user until a query asks whether it still matches.
const AFTER_CHANGE: Duration = Duration::from_secs(1);

impl<F: CustomFields> Watch<F, Found> {
    /// Watches the users that a query finds.
    pub(crate) fn matching(query: UsersQuery, hub: HubHandle) -> Self {
        let shared = Arc::new(Shared::new(true));
        let (stop, stopped) = oneshot::channel();
        let changed = Arc::new(Notify::new());
        let picture = Arc::new(Noting { picture: shared.clone(), changed: changed.clone() });
        let watch = Self::found(shared, hub.clone(), stop);
        let links = query.link().states();
        let number = watch.number;
        let query = query.fresh();
        let matching = Matching { query, hub, picture, number, changed, ids: None, links };
        tokio::spawn(matching.run(stopped));
        watch
    }

    pub(super) fn found(shared: Arc<Shared<F>>, hub: HubHandle, stop: oneshot::Sender<()>) -> Self {
        let number = hub.next_watch();
        Self { shared, hub, number, _task: Some(stop), kind: std::marker::PhantomData }
    }
}

/// Shows what it is shown, and tells the task that something changed.
#[derive(Debug)]
struct Noting {
    picture: Arc<dyn Picture>,
    changed: Arc<Notify>,
}

impl Picture for Noting {
    fn show(&self, id: &Id, now: Known) {
        self.picture.show(id, now);
        self.changed.notify_one();
    }

    fn hide(&self, id: &Id) {
        self.picture.hide(id);
    }

    fn is(&self, state: WatchState) {
        self.picture.is(state);
    }

    fn failed(&self, error: &Error) {
        self.picture.failed(error);
    }
}

struct Matching {
    query: UsersQuery<Fields>,
    hub: HubHandle,
    picture: Arc<Noting>,
    /// The watch at the hub.
    number: u64,
    changed: Arc<Notify>,
    /// The users of the last answer; `None` before the first.
    ids: Option<HashSet<Id>>,
    links: watch::Receiver<LinkState>,
}

impl Matching {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.live() => {}
            // Takes back what this task sent after the watch was dropped.
            _ = &mut stopped => self.hub.send(Command::Unwatch { number: self.number }),
        }
    }

    async fn live(&mut self) {
        let mut failed = 0;
        loop {
            let asked_over = *self.links.borrow_and_update();
            match self.query.clone().await {
                Ok(page) => {
                    failed = 0;
                    let ids = page.users.iter().filter_map(|user| Id::parse(&user.id).ok());
                    self.on_found(ids.collect());
                }
                Err(error) if error.may_pass() => {
                    failed += 1;
                    self.picture.failed(&error);
                    sleep(retry::wait(&error, failed)).await;
                    continue;
                }
                Err(error) => return self.picture.is(WatchState::Denied(error)),
            }
            self.wait(asked_over).await;
        }
    }

    fn on_found(&mut self, found: HashSet<Id>) {
        let number = self.number;
        match self.ids.replace(found.clone()) {
            None => {
                let picture = self.picture.clone();
                self.hub.send(Command::Watch { number, picture, ids: found });
            }
            Some(before) => {
                for id in before.difference(&found).cloned() {
                    self.hub.send(Command::Remove { number, id });
                }
                let ids: HashSet<Id> = found.difference(&before).cloned().collect();
                if !ids.is_empty() {
                    self.hub.send(Command::Add { number, ids });
                }
            }
        }
    }

    /// Waits until there is reason to ask again.
    async fn wait(&mut self, asked_over: LinkState) {
        let earliest = Instant::now() + AFTER_CHANGE;
        let (links, changed) = (&mut self.links, &self.changed);
        let renewed = async {
            // An error says that the hub has ended, and with it the watch.
            let _ = links.wait_for(|now| now.up && *now != asked_over).await;
        };
        tokio::select! {
            () = sleep(QUERY_INTERVAL) => {}
            () = changed.notified() => sleep_until(earliest).await,
            () = renewed => sleep(Duration::from_millis(fastrand::u64(0..1000))).await,
        }
    }
}
