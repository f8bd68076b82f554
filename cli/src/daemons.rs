//! The daemons of a prefix, and what each says of itself: `$SRV.STATS.presence`.

use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;
use crate::session::Session;

const INQUIRY: &str = "$SRV.STATS.presence";
/// After the last answer, another one is waited for so long.
const QUIET_PERIOD: Duration = Duration::from_millis(300);

/// Asks all daemons; those of other prefixes are left out.
pub async fn find(session: &Session) -> Result<Vec<Value>, Failure> {
    let closed = |_| Failure::Unreachable("the connection to NATS is closed".to_owned());
    let inbox = session.nats.new_inbox();
    let mut answers = session.nats.subscribe(inbox.clone()).await.map_err(closed)?;
    let asked = session.nats.publish_with_reply(INQUIRY, inbox, "".into()).await;
    asked.map_err(|_| Failure::Unreachable("the connection to NATS is closed".to_owned()))?;
    let mut until = Instant::now() + session.timeout;
    let mut daemons = Vec::new();
    let mut answered = false;
    while let Ok(Some(message)) = timeout_at(until, answers.next()).await {
        answered = true;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            break;
        }
        if let Ok(stats) = serde_json::from_slice(&message.payload) {
            daemons.extend(daemon(&stats, &session.prefix));
        }
        until = until.min(Instant::now() + QUIET_PERIOD);
    }
    if !answered {
        if let Some(subject) = session.refused(INQUIRY) {
            return Err(Failure::Permission(subject));
        }
        return Err(Failure::Unreachable(format!("no answer from {INQUIRY}")));
    }
    daemons.sort_by_key(|daemon| daemon["id"].to_string());
    Ok(daemons)
}

/// The statistics of one daemon; `None` if it does not serve this prefix.
fn daemon(stats: &Value, prefix: &str) -> Option<Value> {
    let endpoints = stats["endpoints"].as_array()?;
    let subject = endpoints.first()?["subject"].as_str()?;
    if !subject.strip_prefix(prefix)?.starts_with(".v1.") {
        return None;
    }
    let total =
        |name: &str| -> u64 { endpoints.iter().filter_map(|each| each[name].as_u64()).sum() };
    let mut daemon = json!({
        "id": stats["id"],
        "version": stats["version"],
        "host": stats["metadata"]["host"],
        "started": stats["started"],
        "requests": total("num_requests"),
        "errors": total("num_errors"),
    });
    // A value that older builds do not report is absent.
    for (name, value) in stats["data"].as_object().into_iter().flatten() {
        daemon[name] = value.clone();
    }
    Some(daemon)
}

/// Nobody serves.
pub fn none(session: &Session) -> Failure {
    Failure::NoDaemon(format!("{}.v1", session.prefix))
}
