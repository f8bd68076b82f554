//! The start of a daemon, step by step: connect, open the store, hear peers and heartbeats, replay,
//! expire leases, serve.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use async_nats::{Client, Event};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};

use super::access::Access;
use super::connect::{Purpose, connect};
use super::limits;
use super::permissions::Permissions;
use super::tasks::Tasks;
use super::{Daemon, Error};
use crate::api::heartbeats::{self, HeartbeatListener};
use crate::api::request::subjects::Subjects;
use crate::clock::{Clock, millis};
use crate::config::{Settings, Storage};
use crate::health::Health;
use crate::liveness::build::Build;
use crate::liveness::expiry_task::ExpiryTask;
use crate::liveness::floor_raise::FloorRaise;
use crate::liveness::hearing::Hearing;
use crate::liveness::internal::{BEACON, Beacons};
use crate::liveness::introductions::{self, Introductions};
use crate::liveness::lease_agreement::LeaseAgreement;
use crate::liveness::marker_sweep::MarkerSweep;
use crate::liveness::peers::LivenessSettings;
use crate::metrics::Metrics;
use crate::payload_limit::PayloadLimit;
use crate::presence::channel::CountIntervals;
use crate::presence::entity::DaemonId;
use crate::presence::user::Periods;
use crate::service::forget::Forgetting;
use crate::service::occupancy::{self, OccupancyTask};
use crate::service::{Service, rules};
use crate::store::barrier::Barrier;
use crate::store::bucket::{Bucket, Shape};
use crate::store::clock_skew::ClockSkew;
use crate::store::context::StoreContext;
use crate::store::floor::Floor;
use crate::store::outbox::{Outbox, outbox};
use crate::store::stream_clock::StreamClock;
use crate::store::stripe::Timing;
use crate::store::told_lease::ToldLease;
use crate::store::write_health::WriteHealth;
use crate::store::{self, Store};
use crate::version::VERSION;

/// Messages that a subscription holds before it drops the next: more than a second of any load
/// that one daemon can serve.
const SUBSCRIPTION_CAPACITY: usize = 1 << 16;

/// The same for the connection of the store. The server lets up to 32 MiB of the feed be under
/// way, and a record takes at least a hundred bytes.
const FEED_CAPACITY: usize = 1 << 19;

/// The number of conflicts in a row that a write survives.
const MAX_CONFLICTS: u32 = 40;

/// The state that all steps of a start share.
pub(super) struct Startup {
    pub(super) settings: Settings,
    pub(super) subjects: Subjects,
    /// The channel types whose counts are announced.
    counted: Arc<CountIntervals>,
    pub(super) health: Health,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) id: DaemonId,
    pub(super) payload_limit: PayloadLimit,
    pub(super) tasks: Tasks,
}

/// Each has its own backlog, so that none of them waits for another.
struct Connections {
    /// Requests, answers and events.
    requests: Client,
    /// The bucket.
    store: Client,
    store_events: UnboundedReceiver<Event>,
    /// Heartbeats, and messages between daemons.
    internal: Client,
    internal_events: UnboundedReceiver<Event>,
}

impl Daemon {
    /// Connects, waits until the replica is whole, and begins to serve.
    pub(super) async fn start(
        settings: Settings,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let mut startup = Startup::new(settings, health, metrics);
        let Connections { requests, store, store_events, internal, internal_events } =
            startup.connect().await?;
        let answers = startup.publish_answers(&requests);
        let store = startup.open_store(store, &answers).await?;
        startup.watch_connection(&store, store_events);
        startup.keep_payload_limit(&store, &requests);
        let beacons = startup.join_peers(&store, &internal).await?;
        let yields = startup.introduce(&store, &internal).await?;
        startup.hear_heartbeats(&store, &beacons, &internal, internal_events).await?;
        startup.replay(&store, &beacons).await;
        startup.agree_on_lease(&store, &beacons).await;
        startup.expire_leases(&store, &beacons).await?;
        startup.repeat_announcements(&store, &beacons);
        startup.remove_markers(&store, &beacons);
        startup.forget_users(&store, &beacons);
        startup.announce_counts(&store, &beacons).await?;
        let context = startup.answer_inquiries(&requests, &answers).await?;
        let service = Service::new(store, beacons, &startup.settings);
        startup.serve(service, requests, internal, context, yields).await
    }
}

impl Startup {
    fn new(settings: Settings, health: Health, metrics: Arc<Metrics>) -> Self {
        let subjects = Subjects {
            prefix: settings.subjects.requests(),
            events: settings.subjects.events.clone(),
            channel_events: settings.subjects.channel_events.clone(),
        };
        let (clock, id) = (Clock::start(), DaemonId(fastrand::u64(1..)));
        let (payload_limit, tasks) = (PayloadLimit::new(usize::MAX), Tasks::default());
        let counted = Arc::new(occupancy::intervals(&settings));
        Self { settings, subjects, counted, health, metrics, clock, id, payload_limit, tasks }
    }

