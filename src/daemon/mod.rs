//! The daemon as a whole: connects, replays, serves, leaves.

mod access;
mod arrival;
pub mod connect;
mod http;
mod leave;
mod limited_listener;
mod log_throttle;
mod monitor;
mod permissions;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, SubscribeError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::heartbeats::{self, HeartbeatListener};
use crate::api::transport::executor::executor;
use crate::api::transport::intake::{Intake, QUEUE_GROUP};
use crate::api::transport::micro::{self, Micro};
use crate::api::transport::responder::ReplyContext;
use crate::api::transport::subjects::Subjects;
use crate::api::{OPERATIONS, Operation, Stats};
use crate::clock::Clock;
use crate::config::{INTERNAL, Limits, Settings, Storage};
use crate::health::Health;
use crate::liveness::expiry_task::ExpiryTask;
use crate::liveness::hearing::Hearing;
use crate::liveness::internal::{BEACON, Beacons};
use crate::metrics::Metrics;
use crate::presence::channel::Channels;
use crate::presence::entity::{DaemonId, Entity};
use crate::presence::user::{Periods, Users};
use crate::service::{Service, rules};
use crate::store::barrier::Barrier;
use crate::store::bucket::{Bucket, Shape};
use crate::store::keyspace::StoreContext;
use crate::store::outbox::{Outbox, Outgoing, outbox};
use crate::store::stripe::Timing;
use crate::store::{self, Store};
use crate::watchdog::Watchdog;
use access::Access;
use arrival::Arrival;
use connect::{ConnectError, connect};
use http::{Http, ListenError};
use monitor::Monitor;
use permissions::Permissions;

/// How many messages a subscription holds before it drops the next: more than a second of any
/// load that one daemon can serve.
const SUBSCRIPTION_CAPACITY: usize = 1 << 16;

/// The same for the connection of the store. The server lets up to 32 MiB of the feed be under
/// way, and a record takes at least a hundred bytes.
const FEED_CAPACITY: usize = 1 << 19;

/// What the headers of a message may take of the server's `max_payload`, in bytes.
const HEADER_BYTES: usize = 1024;

/// How many conflicts in a row a write survives.
const MAX_CONFLICTS: u32 = 40;

/// What ends a daemon other than a request to stop.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Bucket(String),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not subscribe: {0}")]
    Subscribe(#[from] SubscribeError),
    #[error("the operating system has no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

impl Error {
    /// Whether a new start would fail in the same way until someone changes the settings or the
    /// server.
    pub fn needs_a_change(&self) -> bool {
        match self {
            Self::Connect(ConnectError::TooOld { .. } | ConnectError::Login { .. })
            | Self::Bucket(_) => true,
            Self::Listen(error) => !error.may_pass(),
            Self::Subscribe(_) | Self::Random(_) => false,
        }
    }
}

/// Other limits for a daemon that runs.
#[derive(Debug)]
pub struct Reload {
    pub limits: Limits,
    /// Told when they count.
    pub done: oneshot::Sender<()>,
}

/// Runs a daemon until `shutdown` completes, and notes in `health` how it is. What comes out of
/// `reloads` while it starts counts as soon as it serves.
pub async fn run(
    settings: Settings,
    health: Health,
    mut reloads: mpsc::Receiver<Reload>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let operations = OPERATIONS.map(Operation::name);
    let metrics = Arc::new(Metrics::new(operations, [Users::KIND, Channels::KIND]));
    let http = match settings.metrics.listen {
        Some(address) => {
            Some(Http::bind(address, health.clone(), Arc::clone(&metrics)).await?.run())
        }
        None => None,
    };
    let serve = async {
        let mut shutdown = std::pin::pin!(shutdown);
        let daemon = tokio::select! {
            started = Daemon::start(settings, health.clone(), metrics) => started?,
            () = &mut shutdown => {
                health.leaving();
                return Ok(());
            }
        };
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(Reload { limits, done }) = reloads.recv() => {
                    daemon.service.adopt(limits);
                    // Whoever asked may have left.
                    let _ = done.send(());
                }
            }
        }
        daemon.leave().await;
        Ok(())
    };
    // Whoever asks over HTTP is answered until the end.
    match http {
        Some(http) => tokio::select! {
            served = serve => served,
            () = http => std::future::pending().await,
        },
        None => serve.await,
    }
}

/// The tasks of a daemon.
#[derive(Debug, Default)]
struct Tasks {
    tracker: TaskTracker,
    /// Cancelled to end them.
    stop: CancellationToken,
    /// Those that serve.
    watchdog: Watchdog,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }
}

/// A daemon at work.
#[derive(Debug)]
struct Daemon {
    health: Health,
    service: Service,
    answers: Outbox,
    internal: Client,
    /// Cancelled to stop taking requests in; the task ends when the last one is taken.
    no_more: CancellationToken,
    intake: tokio::task::JoinHandle<()>,
    /// Cancelled to stop everything else.
    stop: CancellationToken,
}

