//! Requests to the daemon, as services send them.

use anyhow::Result;
use async_nats::Client;
use serde_json::{Value, json};

use crate::machine::ask;

/// The beginning of a failed operation's part in the answer to a batch.
const ERROR: &[u8] = b"{\"error\":";

/// A status of 26 letters.
const STATUS: &str = "in a meeting until Tuesday";

fn connect_op(user: &str, lease: Option<&str>) -> Value {
    let mut body = json!({
        "user": {"id": user, "status": STATUS},
        "connection_id": "c",
    });
    if let Some(lease) = lease {
        body["lease"] = lease.into();
    }
    body
}

pub async fn connect(nats: &Client, user: &str) -> Result<()> {
    let body = connect_op(user, None).to_string();
    let answer = nats.request("presence.v1.connect", body.into()).await?;
    anyhow::ensure!(answer.payload.starts_with(b"{\"connection_id\":"), "{answer:?}");
    Ok(())
}

/// Connects users in one request, on a shared lease, or each on its own.
pub async fn batch(
    nats: &Client,
    users: impl Iterator<Item = String>,
    lease: Option<&str>,
) -> Result<()> {
    let ops: Vec<_> = users
        .map(|user| {
            let mut op = connect_op(&user, lease);
            op["op"] = "connect".into();
            op
        })
        .collect();
    let body = json!({ "ops": ops }).to_string();
    let answer = nats.request("presence.v1.batch", body.into()).await?;
    let failure = answer.payload.windows(ERROR.len()).position(|part| part == ERROR);
    if let Some(at) = failure {
        let end = answer.payload.len().min(at + 300);
        anyhow::bail!("of a batch: {}", String::from_utf8_lossy(&answer.payload[at..end]));
    }
    Ok(())
}

/// Queries users by their ids, all of which are known.
pub async fn query(nats: &Client, ids: &[String]) -> Result<()> {
    let body = json!({"filter": {"id": {"$in": ids}}, "limit": 100});
    let answer = nats.request("presence.v1.query_users", body.to_string().into()).await?;
    anyhow::ensure!(answer.payload.starts_with(b"{\"users\":[{"), "not found: {answer:?}");
    Ok(())
}

/// The newest `limit` of all users that are online.
pub async fn scan(nats: &Client) -> Result<()> {
    let sort = json!({"last_active": -1});
    let body = json!({"filter": {"online": true}, "sort": sort, "limit": 30});
    ask(nats, "presence.v1.query_users", &body).await.map(|_| ())
}

pub async fn heartbeat_of_lease(nats: &Client, lease: &str) -> Result<()> {
    ask(nats, "presence.v1.heartbeat", &json!({ "lease": lease })).await.map(|_| ())
}
