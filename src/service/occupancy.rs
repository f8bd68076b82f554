//! Announces how many members of a channel are online, for the channel types that ask for it. All
//! decisions are [`Occupancy`]'s; this feeds it from the replica and publishes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Settings;
use crate::liveness::internal::Beacons;
use crate::liveness::peers::{RankFilter, delay_ms};
use crate::presence::channel::{Announcement, ChannelKey, CountIntervals, Counts, Occupancy};
use crate::presence::entity::{DaemonId, Stored};
use crate::presence::id::{self, Id};
use crate::presence::time::{MAX_AHEAD_MS, Now, Time};
use crate::presence::user::Record;
use crate::store::Store;
use crate::store::barrier::NotSeen;
use crate::watchdog::WatchdogTap;

/// The interval at which changes of the replica are taken.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// The delay between two consecutive ranks, in milliseconds.
const STEP_MS: u64 = 1000;

/// The time that an announcement may wait to be sent, in milliseconds: less than until it is the
/// turn of the next daemon.
const SEND_WITHIN_MS: u64 = STEP_MS / 2;

/// The time for which the replica is waited for before it is asked again, in milliseconds.
const CATCH_UP_MS: u64 = 2000;

/// The most announcements at one tick: after a start alone, every channel has one.
const MAX_PER_TICK: usize = 500;

/// The intervals of the channel types that have one.
pub fn intervals(settings: &Settings) -> CountIntervals {
    let types = settings.channel_types.iter();
    let announced = types.filter_map(|(name, settings)| {
        Some((name.clone(), super::millis(settings.occupancy_interval?)))
    });
    announced.collect()
}

/// The subject on which the count of a channel is announced.
pub fn subject(prefix: &str, key: &ChannelKey) -> String {
    id::subject(prefix, [key.kind(), key.id()])
}

/// The wait until the replica has all that was stored when it began.
struct CatchUp {
    asked: Now,
    seen: BoxFuture<'static, Result<(), NotSeen>>,
}

/// Counts, announces, and hears what is announced.
pub struct OccupancyTask {
    store: Store,
    beacons: Beacons,
    intervals: Arc<CountIntervals>,
    /// The prefix of the subjects of announcements.
    prefix: String,
    announcements: Subscriber,
    occupancy: Occupancy,
    peers: BTreeSet<DaemonId>,
    /// Whether it is settled which daemon announces what was before this one.
    settled: bool,
    /// The time from which all announcements were heard.
    listens_from_ms: u64,
    catch_up: Option<CatchUp>,
}

/// The `type` of an announcement.
const EVENT_TYPE: &str = "channel.presence.changed";

/// The newest version that is taken from others, by JetStream's clock.
fn version_limit(now: Time) -> u64 {
    u64::try_from(now.0.saturating_add(MAX_AHEAD_MS)).unwrap_or(0)
}

/// An announcement of another daemon.
#[derive(Deserialize)]
struct Announced {
    r#type: String,
    channel: AnnouncedChannel,
}

#[derive(Deserialize)]
struct AnnouncedChannel {
    cid: String,
    online_count: usize,
    member_count: usize,
    version: u64,
}

impl OccupancyTask {
    /// Begins to hear announcements. `prefix` is that of their subjects.
    pub async fn new(
        store: Store,
        beacons: Beacons,
        intervals: Arc<CountIntervals>,
        prefix: String,
    ) -> Result<Self, async_nats::SubscribeError> {
        let announcements = beacons.client().subscribe(format!("{prefix}.*.*")).await?;
        Ok(Self {
            store,
            beacons,
            intervals,
            prefix,
            announcements,
            occupancy: Occupancy::default(),
            peers: BTreeSet::new(),
            settled: false,
            listens_from_ms: 0,
            catch_up: None,
        })
    }

