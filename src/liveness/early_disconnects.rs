//! Tells all daemons of disconnects that may have overtaken a connect: another daemon may carry it
//! out, and then ends the connection at once.
//!
//! One that finds no connection is published before its answer, as the connect is likely to be
//! under way. One that ends a connection is followed by a connect only if that was repeated; those
//! are collected, and one message names many.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::internal::Beacons;
use crate::presence::id::Id;
use crate::presence::user::{EarlyDisconnect, Window};
use crate::store::Store;

/// The last token of the subject of a single disconnect.
pub const EARLY_DISCONNECT: &str = "disconnect";

/// The last token of the subject of collected disconnects.
pub const EARLY_DISCONNECTS: &str = "disconnects";

/// How long the message may take to leave this daemon.
const SEND_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the replica may lag behind a write, in milliseconds.
const FEED_LAG_MS: u64 = 1000;

/// The most disconnects that are collected between two messages; more are not published.
const MAX_COLLECTED: usize = 20_000;

/// The most disconnects that a message names.
const MAX_PER_MESSAGE: usize = 500;

/// The largest disconnect in a message: three ids with each byte escaped, and its numbers.
const MAX_BYTES_EACH: usize = 3 * 255 * 6 + 256;

/// A disconnect that a connect may follow.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// The daemon that carried it out, which remembers it already; older daemons do not tell.
    #[serde(default)]
    daemon: String,
    user: String,
    connection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace_ms: Option<u64>,
    /// How long a connect is ended that arrives from now on, in milliseconds. 0 for a disconnect
    /// that is void, as a connect came later.
    within_ms: u64,
    /// How long from now on such a connect may appear in the replica, in milliseconds.
    #[serde(default)]
    appears_within_ms: u64,
}

/// A disconnect that waits for the next message.
#[derive(Debug)]
struct Collected {
    user: Id,
    early: EarlyDisconnect,
    window: Window,
}

/// The disconnects for the next message. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Collected>>>);

/// The window of a disconnect that arrived at `arrived_ms`: a connect that arrives within the
/// timeout is executed within another.
pub fn window(arrived_ms: u64, timeout_ms: u64) -> Window {
    let arrives_until_ms = arrived_ms.saturating_add(timeout_ms);
    let appears_until_ms = arrives_until_ms.saturating_add(timeout_ms + FEED_LAG_MS);
    Window { arrives_until_ms, appears_until_ms }
}

/// Remembers a disconnect that found no connection, and tells all daemons of it before it is
/// answered.
pub async fn publish(
    store: &Store,
    beacons: &Beacons,
    user: &Id,
    early: EarlyDisconnect,
    window: Window,
) {
    let now_ms = store.context.now().mono_ms;
    let message = Message::new(store, user, &early, window, now_ms);
    remember(store, user, early, window, now_ms);
    send(beacons, EARLY_DISCONNECT, &message).await;
}

/// Remembers a disconnect that ended its connection, and tells all daemons of it with the next
/// message.
pub fn collect(store: &Store, beacons: &Beacons, user: Id, early: EarlyDisconnect, window: Window) {
    remember(store, &user, early.clone(), window, store.context.now().mono_ms);
    beacons.collector().push(Collected { user, early, window });
}

/// Tells all daemons that a connect came too late for these disconnects to end it.
pub async fn publish_void(store: &Store, beacons: &Beacons, user: &Id, void: Vec<EarlyDisconnect>) {
    let window = Window { arrives_until_ms: 0, appears_until_ms: 0 };
    for early in void {
        let message = Message::new(store, user, &early, window, 0);
        send(beacons, EARLY_DISCONNECT, &message).await;
    }
}

/// Publishes what was collected.
pub async fn publish_collected(store: &Store, beacons: &Beacons) {
    let collected = beacons.collector().take();
    let now_ms = store.context.now().mono_ms;
    let fitting = store.context.payload_limit.body() / MAX_BYTES_EACH;
    for chunk in collected.chunks(fitting.clamp(1, MAX_PER_MESSAGE)) {
        let of_each =
            |each: &Collected| Message::new(store, &each.user, &each.early, each.window, now_ms);
        let messages: Vec<_> = chunk.iter().map(of_each).collect();
        if !send(beacons, EARLY_DISCONNECTS, &messages).await {
            return;
        }
    }
}

/// Takes what another daemon published.
pub fn on_message(store: &Store, message: &Message) {
    if message.daemon == store.context.daemon.to_string() {
        return;
    }
    let parse = |text: &str| Id::parse(text, "id").ok();
    let (Some(user), Some(connection)) = (parse(&message.user), parse(&message.connection)) else {
        return;
    };
    let lease = message.lease.as_deref().and_then(parse);
    let early = EarlyDisconnect { connection, lease, grace_ms: message.grace_ms };
    if message.within_ms == 0 && message.appears_within_ms == 0 {
        store.users.with_index(&user, |index| index.early_disconnects.remove(&user, &early));
        return;
    }
    let now_ms = store.context.now().mono_ms;
    let window = Window {
        arrives_until_ms: now_ms.saturating_add(message.within_ms),
        appears_until_ms: now_ms.saturating_add(message.appears_within_ms),
    };
    remember(store, &user, early, window, now_ms);
}

impl Message {
    fn new(store: &Store, user: &Id, early: &EarlyDisconnect, window: Window, now_ms: u64) -> Self {
        let text = |id: &Id| id.as_str().to_owned();
        Self {
            daemon: store.context.daemon.to_string(),
            user: text(user),
            connection: text(&early.connection),
            lease: early.lease.as_ref().map(text),
            grace_ms: early.grace_ms,
            within_ms: window.arrives_until_ms.saturating_sub(now_ms),
            appears_within_ms: window.appears_until_ms.saturating_sub(now_ms),
        }
    }
}

impl Collector {
    fn push(&self, collected: Collected) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_COLLECTED {
            all.push(collected);
        }
    }

    fn take(&self) -> Vec<Collected> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns whether the message was sent.
async fn send(beacons: &Beacons, topic: &str, message: &impl Serialize) -> bool {
    let payload = serde_json::to_vec(message).unwrap_or_default();
    let client = beacons.client();
    let sent = async {
        let published = client.publish(beacons.subject(topic), payload.into()).await;
        published.is_ok() && client.flush().await.is_ok()
    };
    let is_sent = tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or(false);
    if !is_sent {
        tracing::debug!("an early disconnect could not be sent to the other daemons");
    }
    is_sent
}

fn remember(store: &Store, user: &Id, early: EarlyDisconnect, window: Window, now_ms: u64) {
    store.users.for_stripe_of(user, |stripe| {
        let record = stripe.record(user);
        let ends = &mut stripe.index_mut().early_disconnects;
        ends.insert(user, early, window, now_ms);
        // The connect may have overtaken this message.
        ends.observe(user, record.as_deref(), now_ms);
    });
}
