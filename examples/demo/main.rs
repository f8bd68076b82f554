//! The story of user presence, played through two daemons on a NATS server of its own. Each step
//! is a real request, and is checked: the first that is wrong ends the demo with an error.

mod channels;
mod stage;
mod story;

use anyhow::Result;

#[tokio::main]
async fn main() -> Result<()> {
    let stage = stage::Stage::set().await?;
    story::users(&stage).await?;
    channels::channels(&stage).await?;
    stage.clear().await?;
    println!("\nAll steps went as promised.");
    Ok(())
}
