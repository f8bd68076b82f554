//! Tells all daemons of a disconnect whose connection is not there. Its connect may be under way at
//! another daemon, which then ends the connection at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::internal::Beacons;
use crate::presence::id::Id;
use crate::presence::user::{EarlyDisconnect, Window};
use crate::store::Store;

/// The last token of the subject of these messages.
pub const EARLY_DISCONNECTS: &str = "disconnect";

/// The time that the message may take to leave this daemon.
const SEND_TIMEOUT: Duration = Duration::from_millis(300);

/// The time for which the replica may lag behind a write, in milliseconds.
const FEED_LAG_MS: u64 = 1000;

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
    /// The time for which a connect is ended that arrives from now on, in milliseconds. 0 for a
    /// disconnect that is void, as a connect came later.
    within_ms: u64,
    /// The time from now for which such a connect may appear in the replica, in milliseconds.
    #[serde(default)]
    appears_within_ms: u64,
}

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
    send(beacons, &message).await;
}

/// Tells all daemons that a connect came too late for these disconnects to end it.
pub async fn publish_void(store: &Store, beacons: &Beacons, user: &Id, void: Vec<EarlyDisconnect>) {
    let window = Window { arrives_until_ms: 0, appears_until_ms: 0 };
    for early in void {
        let message = Message::new(store, user, &early, window, 0);
        send(beacons, &message).await;
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

async fn send(beacons: &Beacons, message: &Message) {
    let payload = serde_json::to_vec(message).unwrap_or_default();
    let client = beacons.client();
    let sent = async {
        let published = client.publish(beacons.subject(EARLY_DISCONNECTS), payload.into()).await;
        published.is_ok() && client.flush().await.is_ok()
    };
    if !tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or(false) {
        tracing::debug!("an early disconnect could not be sent to the other daemons");
    }
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
