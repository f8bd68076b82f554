//! Many clients at work at once, each on a user of its own, who keep count of what was
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Client, eventually};

/// A request that was lost with a daemon is given up after so long.
const GIVEN_UP: Duration = Duration::from_secs(4);

/// A load that makes no progress for so long has stopped.
const PROGRESS: Duration = Duration::from_secs(20);

pub struct Load {
    stop: Arc<AtomicBool>,
    /// The changes that were acknowledged so far.
    acknowledged: Arc<AtomicUsize>,
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
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let worker = |n: usize| {
            let client = client.clone();
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let id = format!("busy-{n}");
                let tally = work(&client, &id, &stop, &acknowledged, pause).await;
                (id, tally)
            })
        };
        Self { workers: (0..clients).map(worker).collect(), stop, acknowledged }
    }

    /// Waits until each client has had some more changes acknowledged, on average.
    pub async fn goes_on(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + 10 * self.workers.len();
        eventually("changes are acknowledged", PROGRESS, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
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

async fn work(
    client: &Client,
    id: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicUsize,
    pause: Duration,
) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        tally.attempted += 1;
        let status = tally.attempted.to_string();
        let body = json!({"user": {"id": id, "status": status}, "connection_id": "c"});
        match client.attempt("connect", body, GIVEN_UP).await {
            Some(Ok(answer)) => {
                assert_eq!(answer["me"]["status"], status);
                tally.acknowledged = tally.attempted;
                acknowledged.fetch_add(1, Ordering::Relaxed);
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
