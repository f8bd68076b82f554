//! Daemons introduce themselves to those of all buckets on `presence.internal.v1.introduction`, so
//! that two streams behind one request prefix, or different settings, are found out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::build::Build;
use super::cell::{Cell, Findings, Identity, Introduction, LAYOUT};
use crate::config::{INTERNAL, Settings};
use crate::presence::entity::DaemonId;
use crate::store::Store;

/// The key under which other streams or layouts are reported.
const PROBLEM_KEY: &str = "cell";

/// The interval at which a daemon introduces itself.
const INTRODUCTION_INTERVAL: Duration = Duration::from_secs(1);

/// The introductions of one daemon, and what it makes of others'.
#[derive(Debug)]
pub struct Introductions {
    client: Client,
    store: Store,
    /// Without the stream.
    identity: Identity,
    build: Build,
    cell: Cell,
    findings: Findings,
    /// Whether this daemon takes no requests.
    yields: watch::Sender<bool>,
}

/// The subject of introductions.
pub fn subject() -> String {
    format!("{INTERNAL}.introduction")
}

/// The settings that all daemons of a stream should have, as text.
fn shared_settings(settings: &Settings) -> String {
    let liveness = &settings.liveness;
    let period = humantime::format_duration;
    let mut types = DefaultHasher::new();
    format!("{:?}", settings.channel_types).hash(&mut types);
    format!(
        "lease {}, grace {}, heartbeat {}, refresh {}, channel types {:08x}",
        period(liveness.lease),
        period(liveness.offline_grace),
        period(liveness.heartbeat_interval),
        period(liveness.last_active_refresh),
        types.finish() as u32
    )
}

impl Introductions {
    pub fn new(client: Client, store: Store, settings: &Settings) -> Self {
        let counts = settings.channel_types.values().any(|each| each.occupancy_interval.is_some());
        let identity = Identity {
            layout: LAYOUT,
            requests: settings.subjects.requests(),
            events: settings.subjects.events.clone(),
            counts: counts.then(|| settings.subjects.channel_events.clone()),
            stream: String::new(),
            settings: shared_settings(settings),
        };
        let (cell, findings, yields) =
            (Cell::default(), Findings::default(), watch::Sender::new(false));
        Self { client, store, identity, build: Build::own(), cell, findings, yields }
    }

    /// Returns whether this daemon takes no requests.
    pub fn yields(&self) -> watch::Receiver<bool> {
        self.yields.subscribe()
    }

    /// Runs until the connection ends.
    pub async fn run(mut self, mut introductions: Subscriber) {
        let mut ticks = interval(INTRODUCTION_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = introductions.next() => match message {
                    Some(message) => self.on_introduction(&message.payload),
                    None => return,
                },
                _ = ticks.tick() => {
                    self.introduce().await;
                    self.assess();
                }
            }
        }
    }

    fn on_introduction(&mut self, payload: &[u8]) {
        let Ok(introduction) = serde_json::from_slice::<Introduction>(payload) else { return };
        let Some(daemon) = DaemonId::parse(&introduction.daemon) else { return };
        if daemon != self.store.context.daemon {
            self.cell.on_introduction(daemon, introduction, self.now_ms());
        }
    }

    async fn introduce(&mut self) {
        let context = &self.store.context;
        let Some(created) = context.barrier.followed() else { return };
        self.identity.stream = format!("{} (made {created})", context.bucket.stream());
        let (daemon, now_ms) = (context.daemon.to_string(), context.clock.now().mono_ms);
        // The origin of the monotonic clock is the start of this daemon.
        let introduction = Introduction {
            daemon,
            up_ms: self.cell.group_up_ms(&self.identity, 0, now_ms),
            build: self.build.clone(),
            identity: self.identity.clone(),
        };
        let payload = serde_json::to_vec(&introduction).unwrap_or_default();
        let sent = self.client.publish(subject(), payload.into());
        // One that cannot be sent now is of no use later.
        if timeout(INTRODUCTION_INTERVAL, sent).await.is_err() {
            tracing::debug!("an introduction could not be sent");
        }
    }

    fn assess(&mut self) {
        if self.identity.stream.is_empty() {
            return;
        }
        let now_ms = self.now_ms();
        // The origin of the monotonic clock is the start of this daemon.
        let findings = self.cell.assess(&self.identity, 0, now_ms);
        let before = std::mem::replace(&mut self.findings, findings);
        let health = &self.store.context.health;
        let Findings { yields, conflict, difference } = &self.findings;
        if (yields, conflict) != (&before.yields, &before.conflict) {
            match (yields, conflict) {
                (Some(reason), _) => {
                    tracing::error!("{reason}; it takes no requests until that is mended");
                    health.report(PROBLEM_KEY, reason.to_string());
                }
                (None, Some(reason)) => tracing::error!("{reason}; the others take no requests"),
                (None, None) => tracing::info!("all daemons use one stream again"),
            }
            if yields.is_none() {
                health.clear(PROBLEM_KEY);
            }
            self.yields.send_replace(yields.is_some());
        }
        if difference != &before.difference
            && let Some(difference) = difference
        {
            tracing::warn!("{difference}");
        }
        self.store.context.metrics.set_settings_differ(difference.is_some());
    }

    fn now_ms(&self) -> u64 {
        self.store.context.now().mono_ms
    }
}
