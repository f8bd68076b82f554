//! Hears all events: one ear on each node, so that none is missed while a node is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, connect};

/// A change, as it was first heard of.
#[derive(Debug, Clone)]
pub struct Change {
    pub at: Instant,
    pub user: Value,
}

impl Change {
    pub fn is_online(&self) -> bool {
        self.user["online"] == true
    }
}

/// The changes of each user, by version.
type Heard = BTreeMap<String, BTreeMap<u64, Change>>;

pub struct Watcher {
    heard: Arc<Mutex<Heard>>,
    ears: Vec<JoinHandle<()>>,
}

impl Watcher {
    pub async fn start(cluster: &Cluster) -> Self {
        let heard = Arc::new(Mutex::new(Heard::new()));
        let mut ears = Vec::new();
        for node in 0..cluster.size() {
            let nats = connect(&cluster.url(node)).await;
            let mut events = nats.subscribe("user.presence.changed.>").await.unwrap();
            nats.flush().await.unwrap();
            let heard = Arc::clone(&heard);
            ears.push(tokio::spawn(async move {
                // The connection lives as long as it is listened to.
                let _nats = nats;
                while let Some(message) = events.next().await {
                    let at = Instant::now();
                    let mut body: Value = serde_json::from_slice(&message.payload).unwrap();
                    let user = body["user"].take();
                    let id = user["id"].as_str().unwrap().to_owned();
                    let version = user["version"].as_u64().unwrap();
                    let mut heard = heard.lock().unwrap();
                    let changes = heard.entry(id).or_default();
                    changes.entry(version).or_insert(Change { at, user });
                }
            }));
        }
        Self { heard, ears }
    }

    /// The newest change of a user.
    pub fn newest(&self, user: &str) -> Option<Change> {
        let heard = self.heard.lock().unwrap();
        Some(heard.get(user)?.last_key_value()?.1.clone())
    }

    /// The times at which a user went offline since then.
    pub fn offline_since(&self, user: &str, since: Instant) -> Vec<Instant> {
        let heard = self.heard.lock().unwrap();
        let changes = heard.get(user).into_iter().flat_map(BTreeMap::values);
        changes
            .filter(|change| change.at >= since && !change.is_online())
            .map(|change| change.at)
            .collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ears.iter().for_each(JoinHandle::abort);
    }
}
