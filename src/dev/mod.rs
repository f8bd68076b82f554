//! `presenced dev`: everything on one machine, with one command. It starts a `nats-server`, serves
//! on it, and prints presence changes.

mod follow;
pub mod server;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::daemon;
use crate::health::Health;
use server::NatsServer;

/// The time that the daemon may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The program of the server and the folder of its data.
#[derive(Debug)]
pub struct Place {
    pub nats_server: Option<PathBuf>,
    /// `None`: a temporary folder, which is removed at the end.
    pub dir: Option<PathBuf>,
    pub port: u16,
}

/// The folder in which the data of `presenced dev` survives a restart.
pub fn default_dir() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = state.filter(|state| state.is_absolute()).or_else(home);
    state.unwrap_or_else(std::env::temp_dir).join("presenced/dev")
}

/// Serves until `shutdown`. `settings` makes the settings of the daemon for the server's URL.
pub async fn run(
    place: Place,
    settings: impl FnOnce(&str) -> Result<Settings>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let binary = server::find(place.nats_server.as_deref())?;
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let is_kept = place.dir.is_some();
    let dir = place.dir.unwrap_or_else(|| temporary.path().to_owned());
    let mut server = NatsServer::start(&binary, &dir, place.port).await?;
    let url = server.url().to_owned();
    let settings = settings(&url)?;
    let subjects = settings.subjects.clone();
    let stop = CancellationToken::new();
    let (_, no_reloads) = mpsc::channel(1);
    let stopped = stop.clone().cancelled_owned();
    let daemon = daemon::run(settings, Health::new(), no_reloads, stopped);
    let client = async_nats::connect(&url).await.context("cannot connect to nats-server")?;
    let follow = async {
        timeout(START_TIMEOUT, answers(&client)).await.context("the daemon does not answer")?;
        println!("{}", follow::welcome(&url, &dir, is_kept, &subjects));
        follow::changes(&client, &subjects.events).await
    };
    let mut daemon = std::pin::pin!(daemon);
    tokio::select! {
        ended = &mut daemon => ended?,
        followed = follow => followed?,
        ended = server.ended() => {
            stop.cancel();
            return Err(ended);
        }
        () = shutdown => {}
    }
    println!("stopping");
    stop.cancel();
    daemon.await?;
    server.stop().await
}

/// Waits until a daemon answers on the server.
async fn answers(client: &async_nats::Client) {
    while client.request("$SRV.PING.presence", "".into()).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}