impl Daemon {
    /// Connects, waits until the replica is whole, and begins to serve.
    async fn start(
        settings: Settings,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let clock = Clock::start();
        let id = DaemonId(fastrand::u64(1..));
        let access = Access::new(health.clone(), Permissions::of(&settings));
        let (client, _) =
            connect(&settings.nats, "presenced", SUBSCRIPTION_CAPACITY, &access).await?;
        access.settle(&client).await;
        let (store_client, _) =
            connect(&settings.nats, "presenced store", FEED_CAPACITY, &access).await?;
        let (internal, events) =
            connect(&settings.nats, "presenced liveness", heartbeats::CAPACITY, &access).await?;
        let mut tasks = Tasks::default();
        tasks.spawn(access.keep(vec![client.clone(), store_client.clone(), internal.clone()]));

        let (answers, outgoing) = outbox();
        let outgoing = outgoing.run(client.clone(), clock, tasks.watchdog.register("answers"));
        tasks.spawn(outgoing);
        let bucket = open_bucket(&settings, &health, store_client).await?;
        let (writes, written) = outbox();
        let context = StoreContext {
            clock,
            daemon: id,
            ack_inbox: bucket.client().new_inbox(),
            bucket,
            barrier: Barrier::default(),
            writes,
            events: answers.clone(),
            event_prefix: settings.subjects.events.clone(),
            metrics: Arc::clone(&metrics),
            tracker: tasks.tracker.clone(),
        };
        let store = start_store(&settings, context, written, &mut tasks).await?;
        let lease = settings.liveness.lease;
        let hearing = Hearing::new(millis(lease), clock.now().mono_ms);
        let beacons = Beacons::new(internal.clone(), &settings.store.bucket, id, hearing);
        let heard = internal.subscribe(beacons.subject(BEACON)).await?;
        tasks.spawn(beacons.clone().run(store.clone(), heard));

        let subjects = Subjects {
            prefix: settings.subjects.requests(),
            events: settings.subjects.events.clone(),
        };
        let [trusted, own] = heartbeats::lanes(&subjects.prefix);
        let lanes = [internal.subscribe(trusted).await?, internal.subscribe(own).await?];
        let listener = HeartbeatListener::new(store.clone(), beacons.clone(), subjects.clone())?;
        let tap = tasks.watchdog.register("heartbeats");
        tasks.spawn(listener.run(lanes, events, tap));

        tracing::info!(daemon = %id, bucket = settings.store.bucket, "replaying the bucket");
        health.starting(format!("the records of the bucket {}", settings.store.bucket));
        store.replayed.cancelled().await;
        beacons.hearing().trouble(clock.now().mono_ms, "it has just started to listen");

        let expiry = ExpiryTask::new(store.clone(), beacons.clone(), &settings.liveness).await?;
        let tap = tasks.watchdog.register("expiry");
        tasks.spawn(expiry.run(tap));
        tasks.spawn(beacons.clone().announce_if_first(store.clone()));

        let reply_context = Arc::new(ReplyContext {
            outbox: answers.clone(),
            stats: Stats::default(),
            clock,
            metrics: Arc::clone(&metrics),
            max_answer: client.max_payload().saturating_sub(HEADER_BYTES),
        });
        let micro = Micro {
            daemon: id,
            context: Arc::clone(&reply_context),
            subjects: subjects.clone(),
            started: clock.now().wall,
        };
        let inquiries = micro::inquiries(&client, id).await?;
        tasks.spawn(micro.run(inquiries));

        let service = Service::new(store, beacons, &settings);
        let fence_subject = format!("{INTERNAL}.fence.{id}");
        let fences = client.subscribe(fence_subject.clone()).await?;
        let arrival = Arrival::subscribe(&client, id).await?;
        let requests = client
            .queue_subscribe(format!("{}.>", subjects.prefix), QUEUE_GROUP.to_owned())
            .await?;
        let (queue, executor) = executor(service.clone(), subjects.clone());
        let monitor = Monitor {
            service: service.clone(),
            gauge: queue.gauge(),
            health: health.clone(),
            metrics,
        };
        tasks.spawn(monitor.run());
        let executed = tasks.tracker.spawn(executor.run(tasks.watchdog.register("executor")));
        let intake = Intake {
            service: service.clone(),
            context: reply_context,
            client,
            subjects,
            fence_subject,
            queue,
        };
        let no_more = CancellationToken::new();
        let tap = tasks.watchdog.register("intake");
        let taken = intake.run(requests, fences, tap, no_more.clone());
        let Tasks { tracker, stop, watchdog } = tasks;
        let intake = tracker.spawn(async move {
            taken.await;
            let _ = executed.await;
        });
        health.starting("NATS to pass requests on");
        arrival.wait().await;
        // Whoever leaves need not answer.
        tracker.spawn(no_more.clone().run_until_cancelled_owned(watchdog.run(health.clone())));
        health.serving();
        tracing::info!(daemon = %id, "ready");
        Ok(Self { health, service, answers, internal, no_more, intake, stop })
    }
}

fn shape(settings: &Settings) -> Shape {
    Shape {
        replicas: settings.store.replicas,
        in_memory: settings.store.storage == Storage::Memory,
    }
}

/// Waits for the bucket, and makes it if it is missing.
async fn open_bucket(
    settings: &Settings,
    health: &Health,
    client: Client,
) -> Result<Bucket, Error> {
    let timeout = store::patience(settings.limits.request_timeout);
    let bucket = Bucket::new(client, &settings.store.bucket, timeout);
    store::open(&bucket, shape(settings), health).await.map_err(Error::Bucket)?;
    Ok(bucket)
}

/// Starts to follow the bucket, and to write what goes into `context.writes`.
async fn start_store(
    settings: &Settings,
    context: StoreContext,
    outgoing: Outgoing,
    tasks: &mut Tasks,
) -> Result<Store, Error> {
    let max_value = context.bucket.client().max_payload().saturating_sub(HEADER_BYTES);
    let timing = Timing::new(settings.limits.request_timeout, MAX_CONFLICTS, max_value);
    let rules = Arc::new(rules(&settings.limits, &settings.liveness, &settings.users));
    let periods = Periods {
        lease_ms: millis(settings.liveness.lease),
        grace_ms: millis(settings.liveness.offline_grace),
        refresh_ms: millis(settings.liveness.last_active_refresh),
    };
    let store = Store::new(context, &rules, timing, periods);
    store.start(outgoing, shape(settings), tasks.stop.clone(), &mut tasks.watchdog).await?;
    Ok(store)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
