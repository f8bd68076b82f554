//! `connect`: be online as a user.

use std::time::Duration;

use chrono::Utc;
use clap::Args;
use presenced_client::{ConnectionState, Device, Patch};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::args::Changes;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::session::{Session, interrupted};

#[derive(Args)]
pub struct Connect {
    /// The id of the user
    user: String,
    #[command(flatten)]
    changes: Changes,
    /// The kind of device, such as mobile
    #[arg(long, value_name = "KIND")]
    device: Option<String>,
    /// As a connection that nobody uses at the moment
    #[arg(long)]
    idle: bool,
    /// For so long, then disconnect
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl Connect {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        door.check_user(&self.user)?;
        let device = Device { kind: self.device.clone(), idle: self.idle };
        // A connection waits for daemons as long as it takes; a person wants to know.
        // A login that may connect may send heartbeats; one of no connection changes nothing.
        let nobody = format!("{:032x}", fastrand::u128(..));
        let asked = json!({"user_id": self.user, "connection_id": nobody});
        let connecting = timeout(session.timeout, door.connect(&self.user, self.patch()?, device));
        let connection = tokio::select! {
            connected = connecting => match connected {
                Ok(connected) => connected?,
                Err(_) => {
                    door.request("heartbeat", &asked).await?;
                    return Err(Failure::Unreachable("no daemon has acknowledged it".to_owned()));
                }
            },
            () = interrupted() => return Err(Failure::Interrupted),
        };
        let mut states = connection.states();
        let mut over = std::pin::pin!(async {
            match self.duration {
                Some(duration) => sleep(duration).await,
                None => std::future::pending().await,
            }
        });
        let mut stop = std::pin::pin!(interrupted());
        let ended = loop {
            let state = states.borrow_and_update().clone();
            self.print(&state, connection.id().as_str(), output)?;
            if let ConnectionState::Closed(error) = state {
                return error.map_or(Ok(()), |error| Err(error.into()));
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { break Ok(()) },
                () = &mut over => break Ok(()),
                () = &mut stop => break Err(Failure::Interrupted),
            }
        };
        let id = connection.id().clone();
        connection.close().await;
        let closed = states.borrow().clone();
        self.print(&closed, id.as_str(), output)?;
        match closed {
            ConnectionState::Closed(Some(error)) => {
                note(&format!("{} is shown online until its lease is over", self.user));
                Err(error.into())
            }
            _ => ended,
        }
    }

    fn patch(&self) -> Result<Patch, Failure> {
        let mut patch = Patch::new();
        if let Some(status) = &self.changes.status {
            patch = match self.changes.status_end()? {
                Some(end) => patch.status_until(status, &end),
                None => patch.status(status.as_str()),
            };
        }
        if self.changes.invisible {
            patch = patch.invisible(true);
        }
        for (name, value) in self.changes.custom()? {
            patch = patch.set(name, value)?;
        }
        Ok(patch)
    }

    fn print(&self, state: &ConnectionState, id: &str, output: &Output) -> Result<(), Failure> {
        let name = match state {
            ConnectionState::Connecting => "connecting",
            ConnectionState::Online => "online",
            ConnectionState::Interrupted => "interrupted",
            _ => "closed",
        };
        let now = Utc::now();
        let at = now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let state = json!({"at": at, "state": name, "user": self.user, "connection_id": id});
        let text = format!("{}  {} is {name}", output.clock(now), self.user);
        Ok(output.result(&state, &text)?)
    }
}
