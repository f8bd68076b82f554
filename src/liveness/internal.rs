//! The beacons between the daemons of a cell, on `presence.internal.v1.<bucket>.beacon`: a daemon
//! is alive, or leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::build::Build;
use super::hearing::Hearing;
use super::peers::{BEACON_MS, FailedPeer, LivenessSettings, PeerStatus, Peers};
use crate::config::INTERNAL;
use crate::presence::entity::DaemonId;
use crate::presence::lease_terms::DEFAULT_LEASE_MS;
use crate::store::Store;

/// The last token of the beacons' subject.
pub const BEACON: &str = "beacon";

/// The changes of a failed daemon from this long before its last beacon are announced again, in
/// milliseconds.
const BEFORE_LAST_BEACON_MS: u64 = 2000;

/// The time for which a daemon that starts listens for others before it counts as the first.
const SETTLE_DELAY: Duration = Duration::from_millis(2500);

#[derive(Debug, Serialize, Deserialize)]
struct Beacon {
    daemon: String,
    #[serde(flatten)]
    build: Build,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deaf: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    starting: bool,
    /// Absent from daemons of older versions, as is the lease.
    #[serde(default)]
    grace_ms: u64,
    lease_ms: Option<u64>,
}

/// The beacons of this daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Beacons {
    client: Client,
    /// The prefix of all subjects between the daemons of this cell.
    prefix: String,
    daemon: DaemonId,
    build: Arc<Build>,
    settings: LivenessSettings,
    /// Those of the other daemons.
    builds: Arc<Mutex<HashMap<DaemonId, Build>>>,
    peers: Arc<Mutex<Peers>>,
    hearing: Arc<Mutex<Hearing>>,
    /// The time at which it began to listen for others.
    since: tokio::time::Instant,
    settled: Arc<AtomicBool>,
    /// No other daemon was there when this one started.
    first: Arc<AtomicBool>,
}

impl Beacons {
    /// The beacons of a daemon that keeps its records in `bucket`.
    pub fn new(
        client: Client,
        bucket: &str,
        daemon: DaemonId,
        settings: LivenessSettings,
        hearing: Hearing,
    ) -> Self {
        Self {
            build: Arc::new(Build::own()),
            settings,
            builds: Arc::default(),
            client,
            prefix: format!("{INTERNAL}.{bucket}"),
            daemon,
            peers: Arc::new(Mutex::new(Peers::new(daemon))),
            hearing: Arc::new(Mutex::new(hearing)),
            since: tokio::time::Instant::now(),
            settled: Arc::default(),
            first: Arc::default(),
        }
    }

    /// The hearing of this daemon.
    pub fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subject between the daemons of this cell.
    pub fn subject(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }

