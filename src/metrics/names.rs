//! The names of the metrics, and what they mean.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use crate::version::{COMMIT, VERSION};

impl Metrics {
    /// Names and describes the metrics. The name of a counter gets the suffix `_total`.
    pub(super) fn register(&mut self) {
        let mut registry = std::mem::take(&mut self.registry);
        self.register_process(registry.sub_registry_with_prefix("process"));
        let presence = registry.sub_registry_with_prefix("presence");
        self.register_build(presence);
        self.register_requests(presence);
        self.register_population(presence);
        self.register_store(presence);
        self.register_liveness(presence);
        self.register_health(presence);
        self.registry = registry;
    }

    /// The build, and whether it serves.
    fn register_build(&self, to: &mut Registry) {
        let build = vec![("version", VERSION), ("commit", COMMIT)];
        to.register("build", "The version and the commit of the daemon", Info::new(build));
        to.register("ready", "1 while the daemon serves without a problem", self.ready.clone());
    }

    /// Requests and their answers.
    fn register_requests(&self, to: &mut Registry) {
        to.register(
            "requests",
            "Requests answered, by operation and result: ok, or the code of the error",
            self.requests.clone(),
        );
        to.register_with_unit(
            "request_duration",
            "From taking a request in to its answer",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    /// Users and channels, and what is announced of them.
    fn register_population(&self, to: &mut Registry) {
        to.register(
            "users",
            "Users of the cell as others see them: known (all), online, and of these active, away, \
             busy",
            self.users.clone(),
        );
        to.register("channels", "Channels of the cell", self.channels.clone());
        to.register("events", "Presence events published", self.events.clone());
        to.register(
            "forgotten_users",
            "Users deleted because they were offline and not touched for users.forget_after",
            self.forgotten.clone(),
        );
        to.register(
            "occupancy_events",
            "Announcements of how many members of a channel are online",
            self.occupancy_events.clone(),
        );
        to.register(
            "counted_channels",
            "Channels whose members online are counted for announcements",
            self.counted_channels.clone(),
        );
    }

    /// Writes to the bucket.
    fn register_store(&self, to: &mut Registry) {
        to.register(
            "commits",
            "Writes that JetStream stored, by kind of record",
            self.commits.clone(),
        );
        to.register(
            "conflicts",
            "Writes that lost to another daemon's write, by kind of record",
            self.conflicts.clone(),
        );
        to.register(
            "retries",
            "Writes that JetStream did not take and that were tried again, by kind of record",
            self.retries.clone(),
        );
    }

    /// Signs of life, of connections and of daemons.
    fn register_liveness(&self, to: &mut Registry) {
        to.register(
            "heartbeats",
            "Heartbeats received: of connections, one by one or in lists, and of shared leases",
            self.heartbeats.clone(),
        );
        to.register(
            "heartbeats_dropped",
            "Heartbeat messages dropped because they came faster than they could be processed; a \
             lower bound",
            self.heartbeats_dropped.clone(),
        );
        to.register(
            "lapses",
            "Connections ended because their lease had lapsed",
            self.lapses.clone(),
        );
        to.register("beacons", "Beacons of other daemons received", self.beacons.clone());
        to.register(
            "daemon_failures",
            "Daemons that failed and whose last changes this one announced",
            self.daemon_failures.clone(),
        );
        to.register(
            "daemons",
            "Daemons of the cell that are alive, this one too",
            self.daemons.clone(),
        );
        to.register(
            "deaf",
            "1 while the daemon may have missed heartbeats and ends no lease",
            self.deaf.clone(),
        );
        to.register_with_unit(
            "deaf",
            "Total time for which the daemon was deaf",
            Unit::Seconds,
            self.deaf_seconds.clone(),
        );
    }

    /// What a daemon may suffer from.
    fn register_health(&self, to: &mut Registry) {
        to.register_with_unit(
            "replica_lag",
            "How long the replica took, or has been taking, to show all that was stored",
            Unit::Seconds,
            self.replica_lag.clone(),
        );
        to.register(
            "settings_differ",
            "Whether settings differ in the bucket, or another cell announces the same counts",
            self.settings_differ.clone(),
        );
        to.register_with_unit(
            "clock_skew",
            "How far the clock of this machine is ahead of JetStream's; negative if it is behind",
            Unit::Seconds,
            self.clock_skew.clone(),
        );
        to.register(
            "queue_depth",
            "Length of each queue: requests to execute, requests to answer, keys to write, queries \
             to scan",
            self.queues.clone(),
        );
    }

    /// The names are those of Prometheus' own client libraries.
    fn register_process(&self, to: &mut Registry) {
        to.register_with_unit(
            "resident_memory",
            "Memory of the process that is in RAM",
            Unit::Bytes,
            self.resident_bytes.clone(),
        );
        to.register_with_unit(
            "cpu",
            "User and system time of the process",
            Unit::Seconds,
            self.cpu_seconds.clone(),
        );
        to.register(
            "open_fds",
            "Files and sockets that the process has open",
            self.open_files.clone(),
        );
    }
}
