//! Changes that are acknowledged all the time, and must not be lost.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::events::announced;
use crate::support::load::Load;
use crate::support::{Client, eventually};
use crate::watcher::Watcher;

const WRITERS: usize = 6;

/// The time that the newest change may take to be announced at the end.
const ANNOUNCED: Duration = Duration::from_secs(15);

pub struct Writers {
    load: Load,
}

/// The outcome of the changes.
#[derive(Debug, Default)]
pub struct Written {
    pub acknowledged: u64,
    pub lost: u64,
    /// Users of whom the newest event does not show what a query shows.
    pub unannounced: u64,
}

impl Writers {
    pub fn start(client: &Client) -> Self {
        Self { load: Load::paced(client, WRITERS, Duration::from_millis(20)) }
    }

    pub async fn stop(self, client: &Client, watcher: &Watcher) -> Written {
        let mut written = Written::default();
        for (id, tally) in self.load.stop().await {
            written.acknowledged += tally.acknowledged;
            let user = client.see(&id).await;
            let shown = user.as_ref().and_then(|user| user["status"].as_str()?.parse().ok());
            written.lost += tally.acknowledged.saturating_sub(shown.unwrap_or(0));
            let announced = eventually("it is announced", 2 * ANNOUNCED, async || {
                let user = announced(&client.see(&id).await?);
                (user == announced(&watcher.newest(&id)?.user)).then_some(())
            });
            written.unannounced += u64::from(timeout(ANNOUNCED, announced).await.is_err());
        }
        written
    }
}