    /// Runs until the connection ends. The replica is whole.
    pub async fn run(mut self, mut tap: WatchdogTap) {
        self.begin();
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let caught_up = OptionFuture::from(self.catch_up.as_mut().map(|wait| &mut wait.seen));
            tokio::select! {
                // What was announced by others is known before anything is announced.
                biased;
                ping = tap.next() => ping.answer(),
                message = self.announcements.next() => {
                    let Some(message) = message else { return };
                    self.on_announcement(&message);
                }
                Some(seen) = caught_up => {
                    let asked = self.catch_up.take().map(|wait| wait.asked);
                    if let Some(asked) = asked.filter(|_| seen.is_ok()) {
                        self.announce(asked);
                    }
                }
                _ = ticks.tick() => {
                    self.observe_replica();
                    self.observe_peers();
                    self.observe_hearing();
                    self.begin_to_announce();
                }
            }
        }
    }

    /// Takes what the replica holds, channels that were emptied or deleted among it: their last
    /// announcement may be missing. The daemons that are there have made it.
    fn begin(&mut self) {
        self.store.channels.for_each_stripe(|stripe| {
            let known: Vec<_> = stripe.changes().map(|(key, _)| key.clone()).collect();
            stripe.index_mut().note_changed(known);
        });
        self.observe_replica();
        self.occupancy.assume_announced();
        self.peers = self.beacons.peers().alive().collect();
    }

    fn observe_replica(&mut self) {
        let now_ms = self.store.context.now().mono_ms;
        let mut online = Vec::new();
        self.store
            .users
            .for_each_stripe(|stripe| online.extend(stripe.index_mut().take_online_changes()));
        let mut changed = Vec::new();
        self.store
            .channels
            .for_each_stripe(|stripe| changed.extend(stripe.index_mut().take_changed()));
        for (user, is_online) in online {
            self.occupancy.on_user(&user, is_online, now_ms);
        }
        for key in changed {
            let Some(interval_ms) = self.intervals.get(key.kind()) else { continue };
            let members = self.store.channels.with_stored(&key, |stored| match stored {
                Some((Stored::Present(record), _)) => Some(record.members.clone()),
                Some((Stored::Unreadable, _)) => None,
                _ => Some(Default::default()),
            });
            // Those of a record that cannot be read stay what they were.
            let Some(members) = members else { continue };
            let users = &self.store.users;
            let is_online = |user: &Id| {
                users.with_record(user, |record| record.is_some_and(Record::is_shown_online))
            };
            self.occupancy.on_members(&key, &members, *interval_ms, is_online, now_ms);
        }
    }

    /// Announces again the counts that another daemon may not have announced, as it is gone or
    /// never was.
    fn observe_peers(&mut self) {
        let alive: BTreeSet<_> = self.beacons.peers().alive().collect();
        let is_first = !self.settled && self.beacons.is_settled() && self.beacons.is_first();
        self.settled = self.settled || self.beacons.is_settled();
        if is_first || self.peers.iter().any(|peer| !alive.contains(peer)) {
            self.occupancy.announce_assumed(self.store.context.now().mono_ms);
        }
        self.peers = alive;
    }

    /// Notes that announcements of other daemons may have been missed since trouble with the
    /// connection.
    fn observe_hearing(&mut self) {
        let now_ms = self.store.context.now().mono_ms;
        let from_ms = self.beacons.hearing().listens_from_ms(now_ms);
        if self.can_announce() && self.listens_from_ms != from_ms {
            self.listens_from_ms = from_ms;
            self.occupancy.on_missed();
        }
    }

    /// Returns whether counts are those of what is stored, and announcements are heard.
    fn can_announce(&self) -> bool {
        self.store.is_whole() && !self.beacons.hearing().is_cut_off()
    }

    /// Begins to announce what is due: a replica that lags would announce what was before.
    fn begin_to_announce(&mut self) {
        let asked = self.store.context.now();
        self.occupancy.forget(asked.mono_ms, asked.stream);
        self.store.context.metrics.set_counted_channels(self.occupancy.channels());
        if self.catch_up.is_some() || !self.can_announce() || self.due(1).is_empty() {
            return;
        }
        let seen = self.store.context.barrier.all_stored(asked.mono_ms + CATCH_UP_MS);
        self.catch_up = Some(CatchUp { asked, seen: Box::pin(seen) });
    }

    /// The announcements that it is this daemon's turn to make.
    fn due(&mut self, limit: usize) -> Vec<Announcement> {
        // Daemons that start together have not heard of each other yet, and would both be first.
        let unsettled = usize::from(!self.beacons.is_settled());
        let wait_ms = |key: &ChannelKey| {
            let rank = self.beacons.peers().rank(key.cid(), RankFilter::Alive) + unsettled;
            delay_ms(rank, STEP_MS)
        };
        self.occupancy.due(self.store.context.now().mono_ms, limit, wait_ms)
    }

    /// Announces what is due. The replica has all that was stored when it was asked, and versions
    /// are of that time, by JetStream's clock, which all daemons share.
    fn announce(&mut self, asked: Now) {
        self.observe_replica();
        if !self.can_announce() {
            return;
        }
        let now_ms = self.store.context.now().mono_ms;
        for announcement in self.due(MAX_PER_TICK) {
            let version = announcement.version(asked.stream);
            let body = announcement.body(version, asked.stream);
            let (key, not_after_ms) = (&announcement.key, now_ms + SEND_WITHIN_MS);
            let context = &self.store.context;
            context.publish(subject(&self.prefix, key), version, body, Some(not_after_ms));
            context.metrics.occupancy_events.inc();
            self.occupancy.on_sent(key, version, now_ms);
        }
    }

    fn on_announcement(&mut self, message: &Message) {
        let Ok(Announced { r#type, channel }) = serde_json::from_slice(&message.payload) else {
            return;
        };
        let AnnouncedChannel { cid, online_count: online, member_count: members, version } =
            channel;
        let Some(key) = ChannelKey::from_cid(&cid) else { return };
        let Some(&interval_ms) = self.intervals.get(key.kind()) else { return };
        let now = self.store.context.now();
        // Another message on the same subjects, or one with a version that none could follow.
        let is_foreign = r#type != EVENT_TYPE
            || *message.subject != *subject(&self.prefix, &key)
            || version > version_limit(now.stream);
        if !is_foreign {
            let counts = Counts { online, members };
            self.occupancy.on_announced(&key, interval_ms, counts, version, now.mono_ms);
        }
    }
}
