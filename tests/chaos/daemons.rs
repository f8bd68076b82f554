//! The daemons under test.

use std::time::Duration;

use crate::support::{Daemon, Settings};

pub struct Daemons {
    urls: String,
    settings: Vec<(&'static str, String)>,
    pub running: Vec<Daemon>,
}

impl Daemons {
    pub async fn start(urls: String, number: usize, replicas: usize, lease: Duration) -> Self {
        let settings = vec![
            ("STORE__REPLICAS", replicas.to_string()),
            ("LIVENESS__LEASE", format!("{}ms", lease.as_millis())),
            ("LIVENESS__HEARTBEAT_INTERVAL", format!("{}ms", lease.as_millis() / 4)),
            ("LIVENESS__OFFLINE_GRACE", "1s".to_owned()),
        ];
        let mut daemons = Self { urls, settings, running: Vec::new() };
        for _ in 0..number {
            daemons.add().await;
        }
        daemons
    }

    /// Starts one more, and waits until it is ready.
    pub async fn add(&mut self) {
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let settings: Settings<'_> = &settings;
        let mut daemon = Daemon::launch(&self.urls, settings);
        daemon.logs("\"ready\"").await;
        self.running.push(daemon);
    }

    /// Kills one with SIGKILL.
    pub fn kill(&mut self, n: usize) {
        self.running.remove(n).kill();
    }

    /// The number of daemons that logged that they may have missed heartbeats for this reason.
    pub fn deafened_by(&self, reason: &str) -> usize {
        let says = |daemon: &&Daemon| {
            daemon
                .lines()
                .iter()
                .any(|line| line["reason"].as_str().is_some_and(|given| given.contains(reason)))
        };
        self.running.iter().filter(says).count()
    }
}
