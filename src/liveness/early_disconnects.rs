//! Tells all daemons of a disconnect whose connection is not there: its connect may be under way
//! at another daemon, which then ends the connection at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::internal::Beacons;
use crate::presence::id::Id;
use crate::presence::user::{EarlyDisconnect, Window};
use crate::store::Store;

/// The last token of the subject of these messages.
pub const EARLY_DISCONNECTS: &str = "disconnect";

/// How long the message may take to leave this daemon.
const SEND_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the replica may lag behind a write, in milliseconds.
const FEED_LAG_MS: u64 = 1000;

/// A disconnect whose connection is not there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    user: String,
    connection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace_ms: Option<u64>,
    /// How long a connect is ended that arrives from now on, in milliseconds.
    within_ms: u64,
    /// How long from now on such a connect may appear in the replica, in milliseconds.
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

/// Remembers the disconnect, and tells all daemons of it before the disconnect is answered.
pub async fn publish(
    store: &Store,
    beacons: &Beacons,
    user: &Id,
    early: EarlyDisconnect,
    window: Window,
) {
    let now_ms = store.context.now().mono_ms;
    let text = |id: &Id| id.as_str().to_owned();
    let message = Message {
        user: text(user),
        connection: text(&early.connection),
        lease: early.lease.as_ref().map(text),
        grace_ms: early.grace_ms,
        within_ms: window.arrives_until_ms.saturating_sub(now_ms),
        appears_within_ms: window.appears_until_ms.saturating_sub(now_ms),
    };
    remember(store, user, early, window, now_ms);
    let payload = serde_json::to_vec(&message).unwrap_or_default();
    let client = beacons.client();
    let sent = async {
        let published = client.publish(beacons.subject(EARLY_DISCONNECTS), payload.into()).await;
        published.is_ok() && client.flush().await.is_ok()
    };
    if !tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or(false) {
        tracing::debug!("an early disconnect could not be sent to the other daemons");
    }
}

/// Takes what another daemon, or this one, published.
pub fn on_message(store: &Store, message: &Message) {
    let parse = |text: &str| Id::parse(text, "id").ok();
    let (Some(user), Some(connection)) = (parse(&message.user), parse(&message.connection)) else {
        return;
    };
    let lease = message.lease.as_deref().and_then(parse);
    let early = EarlyDisconnect { connection, lease, grace_ms: message.grace_ms };
    let now_ms = store.context.now().mono_ms;
    let window = Window {
        arrives_until_ms: now_ms.saturating_add(message.within_ms),
        appears_until_ms: now_ms.saturating_add(message.appears_within_ms),
    };
    remember(store, &user, early, window, now_ms);
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