    /// Waits for NATS, and for the permissions of the daemon's user.
    async fn connect(&self) -> Result<Connections, Error> {
        let nats = &self.settings.nats;
        let access = Access::new(self.health.clone(), Permissions::of(&self.settings));
        let host = Build::own().host;
        let purpose = |name, subscription_capacity| Purpose {
            name,
            label: format!("{name} {} {} {host}", VERSION, self.id),
            subscription_capacity,
        };
        let purposes = [
            purpose("presenced", SUBSCRIPTION_CAPACITY),
            purpose("presenced store", FEED_CAPACITY),
            purpose("presenced liveness", heartbeats::CAPACITY),
        ];
        let [for_requests, for_store, for_liveness] = purposes;
        let (requests, _) = connect(nats, for_requests, &access).await?;
        access.settle(&requests).await;
        self.payload_limit.set(limits::ask(nats, &requests).await);
        let (store, store_events) = connect(nats, for_store, &access).await?;
        let (internal, internal_events) = connect(nats, for_liveness, &access).await?;
        self.tasks.spawn(access.keep(vec![requests.clone(), store.clone(), internal.clone()]));
        Ok(Connections { requests, store, store_events, internal, internal_events })
    }

    /// Publishes answers and events, in the order in which they are given.
    fn publish_answers(&mut self, client: &Client) -> Outbox {
        let (answers, outgoing) = outbox();
        let tap = self.tasks.watchdog.register("answers");
        let limit = self.payload_limit.clone();
        self.tasks.spawn(outgoing.run(client.clone(), self.clock, limit, tap, || {}));
        answers
    }

    /// Waits for the bucket, and makes it if it is missing. Then begins to follow it.
    async fn open_store(&mut self, client: Client, answers: &Outbox) -> Result<Store, Error> {
        let settings = &self.settings;
        let timeout = store::bucket_timeout(settings.limits.request_timeout);
        let bucket = Bucket::new(client, &settings.store.bucket, &settings.nats.js_api, timeout);
        store::open(&bucket, shape(settings), &self.health).await?;
        if let Some(warning) = bucket.info().await.ok().and_then(|info| info.warning(bucket.name()))
        {
            tracing::warn!("{warning}");
        }
        let (writes, outgoing) = outbox();
        let context = self.store_context(bucket, writes, answers.clone());
        let max_value = self.payload_limit.body();
        let timing = Timing::new(settings.limits.request_timeout, MAX_CONFLICTS, max_value);
        let (liveness, grace_ms) = (&settings.liveness, millis(settings.liveness.offline_grace));
        let rules = Arc::new(rules(&settings.limits, grace_ms, &settings.users));
        let periods = Periods {
            lease_ms: millis(liveness.lease),
            grace_ms,
            refresh_ms: millis(liveness.last_active_refresh),
        };
        let store = Store::new(context, &rules, timing, periods, &self.counted);
        let Tasks { stop, watchdog, .. } = &mut self.tasks;
        store.start(outgoing, shape(settings), stop.clone(), watchdog).await?;
        Ok(store)
    }

    fn store_context(&self, bucket: Bucket, writes: Outbox, events: Outbox) -> StoreContext {
        StoreContext {
            clock: self.clock,
            daemon: self.id,
            ack_inbox: bucket.client().new_inbox(),
            bucket,
            barrier: Barrier::default(),
            writes,
            events,
            event_prefix: self.settings.subjects.events.clone(),
            metrics: Arc::clone(&self.metrics),
            health: self.health.clone(),
            payload_limit: self.payload_limit.clone(),
            write_health: WriteHealth::new(self.health.clone()),
            clock_skew: ClockSkew::default(),
            stream_clock: StreamClock::default(),
            told_lease: ToldLease::default(),
            markers: Mutex::default(),
            floor: Floor::default(),
            reconnected: Notify::new(),
            suspicion: Notify::new(),
            repairs: Notify::new(),
            acked: AtomicU64::new(0),
            tracker: self.tasks.tracker.clone(),
        }
    }

    /// Notes when the connection of the store is lost.
    fn watch_connection(&self, store: &Store, events: UnboundedReceiver<Event>) {
        self.tasks.spawn(store.clone().watch_connection(events));
    }

    /// Follows the `max_payload` of the server.
    fn keep_payload_limit(&self, store: &Store, client: &Client) {
        let (nats, limit) = (self.settings.nats.clone(), self.payload_limit.clone());
        self.tasks.spawn(limits::keep(nats, client.clone(), limit, store.clone()));
    }

