//! Many clients at work at once, each on a user of its own, who keep count of what was
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Client;

/// A request that was lost with a daemon is given up after so long.
const GIVEN_UP: Duration = Duration::from_secs(4);

pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<(String, Tally)>>,
}

/// The outcome of the changes of one user: the status is a number that grows with each.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub attempted: u64,
    pub unanswered: u64,
    pub refused: u64,
}

impl Load {
    /// Starts clients that change the status of their users as fast as they are answered.
    pub fn start(client: &Client, clients: usize) -> Self {
        Self::paced(client, clients, Duration::ZERO)
    }

    /// The same with a pause after each change.
    pub fn paced(client: &Client, clients: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |n: usize| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let id = format!("busy-{n}");
                let tally = work(&client, &id, &stop, pause).await;
                (id, tally)
            })
        };
        Self { workers: (0..clients).map(worker).collect(), stop }
    }

    /// Ends the load; what became of it, by user.
    pub async fn stop(self) -> BTreeMap<String, Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut tallies = BTreeMap::new();
        for worker in self.workers {
            tallies.extend([worker.await.unwrap()]);
        }
        tallies
    }
}

async fn work(client: &Client, id: &str, stop: &AtomicBool, pause: Duration) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        tally.attempted += 1;
        let status = tally.attempted.to_string();
        let body = json!({"user": {"id": id, "status": status}, "connection_id": "c"});
        match client.attempt("connect", body, GIVEN_UP).await {
            Some(Ok(answer)) => {
                assert_eq!(answer["me"]["status"], status);
                tally.acknowledged = tally.attempted;
            }
            Some(Err(_)) => tally.refused += 1,
            None => tally.unanswered += 1,
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    tally
}

impl Tally {
    /// Holds what a query says to what was acknowledged: it shows the last acknowledged change,
    /// or a later one whose answer was lost.
    pub fn check(&self, user: &Value) {
        let shown: u64 = user["status"].as_str().unwrap_or("0").parse().unwrap();
        let may_be = self.acknowledged..=self.attempted;
        assert!(may_be.contains(&shown), "{self:?}: {user}");
    }
}
