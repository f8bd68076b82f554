//! Beacons between the daemons of a cell, on `presence.internal.v1.<bucket>.beacon`: I am here; I
//! leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::hearing::Hearing;
use super::peers::{BEACON_MS, PeerStatus, Peers};
use crate::config::INTERNAL;
use crate::presence::entity::DaemonId;
use crate::store::Store;

/// What the subject of the beacons ends in.
pub const BEACON: &str = "beacon";

/// How far before its last beacon a dead daemon's changes are announced again, in milliseconds.
const BEFORE_LAST_BEACON_MS: u64 = 2000;

/// How long a daemon that starts listens for others before it takes itself for the first.
const SETTLE_DELAY: Duration = Duration::from_millis(2500);

#[derive(Debug, Serialize, Deserialize)]
struct Beacon {
    daemon: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deaf: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    starting: bool,
}

/// The beacons of this daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Beacons {
    client: Client,
    /// What the daemons of this cell say to each other lies under it, out of the hearing of others.
    prefix: String,
    daemon: DaemonId,
    peers: Arc<Mutex<Peers>>,
    hearing: Arc<Mutex<Hearing>>,
    settled: Arc<AtomicBool>,
}

impl Beacons {
    /// The beacons of a daemon that keeps its records in `bucket`.
    pub fn new(client: Client, bucket: &str, daemon: DaemonId, hearing: Hearing) -> Self {
        Self {
            client,
            prefix: format!("{INTERNAL}.{bucket}"),
            daemon,
            peers: Arc::new(Mutex::new(Peers::new(daemon))),
            hearing: Arc::new(Mutex::new(hearing)),
            settled: Arc::default(),
        }
    }

    /// Whether this daemon hears.
    pub fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The subject of what the daemons of this cell say to each other about something.
    pub fn subject(&self, about: &str) -> String {
        format!("{}.{about}", self.prefix)
    }

    /// The connection on which the daemons talk among themselves.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The daemons that are alive.
    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the beacons of others, sends its own, and announces again what a dead daemon may have
    /// left unsaid. Ends only with the connection.
    pub async fn run(self, store: Store, mut beacons: Subscriber) {
        let mut beat = tokio::time::interval(Duration::from_millis(BEACON_MS));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_look_ms = 0;
        loop {
            tokio::select! {
                beacon = beacons.next() => match beacon {
                    Some(message) => {
                        let now_ms = store.context.clock.now().mono_ms;
                        if self.hear(&store, &message.payload, now_ms) {
                            self.beat(now_ms).await;
                        }
                    }
                    None => return,
                },
                _ = beat.tick() => {
                    let now_ms = store.context.clock.now().mono_ms;
                    self.beat(now_ms).await;
                    self.detect_failures(&store, last_look_ms);
                    last_look_ms = now_ms;
                }
            }
        }
    }

    /// Announces that this daemon leaves.
    pub async fn leave(&self) {
        self.send(true, false).await;
    }

    /// Announces again the newest changes of the bucket, if no other daemon was there to do so
    /// when this one started.
    pub async fn announce_if_first(self, store: Store) {
        store.replayed.cancelled().await;
        tokio::time::sleep(SETTLE_DELAY).await;
        self.settled.store(true, Ordering::Relaxed);
        // Those who start at the same time do not know either: better twice than not at all.
        if !self.peers().has_settled() {
            let users = store.users.announce_newest(|daemon| self.peers().is_alive(daemon));
            tracing::debug!(users, "announced the newest changes once more");
        }
    }

    /// Hears a beacon. Returns whether its daemon was not known before.
    fn hear(&self, store: &Store, payload: &[u8], now_ms: u64) -> bool {
        let Ok(beacon) = serde_json::from_slice::<Beacon>(payload) else { return false };
        let Some(daemon) = DaemonId::parse(&beacon.daemon) else { return false };
        if beacon.leaving {
            self.peers().on_leave(daemon);
            return false;
        }
        if daemon != self.daemon {
            store.context.metrics.beacons.inc();
        }
        let status = PeerStatus { deaf: beacon.deaf, starting: beacon.starting };
        self.peers().on_beacon(daemon, status, now_ms)
    }

    async fn beat(&self, now_ms: u64) {
        let deaf = self.hearing().deaf(now_ms).is_some();
        self.send(false, deaf).await;
    }

    fn detect_failures(&self, store: &Store, last_look_ms: u64) {
        let failed_and_mine = self.peers().failed_and_mine();
        for daemon in failed_and_mine {
            store.users.announce_for(daemon, last_look_ms);
        }
        let (now_ms, cut_off) = (store.context.clock.now().mono_ms, self.hearing().is_cut_off());
        let failed = {
            let mut peers = self.peers();
            if cut_off {
                peers.cut_off(now_ms);
            }
            peers.detect_failures(now_ms)
        };
        for failure in failed {
            let since_ms = failure.last_heard_ms.saturating_sub(BEFORE_LAST_BEACON_MS);
            let users = store.users.announce_for(failure.daemon, since_ms);
            tracing::info!(daemon = %failure.daemon, users, "a daemon is gone; announced its last changes");
        }
    }

    async fn send(&self, leaving: bool, deaf: bool) {
        let starting = !self.settled.load(Ordering::Relaxed);
        let beacon = Beacon { daemon: self.daemon.to_string(), leaving, deaf, starting };
        let payload = serde_json::to_vec(&beacon).unwrap_or_default();
        let sent = self.client.publish(self.subject(BEACON), payload.into());
        // A beacon that cannot leave now is worth nothing later.
        if tokio::time::timeout(Duration::from_millis(BEACON_MS), sent).await.is_err() {
            tracing::debug!("a beacon could not be sent");
        }
    }
}
