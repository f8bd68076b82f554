//! Metrics in the format of Prometheus. Modules count where things happen; the daemon serves the
//! page at `metrics.listen`. No id of a user, channel or lease is ever a label.
//!
//! Seconds and bytes are the only units, by convention. Names begin with `presence_`, those of the
//! process with `process_`.

mod names;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hashbrown::HashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::presence::user::Census;
use crate::process::ProcessUsage;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets of a request's duration, in seconds: from an answer out of memory to
/// the default of `limits.request_timeout`.
const DURATION_BUCKETS_SECONDS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The result of a request that was not refused.
const OK: &str = "ok";

/// The kinds of heartbeats.
const CONNECTION: &str = "connection";
const LEASE: &str = "lease";

/// A counter of seconds and parts of them.
type Seconds = Counter<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

/// The metrics updated at each answer of one operation.
#[derive(Debug)]
struct AnsweredOf {
    ok: Counter,
    durations: Histogram,
}

/// The metrics of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<OperationLabel, Histogram, fn() -> Histogram>,
    commits: Family<Kind, Counter>,
    /// Members of these families, which are counted too often to be looked up each time.
    answered_of: HashMap<&'static str, AnsweredOf>,
    commits_of: HashMap<&'static str, Counter>,
    conflicts: Family<Kind, Counter>,
    retries: Family<Kind, Counter>,
    heartbeats: Family<Kind, Counter>,
    /// Members of that family.
    connections_heard: Counter,
    leases_heard: Counter,
    users: Family<State, Gauge>,
    queues: Family<QueueLabel, Gauge>,
    /// Events that were published.
    pub events: Counter,
    /// Users that this daemon deleted as they were not touched for long.
    pub forgotten: Counter,
    /// Announcements of how many members of a channel are online.
    pub occupancy_events: Counter,
    counted_channels: Gauge,
    /// Connections that were ended because their lease had lapsed.
    pub lapses: Counter,
    /// Heartbeat messages that were dropped before they were processed, as far as that is known.
    pub heartbeats_dropped: Counter,
    /// Beacons of other daemons that were received.
    pub beacons: Counter,
    /// Failed daemons whose last changes this daemon announced.
    pub daemon_failures: Counter,
    channels: Gauge,
    daemons: Gauge,
    deaf: Gauge,
    ready: Gauge,
    deaf_seconds: Seconds,
    replica_lag: Gauge<f64, AtomicU64>,
    clock_skew: Gauge<f64, AtomicU64>,
    settings_differ: Gauge,
    resident_bytes: Gauge,
    cpu_seconds: Seconds,
    open_files: Gauge,
}

