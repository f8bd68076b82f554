//! John watches the channel of a conversation, and whom of a crowd one can watch.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::stage::{Stage, expect};

/// The channels' part of the story.
pub async fn channels(stage: &Stage) -> Result<()> {
    watches(stage).await?;
    queries(stage).await?;
    counts(stage).await?;
    crowd(stage).await
}

async fn watches(stage: &Stage) -> Result<()> {
    println!(
        "\nJohn watches a channel, which is made by it, and gets the subjects of its members."
    );
    stage.ask("connect", json!({"user": {"id": "john"}, "connection_id": "d1"})).await?;
    let channel = json!({
        "type": "messaging",
        "id": "my-conversation-123",
        "data": {"members": ["john", "jack"], "color": "green"},
        "presence": true,
        "as": "john",
    });
    let answer = stage.ask("watch_channel", channel).await?;
    expect(&answer["channel"]["cid"], "messaging:my-conversation-123")?;
    expect(&answer["channel"]["color"], "green")?;
    expect(&answer["channel"]["members"][0]["user"]["online"], true)?;
    expect(&answer["channel"]["members"][1]["user"]["online"], false)?;
    let subjects = answer["presence"]["subjects"].as_array().context("no subjects")?;
    let mut john = stage.watch(subjects.iter().filter_map(Value::as_str)).await?;

    println!(
        "\nJack comes, hides and leaves: john sees him come and go offline, and nothing more."
    );
    stage.ask("connect", json!({"user": {"id": "jack"}, "connection_id": "d1"})).await?;
    john.sees("jack", true, None).await?;
    stage.ask("upsert_users", json!({"users": [{"id": "jack", "invisible": true}]})).await?;
    john.sees("jack", false, None).await?;
    stage.ask("disconnect", json!({"user_id": "jack", "connection_id": "d1"})).await?;
    john.sees_nothing().await
}

async fn queries(stage: &Stage) -> Result<()> {
    println!("\nHe queries the green channels: the same users to watch, each once.");
    let query = json!({
        "filter": {"color": "green"},
        "sort": {"last_message_at": -1},
        "presence": true,
        "as": "john",
    });
    let answer = stage.ask("query_channels", query).await?;
    expect(&answer["channels"][0]["cid"], "messaging:my-conversation-123")?;
    expect(&answer["channels"][0]["presence"]["users"], json!(["john", "jack"]))?;
    expect(&answer["presence"]["users"], json!(["john", "jack"]))
}

async fn counts(stage: &Stage) -> Result<()> {
    println!(
        "\nThe members online of a room are counted, and the count is announced as it changes."
    );
    let room = json!({"type": "room", "id": "lobby", "members": ["john", "jack", "jill"]});
    stage.ask("upsert_channel", room).await?;
    let watch = json!({"type": "room", "id": "lobby", "presence": true, "online_count": true});
    let answer = stage.ask("watch_channel", watch).await?;
    expect(&answer["channel"]["online_count"], 1)?;
    let subject = answer["presence"]["occupancy_subject"].as_str().context("no subject")?;
    let mut lobby = stage.watch([subject]).await?;
    stage.ask("connect", json!({"user": {"id": "jill"}, "connection_id": "d1"})).await?;
    lobby.counts(2).await?;
    println!("\nJack, who is invisible, comes too: the count stays.");
    stage.ask("connect", json!({"user": {"id": "jack"}, "connection_id": "d2"})).await?;
    lobby.sees_nothing().await?;
    stage.ask("disconnect", json!({"user_id": "jill", "connection_id": "d1"})).await?;
    lobby.counts(1).await?;
    let online = stage.ask("count_users", json!({"filter": {"online": true}})).await?;
    expect(&online["count"], 1)
}

async fn crowd(stage: &Stage) -> Result<()> {
    println!("\nOf a channel of 25 members the first ten are watched, and the rest is named.");
    let ids =
        |from: usize, to: usize| (from..to).map(|n| format!("member-{n:02}")).collect::<Vec<_>>();
    let crowd = json!({"type": "messaging", "id": "crowd", "members": ids(0, 25)});
    stage.ask("upsert_channel", crowd).await?;
    let mut watch = json!({"type": "messaging", "id": "crowd", "presence": true});
    let answer = stage.ask("watch_channel", watch.clone()).await?;
    println!("  < presence {}", answer["presence"]);
    expect(&answer["presence"]["users"], json!(ids(0, 10)))?;
    expect(&answer["presence"]["truncated"], true)?;
    let nobody = json!({
        "id": "member-00", "online": false, "status": null, "last_active": null,
        "offline_since": null, "availability": "offline", "version": 0,
    });
    expect(&answer["channel"]["members"][0]["user"], nobody)?;
    expect(&answer["presence"]["not_watched"], json!(ids(10, 25)))?;

    println!("\nOne may choose which, but not eleven.");
    watch["users"] = json!(ids(15, 25));
    let answer = stage.ask("watch_channel", watch.clone()).await?;
    expect(&answer["presence"]["users"], json!(ids(15, 25)))?;
    watch["users"] = json!(ids(14, 25));
    let answer = stage.request("watch_channel", &watch).await?;
    println!("  < {answer}");
    expect(&answer["error"]["code"], "too_many_users")?;
    expect(&answer["error"]["details"]["limit"], 10)
}
