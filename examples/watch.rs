use std::collections::HashMap;

use futures_util::{StreamExt, stream::select_all};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let client = async_nats::connect(url).await?;

    // 1. Subscribe. These ids are their own subject tokens; others are escaped (docs/protocol.md).
    let mut subscriptions = Vec::new();
    for user in ["john", "jack"] {
        subscriptions.push(client.subscribe(format!("user.presence.changed.{user}")).await?);
    }
    let mut events = select_all(subscriptions);

    // 2. Query.
    let query = json!({"filter": {"id": {"$in": ["john", "jack"]}}, "presence": true});
    let answer = client.request("presence.v1.query_users", query.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    anyhow::ensure!(answer.get("error").is_none(), "{}", answer["error"]);
    let mut known: HashMap<String, Value> = HashMap::new();
    for user in answer["users"].as_array().into_iter().flatten() {
        known.insert(user["id"].as_str().unwrap_or_default().to_owned(), user.clone());
    }
    println!("{known:#?}");

    // 3. Follow, and drop what is not newer.
    while let Some(event) = events.next().await {
        let event: Value = serde_json::from_slice(&event.payload)?;
        let user = &event["user"];
        let id = user["id"].as_str().unwrap_or_default();
        let have = known.get(id).and_then(|user| user["version"].as_u64()).unwrap_or(0);
        if user["version"].as_u64() > Some(have) {
            println!("{id}: online {}, status {}", user["online"], user["status"]);
            known.insert(id.to_owned(), user.clone());
        }
    }
    Ok(())
}