impl Metrics {
    /// Counters at zero for all `operations` and all `kinds` of records. Each exists from the
    /// start, so that the first event is an increase.
    pub fn new(
        operations: impl IntoIterator<Item = &'static str>,
        kinds: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let heartbeats = Family::default();
        let heard = |kind| heartbeats.get_or_create_owned(&Kind { kind });
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_SECONDS)),
            commits: Family::default(),
            answered_of: HashMap::new(),
            commits_of: HashMap::new(),
            conflicts: Family::default(),
            retries: Family::default(),
            connections_heard: heard(CONNECTION),
            leases_heard: heard(LEASE),
            heartbeats,
            users: Family::default(),
            queues: Family::default(),
            events: Counter::default(),
            forgotten: Counter::default(),
            occupancy_events: Counter::default(),
            counted_channels: Gauge::default(),
            lapses: Counter::default(),
            heartbeats_dropped: Counter::default(),
            beacons: Counter::default(),
            daemon_failures: Counter::default(),
            channels: Gauge::default(),
            daemons: Gauge::default(),
            deaf: Gauge::default(),
            ready: Gauge::default(),
            deaf_seconds: Seconds::default(),
            replica_lag: Gauge::default(),
            clock_skew: Gauge::default(),
            settings_differ: Gauge::default(),
            resident_bytes: Gauge::default(),
            cpu_seconds: Seconds::default(),
            open_files: Gauge::default(),
        };
        metrics.register();
        // Until heartbeats are heard.
        metrics.deaf.set(1);
        for operation in operations {
            let answered = AnsweredOf {
                ok: metrics.requests.get_or_create_owned(&Answered { operation, result: OK }),
                durations: metrics.durations.get_or_create_owned(&OperationLabel { operation }),
            };
            metrics.answered_of.insert(operation, answered);
        }
        for kind in kinds {
            for family in [&metrics.conflicts, &metrics.retries] {
                family.get_or_create_owned(&Kind { kind });
            }
            let commits = metrics.commits.get_or_create_owned(&Kind { kind });
            metrics.commits_of.insert(kind, commits);
        }
        metrics
    }

    /// Sets the metrics of the process.
    fn set_process(&self, usage: ProcessUsage) {
        if let Some(bytes) = usage.resident_bytes {
            self.resident_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(seconds) = usage.cpu_seconds {
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
        if let Some(files) = usage.open_files {
            self.open_files.set(i64::try_from(files).unwrap_or(i64::MAX));
        }
    }

    /// Counts an answer; `error` is the code of its error.
    pub fn answered(&self, operation: &'static str, error: Option<&'static str>, took: Duration) {
        let Some(of) = self.answered_of.get(operation) else { return };
        match error {
            None => of.ok.inc(),
            Some(result) => self.requests.get_or_create(&Answered { operation, result }).inc(),
        };
        of.durations.observe(took.as_secs_f64());
    }

    /// Counts a stored write.
    pub fn committed(&self, kind: &'static str) {
        if let Some(commits) = self.commits_of.get(kind) {
            commits.inc();
        }
    }

    /// Counts a write that lost to another daemon's.
    pub fn conflicted(&self, kind: &'static str) {
        self.conflicts.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a write that is tried again.
    pub fn retried(&self, kind: &'static str) {
        self.retries.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a message with `count` heartbeats.
    pub fn heard_connections(&self, count: usize) {
        self.connections_heard.inc_by(count as u64);
    }

    /// Counts a heartbeat of a shared lease.
    pub fn heard_lease(&self) {
        self.leases_heard.inc();
    }

    /// Sets the numbers of records, as others see them.
    pub fn set_census(&self, census: &Census, channels: usize) {
        for (state, users) in [
            ("known", census.known),
            ("online", census.online()),
            ("active", census.active),
            ("away", census.away),
            ("busy", census.busy),
        ] {
            self.users.get_or_create(&State { state }).set(count(users));
        }
        self.channels.set(count(channels));
    }

    /// Sets the number of channels whose members online are counted.
    pub fn set_counted_channels(&self, channels: usize) {
        self.counted_channels.set(count(channels));
    }

    /// Sets the length of a queue.
    pub fn set_queue(&self, queue: &'static str, depth: usize) {
        self.queues.get_or_create(&QueueLabel { queue }).set(count(depth));
    }

    /// Sets the number of daemons that are alive, this one included.
    pub fn set_daemons(&self, alive: usize) {
        self.daemons.set(count(alive));
    }

    /// Sets whether the daemon is deaf; `since_last` is the time since the last call.
    pub fn set_deaf(&self, deaf: bool, since_last: Duration) {
        self.deaf.set(deaf.into());
        if deaf {
            self.deaf_seconds.inc_by(since_last.as_secs_f64());
        }
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    pub fn set_replica_lag(&self, lag: Duration) {
        self.replica_lag.set(lag.as_secs_f64());
    }

    pub fn set_settings_differ(&self, differ: bool) {
        self.settings_differ.set(differ.into());
    }

    pub fn set_clock_skew(&self, off: Duration, is_behind: bool) {
        let seconds = off.as_secs_f64();
        self.clock_skew.set(if is_behind { -seconds } else { seconds });
    }

    /// The state of the daemon in the answer to `$SRV.STATS`: nothing that invisible users move.
    pub fn summary(&self) -> Value {
        let users = |state| self.users.get_or_create(&State { state }).get();
        json!({
            "deaf": self.deaf.get() == 1,
            "lag_ms": Duration::from_secs_f64(self.replica_lag.get()).as_millis() as u64,
            "daemons": self.daemons.get(),
            "users": { "known": users("known"), "online": users("online") },
            "channels": self.channels.get(),
        })
    }

    /// The page.
    pub fn text(&self) -> String {
        self.set_process(ProcessUsage::read());
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
