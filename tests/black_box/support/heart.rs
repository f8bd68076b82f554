//! A task that keeps connections alive: heartbeats in the background, until it is stopped.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Client;
use super::client::barrier;

/// The interval at which heartbeats are sent: often enough that a busy machine delays none for a
/// lease.
const BEAT: Duration = Duration::from_millis(200);

pub struct Heart {
    task: JoinHandle<()>,
    last: Arc<Mutex<Instant>>,
}

impl Heart {
    /// Sends a heartbeat again and again, and wants no answer.
    pub fn beat(client: &Client, body: Value) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        let (noted, client) = (Arc::clone(&last), client.clone());
        let task = tokio::spawn(async move {
            let body: bytes::Bytes = body.to_string().into();
            loop {
                *noted.lock().unwrap() = Instant::now();
                // A connection that is down keeps it, or drops it; the next one comes soon.
                let _ = client.nats.publish(client.subject("heartbeat"), body.clone()).await;
                sleep(BEAT).await;
            }
        });
        Self { task, last }
    }

    /// The heart of one connection.
    pub fn of(client: &Client, user: &str, connection: &str) -> Self {
        Self::beat(client, json!({"user_id": user, "connection_id": connection}))
    }

    /// The heart of a shared lease.
    pub fn of_lease(client: &Client, lease: &str) -> Self {
        Self::beat(client, json!({"lease": lease}))
    }

    /// Stops it; when the last heartbeat was sent.
    pub async fn stop(self, client: &Client) -> Instant {
        self.task.abort();
        // The sent heartbeats have reached the server.
        barrier(&client.nats).await;
        *self.last.lock().unwrap()
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.task.abort();
    }
}