    /// The connection for messages between daemons.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The other daemons.
    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives and sends beacons, and repeats the announcements that a failed daemon may not have
    /// made. Ends only with the connection.
    pub async fn run(self, store: Store, mut beacons: Subscriber) {
        let mut ticks = tokio::time::interval(Duration::from_millis(BEACON_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_check_ms = 0;
        loop {
            tokio::select! {
                beacon = beacons.next() => match beacon {
                    Some(message) => {
                        let now_ms = store.context.now().mono_ms;
                        if self.on_beacon(&store, &message.payload, now_ms) {
                            self.send_beacon(now_ms).await;
                        }
                    }
                    None => return,
                },
                _ = ticks.tick() => {
                    let now_ms = store.context.now().mono_ms;
                    self.send_beacon(now_ms).await;
                    self.detect_failures(&store, last_check_ms);
                    last_check_ms = now_ms;
                }
            }
        }
    }

    /// Sends the last beacon: this daemon leaves.
    pub async fn leave(&self) {
        self.send(true, false).await;
    }

    /// Announces the newest changes of the bucket again, if no other daemon was there to do so when
    /// this one started.
    pub async fn announce_if_first(self, store: Store) {
        store.replayed.cancelled().await;
        tokio::time::sleep(SETTLE_DELAY).await;
        // Daemons that start at the same time do not know either; a repeated event is harmless.
        let is_first = !self.peers().has_settled();
        self.first.store(is_first, Ordering::Relaxed);
        self.settled.store(true, Ordering::Release);
        if is_first {
            let users = store.users.announce_newest(|daemon| self.peers().is_alive(daemon));
            tracing::debug!(users, "announced the newest changes once more");
        }
    }

    /// The settings of this daemon.
    pub fn settings(&self) -> LivenessSettings {
        self.settings
    }

    /// Waits until every other daemon that is alive has been heard.
    pub async fn listened(&self) {
        tokio::time::sleep_until(self.since + SETTLE_DELAY).await;
    }

    /// The longest settings of the daemons that are alive.
    pub fn longest(&self) -> LivenessSettings {
        self.settings.max(self.peers().longest())
    }

    /// Returns whether this daemon has been there for a while.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Returns whether no other daemon was there when this one started. Known once it is settled.
    pub fn is_first(&self) -> bool {
        self.first.load(Ordering::Relaxed)
    }

    /// Records a beacon. Returns whether its daemon is new.
    fn on_beacon(&self, store: &Store, payload: &[u8], now_ms: u64) -> bool {
        let Ok(beacon) = serde_json::from_slice::<Beacon>(payload) else { return false };
        let Some(daemon) = DaemonId::parse(&beacon.daemon) else { return false };
        if beacon.leaving {
            let Build { host, version } = self.builds().remove(&daemon).unwrap_or(beacon.build);
            if daemon != self.daemon {
                tracing::info!(%daemon, host, version, "another daemon leaves");
            }
            self.peers().on_leave(daemon);
            return false;
        }
        if daemon != self.daemon {
            store.context.metrics.beacons.inc();
        }
        let Beacon { deaf, starting, grace_ms, lease_ms, .. } = beacon;
        // A daemon that does not tell may tell its clients any lease that was in use.
        let lease_ms = lease_ms.unwrap_or_else(|| {
            let longest_ms = store.context.told_lease.times(store.context.clock.now()).longest_ms;
            longest_ms.max(self.settings.lease_ms).max(DEFAULT_LEASE_MS)
        });
        let settings = LivenessSettings { lease_ms, grace_ms };
        let status = PeerStatus { deaf, starting, settings };
        let is_new = self.peers().on_beacon(daemon, status, now_ms);
        if is_new {
            let Build { host, version } = &beacon.build;
            tracing::info!(%daemon, host, version, "another daemon is there");
            if settings != self.settings {
                tracing::warn!(
                    %daemon,
                    host,
                    version,
                    lease_ms,
                    grace_ms,
                    own_lease_ms = self.settings.lease_ms,
                    own_grace_ms = self.settings.grace_ms,
                    "another daemon has another liveness.offline_grace or lease; the longest counts"
                );
            }
            self.builds().insert(daemon, beacon.build);
        }
        is_new
    }

    fn builds(&self) -> MutexGuard<'_, HashMap<DaemonId, Build>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_beacon(&self, now_ms: u64) {
        let deaf = self.hearing().deaf(now_ms).is_some();
        self.send(false, deaf).await;
    }

    fn detect_failures(&self, store: &Store, last_check_ms: u64) {
        let failed_and_mine = self.peers().failed_and_mine();
        for daemon in failed_and_mine {
            store.users.announce_for(daemon, last_check_ms);
        }
        let now_ms = store.context.now().mono_ms;
        let is_cut_off = self.hearing().is_cut_off();
        let failed = {
            let mut peers = self.peers();
            if is_cut_off {
                peers.on_cut_off(now_ms);
            }
            peers.detect_failures(now_ms)
        };
        for FailedPeer { daemon, last_heard_ms, .. } in failed {
            let since_ms = last_heard_ms.saturating_sub(BEFORE_LAST_BEACON_MS);
            let users = store.users.announce_for(daemon, since_ms);
            store.context.metrics.daemon_failures.inc();
            let Build { host, version } = self.builds().remove(&daemon).unwrap_or_default();
            tracing::info!(
                %daemon,
                host,
                version,
                users,
                "a daemon is gone; announced its last changes"
            );
        }
    }

    async fn send(&self, leaving: bool, deaf: bool) {
        let starting = !self.is_settled();
        let (daemon, build) = (self.daemon.to_string(), Build::clone(&self.build));
        let LivenessSettings { lease_ms, grace_ms } = self.settings;
        let lease_ms = Some(lease_ms);
        let beacon = Beacon { daemon, build, leaving, deaf, starting, grace_ms, lease_ms };
        let payload = serde_json::to_vec(&beacon).unwrap_or_default();
        let sent = self.client.publish(self.subject(BEACON), payload.into());
        // A beacon that cannot be sent now is of no use later.
        if tokio::time::timeout(Duration::from_millis(BEACON_MS), sent).await.is_err() {
            tracing::debug!("a beacon could not be sent");
        }
    }
}
