//! SIGHUP: reads the settings again, and applies those that can change in a running daemon.

use std::convert::Infallible;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Loaded, Sources};
use crate::daemon::Reload;
use crate::logging::Level;
use crate::systemd::ReloadNotice;

/// Reads the settings again.
pub struct Reloader {
    pub sources: Sources,
    /// The settings of the start, which still hold for all that needs a restart.
    pub started: Loaded,
    pub level: Level,
    pub daemon: mpsc::Sender<Reload>,
    pub systemd: ReloadNotice,
}

impl Reloader {
    /// Reads the settings again at each signal.
    pub async fn run(self, mut hangups: Signal) -> Infallible {
        let mut in_force = None;
        loop {
            hangups.recv().await;
            self.systemd.reloading();
            match self.sources.load() {
                Ok(loaded) => {
                    self.apply(&loaded, in_force.as_ref().unwrap_or(&self.started)).await;
                    in_force = Some(loaded);
                }
                Err(error) => {
                    tracing::error!(
                        %error,
                        "the settings cannot be used; the previous ones stay in force"
                    );
                }
            }
            self.systemd.reloaded();
        }
    }

    async fn apply(&self, loaded: &Loaded, in_force: &Loaded) {
        self.level.set(&loaded.settings.log);
        let (done, adopted) = oneshot::channel();
        let limits = loaded.settings.limits.clone();
        // A daemon that leaves needs no limits.
        if self.daemon.send(Reload { limits, done }).await.is_ok() {
            let _ = adopted.await;
        }
        let changed = loaded.live_changes(in_force).join(", ");
        tracing::info!(changed, "read the settings again");
        let fixed = loaded.fixed_changes(&self.started);
        if !fixed.is_empty() {
            let settings = fixed.join(", ");
            tracing::warn!(settings, "changed settings that count only after a restart");
        }
    }
}
