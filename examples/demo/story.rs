//! John and Jack come, hide, and go, and an onlooker sees what others may see.

use anyhow::Result;
use presenced::clock::Clock;
use presenced::presence::time::Time;
use serde_json::{Value, json};

use crate::stage::{Stage, Watch, expect};

const EATING: &str = "Eating a veggie burger...";

/// The users' part of the story.
pub async fn users(stage: &Stage) -> Result<()> {
    println!("\nAn onlooker subscribes to john and jack, then asks who they are.");
    let subjects = ["user.presence.changed.john", "user.presence.changed.jack"];
    let mut onlooker = stage.watch(subjects).await?;
    let found = query(stage, None).await?;
    expect(&found["users"], json!([]))?;

    comes(stage, &mut onlooker).await?;
    hides(stage, &mut onlooker).await?;
    returns(stage, &mut onlooker).await?;
    works(stage, &mut onlooker).await?;
    leaves(stage, &mut onlooker).await
}

async fn comes(stage: &Stage, onlooker: &mut Watch) -> Result<()> {
    println!("\nJohn connects, with a status; jack connects.");
    let john =
        json!({"user": {"id": "john", "status": EATING, "name": "John"}, "connection_id": "c1"});
    let answer = stage.ask("connect", john).await?;
    expect(&answer["me"]["online"], true)?;
    expect(&answer["me"]["invisible"], false)?;
    onlooker.sees("john", true, Some(EATING)).await?;
    stage.ask("connect", json!({"user": {"id": "jack"}, "connection_id": "c1"})).await?;
    onlooker.sees("jack", true, None).await?;

    println!("\nThe onlooker queries them, the ids descending, with presence.");
    let found = query(stage, None).await?;
    expect(&found["users"][0]["id"], "john")?;
    expect(&found["users"][0]["status"], EATING)?;
    expect(&found["users"][1]["id"], "jack")?;
    let subjects = json!(["user.presence.changed.john", "user.presence.changed.jack"]);
    expect(&found["presence"]["subjects"], subjects)
}

async fn hides(stage: &Stage, onlooker: &mut Watch) -> Result<()> {
    println!("\nJohn becomes invisible: to others he goes offline, to himself he is online.");
    stage.ask("upsert_users", json!({"users": [{"id": "john", "invisible": true}]})).await?;
    let gone = onlooker.sees("john", false, Some(EATING)).await?;
    let own = query(stage, Some("john")).await?;
    expect(&own["users"][0]["online"], true)?;
    expect(&own["users"][0]["invisible"], true)?;

    println!("\nHe disconnects and comes back, still invisible: nobody sees any of it.");
    stage.ask("disconnect", json!({"user_id": "john", "connection_id": "c1"})).await?;
    stage.ask("connect", json!({"user": {"id": "john"}, "connection_id": "c2"})).await?;
    onlooker.sees_nothing().await?;
    let found = query(stage, None).await?;
    expect(&found["users"][0], gone)
}

async fn returns(stage: &Stage, onlooker: &mut Watch) -> Result<()> {
    println!("\nJohn becomes visible again.");
    stage.ask("upsert_users", json!({"users": [{"id": "john", "invisible": false}]})).await?;
    onlooker.sees("john", true, Some(EATING)).await.map(|_| ())
}

async fn works(stage: &Stage, onlooker: &mut Watch) -> Result<()> {
    println!("\nJack sits at his desk, and has an idle phone with him.");
    let desk = |field: &str, value: Value| {
        let mut change = json!({"user_id": "jack", "connection_id": "c1"});
        change[field] = value;
        stage.ask("update_connection", change)
    };
    desk("device", json!("desktop")).await?;
    onlooker.shows("jack", json!({"availability": "active", "devices": ["desktop"]})).await?;
    let phone = json!({
        "user": {"id": "jack"}, "connection_id": "p1", "device": "mobile", "idle": true,
    });
    stage.ask("connect", phone).await?;
    let both = json!(["desktop", "mobile"]);
    onlooker.shows("jack", json!({"availability": "active", "devices": both})).await?;
    println!("\nHe stands up: every connection is idle, so he is away.");
    desk("idle", json!(true)).await?;
    onlooker.shows("jack", json!({"availability": "away", "devices": both})).await?;

    println!("\nHe is in a meeting for two seconds, and busy whatever his connections say.");
    let now = Clock::start().now().wall;
    let meeting = json!({
        "id": "jack", "availability": "busy", "status": "In a meeting",
        "status_expires_at": Time(now.0 + 2000).to_string(),
    });
    stage.ask("upsert_users", json!({"users": [meeting]})).await?;
    let busy = json!({"availability": "busy", "status": "In a meeting"});
    onlooker.shows("jack", busy).await?;
    onlooker.shows("jack", json!({"availability": "busy", "status": null})).await?;
    let auto = json!({"id": "jack", "availability": "auto"});
    stage.ask("upsert_users", json!({"users": [auto]})).await?;
    onlooker.shows("jack", json!({"availability": "away"})).await?;
    desk("idle", json!(false)).await?;
    onlooker.shows("jack", json!({"availability": "active"})).await?;
    let phone = json!({"user_id": "jack", "connection_id": "p1", "grace_ms": 0});
    stage.ask("disconnect", phone).await?;
    onlooker.shows("jack", json!({"devices": ["desktop"]})).await
}

async fn leaves(stage: &Stage, onlooker: &mut Watch) -> Result<()> {
    println!("\nJohn reloads his page: he is back before the grace is over, and nobody notices.");
    stage.ask("disconnect", json!({"user_id": "john", "connection_id": "c2"})).await?;
    stage.ask("connect", json!({"user": {"id": "john"}, "connection_id": "c3"})).await?;
    onlooker.sees_nothing().await?;

    println!("\nJohn disconnects for good, and goes offline when the grace is over.");
    stage.ask("disconnect", json!({"user_id": "john", "connection_id": "c3"})).await?;
    onlooker.sees("john", false, Some(EATING)).await?;

    println!("\nSo does jack.");
    stage.ask("disconnect", json!({"user_id": "jack", "connection_id": "c1"})).await?;
    onlooker.sees("jack", false, None).await.map(|_| ())
}

async fn query(stage: &Stage, viewer: Option<&str>) -> Result<Value> {
    let mut query = json!({
        "filter": {"id": {"$in": ["john", "jack"]}},
        "sort": {"id": -1},
        "presence": true,
    });
    if let Some(viewer) = viewer {
        query["as"] = json!(viewer);
    }
    stage.ask("query_users", query).await
}
