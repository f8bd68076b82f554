use futures_util::StreamExt;
use presenced_client::{Change, Service};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let mut watch = Service::new(async_nats::connect(url).await?).watch(["john", "jack"])?;
    while let Some(change) = watch.next().await {
        if let Change::User { id, now: Some(user), .. } = change {
            println!("{id}: online {}, status {:?}", user.online, user.status);
        }
    }
    Ok(())
}
