//! Daemons introduce themselves to those of all buckets on `presence.internal.v1.introduction`, so
//! that two streams behind one request prefix, or different settings, are found out.

use std::fmt;
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
    /// The prefix of JetStream's API.
    js_api: String,
    /// Without the stream and its domain.
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
    format!(
        "lease {}, grace {}, heartbeat {}, refresh {}, events {}, users {:08x}, channel types \
         {:08x}",
        period(liveness.lease),
        period(liveness.offline_grace),
        period(liveness.heartbeat_interval),
        period(liveness.last_active_refresh),
        settings.subjects.events,
        fingerprint(&settings.users),
        fingerprint(&settings.channel_types)
    )
}

/// A number that differs where settings do.
fn fingerprint(settings: &impl fmt::Debug) -> u32 {
    let mut hasher = DefaultHasher::new();
    format!("{settings:?}").hash(&mut hasher);
    hasher.finish() as u32
}

/// The domain of JetStream behind a prefix of its API, as far as that is known.
fn domain_of(js_api: &str, of_server: Option<String>) -> Option<String> {
    let named = js_api.strip_prefix("$JS.").and_then(|rest| rest.strip_suffix(".API"));
    if js_api == "$JS.API" { of_server } else { Some(named.unwrap_or(js_api).to_owned()) }
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
            domain: None,
            settings: shared_settings(settings),
        };
        let (cell, findings, yields) =
            (Cell::default(), Findings::default(), watch::Sender::new(false));
        let js_api = settings.nats.js_api.clone();
        Self { client, store, js_api, identity, build: Build::own(), cell, findings, yields }
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
        self.identity.domain = domain_of(&self.js_api, self.client.server_info().domain);
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