    /// Exchanges beacons with the other daemons of the cell.
    async fn join_peers(&self, store: &Store, internal: &Client) -> Result<Beacons, Error> {
        let hearing = Hearing::new(millis(self.settings.liveness.lease), self.clock.now().mono_ms);
        let bucket = &self.settings.store.bucket;
        let beacons = Beacons::new(
            internal.clone(),
            bucket,
            self.id,
            LivenessSettings {
                lease_ms: millis(self.settings.liveness.lease),
                grace_ms: millis(self.settings.liveness.offline_grace),
            },
            hearing,
        );
        let messages = internal.subscribe(beacons.subject(BEACON)).await?;
        self.tasks.spawn(beacons.clone().run(store.clone(), messages));
        Ok(beacons)
    }

    /// Compares this daemon with those that answer the same requests. Returns whether it is to
    /// leave requests to them.
    async fn introduce(
        &self,
        store: &Store,
        internal: &Client,
    ) -> Result<watch::Receiver<bool>, Error> {
        let others = internal.subscribe(introductions::subject()).await?;
        let introductions = Introductions::new(internal.clone(), store.clone(), &self.settings);
        let yields = introductions.yields();
        self.tasks.spawn(introductions.run(others));
        Ok(yields)
    }

    async fn hear_heartbeats(
        &mut self,
        store: &Store,
        beacons: &Beacons,
        internal: &Client,
        events: UnboundedReceiver<Event>,
    ) -> Result<(), Error> {
        let [trusted, own] = heartbeats::lanes(&self.subjects.prefix);
        let lanes = [internal.subscribe(trusted).await?, internal.subscribe(own).await?];
        let listener =
            HeartbeatListener::new(store.clone(), beacons.clone(), self.subjects.clone())?;
        let tap = self.tasks.watchdog.register("heartbeats");
        self.tasks.spawn(listener.run(lanes, events, tap));
        Ok(())
    }

    /// Waits until the replica is whole.
    async fn replay(&self, store: &Store, beacons: &Beacons) {
        let bucket = &self.settings.store.bucket;
        tracing::info!(daemon = %self.id, bucket, "replaying the bucket");
        self.health.starting(format!("the records of the bucket {bucket}"));
        store.replayed.cancelled().await;
        let now_ms = self.clock.now().mono_ms;
        beacons.hearing().on_trouble(now_ms, "it has just started to listen");
    }

    /// Agrees with the other daemons on the lease that clients are told.
    async fn agree_on_lease(&self, store: &Store, beacons: &Beacons) {
        self.health.starting("the lease to be agreed on".to_owned());
        let agreement = LeaseAgreement { store: store.clone(), beacons: beacons.clone() };
        agreement.begin().await;
        self.tasks.spawn(agreement.run());
    }

    async fn expire_leases(&mut self, store: &Store, beacons: &Beacons) -> Result<(), Error> {
        let liveness = &self.settings.liveness;
        let expiry = ExpiryTask::new(store.clone(), beacons.clone(), liveness).await?;
        let tap = self.tasks.watchdog.register("expiry");
        self.tasks.spawn(expiry.run(tap));
        Ok(())
    }

    /// Announces once more what a daemon that failed before may not have announced.
    fn repeat_announcements(&self, store: &Store, beacons: &Beacons) {
        self.tasks.spawn(beacons.clone().announce_if_first(store.clone()));
    }

    /// Removes the markers of deletions that have done their service.
    fn remove_markers(&self, store: &Store, beacons: &Beacons) {
        let (store, beacons) = (store.clone(), beacons.clone());
        let age = self.settings.store.marker_age;
        let raise = FloorRaise::new(store.clone(), beacons.clone(), age);
        self.tasks.spawn(raise.run());
        self.tasks.spawn(MarkerSweep { store, beacons, age }.run());
    }

    /// Deletes users who do not return, where the settings ask for it.
    fn forget_users(&self, store: &Store, beacons: &Beacons) {
        if let Some(after) = self.settings.users.forget_after {
            let (store, beacons) = (store.clone(), beacons.clone());
            self.tasks.spawn(Forgetting { store, beacons, after }.run());
        }
    }

    /// Announces counts of channels, where the settings ask for it.
    async fn announce_counts(&mut self, store: &Store, beacons: &Beacons) -> Result<(), Error> {
        if self.counted.is_empty() {
            return Ok(());
        }
        let (store, beacons) = (store.clone(), beacons.clone());
        let (counted, prefix) = (Arc::clone(&self.counted), self.subjects.channel_events.clone());
        let task = OccupancyTask::new(store, beacons, counted, prefix).await?;
        let tap = self.tasks.watchdog.register("occupancy");
        self.tasks.spawn(task.run(tap));
        Ok(())
    }
}

fn shape(settings: &Settings) -> Shape {
    Shape {
        replicas: settings.store.replicas,
        in_memory: settings.store.storage == Storage::Memory,
        max_bytes: settings.store.max_bytes,
    }
}
