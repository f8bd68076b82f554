//! `wait`: until users are as a script needs them.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use presenced_client::{Change, Seen, Watch, WatchState};
use serde_json::Value;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::output::{Kind, Output, note};
use crate::session::Session;

#[derive(Args)]
pub struct Wait {
    /// The ids of the users
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
    /// Until one of them is so
    #[arg(long)]
    any: bool,
    /// Until all of them are so; the default
    #[arg(long, conflicts_with = "any")]
    all: bool,
    /// Until they are online; the default
    #[arg(long)]
    online: bool,
    /// Until they are offline
    #[arg(long, conflicts_with_all = ["online", "status"])]
    offline: bool,
    /// Until they have this status
    #[arg(long, value_name = "TEXT")]
    status: Option<String>,
    /// At most so long
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl Wait {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        door.check_served().await?;
        let watch = door.watch(&self.users)?;
        let found = match self.duration {
            None => {
                watch.live().await?;
                self.until_so(watch).await?
            }
            Some(duration) => {
                let waited = humantime::format_duration(duration);
                let not_so = |_| Failure::not_so(format!("not so within {waited}"));
                // The time begins with the first look, however short it is.
                timeout(duration.max(session.timeout), watch.live()).await.map_err(not_so)??;
                timeout(duration, self.until_so(watch)).await.map_err(not_so)??
            }
        };
        output.records(Kind::User, &found)
    }

    async fn until_so(&self, mut watch: Watch) -> Result<Vec<Value>, Failure> {
        loop {
            let users = self.users.iter().map(|id| (id, watch.get(id)));
            let so: Vec<_> = users.filter(|(_, user)| self.is_so(user.as_deref())).collect();
            if so.len() == self.users.len() || self.any && !so.is_empty() {
                for (id, _) in so.iter().filter(|(_, user)| user.is_none()) {
                    note(&format!("there is no user {id}"));
                }
                let shown = so.iter().filter_map(|(_, user)| user.as_deref());
                return Ok(shown.filter_map(|user| serde_json::to_value(user).ok()).collect());
            }
            match watch.next().await {
                Some(Change::State(WatchState::Denied(error))) => return Err(error.into()),
                Some(_) => {}
                None => return Err(presenced_client::Error::Closed.into()),
            }
        }
    }

    /// A user who does not exist is offline, without a status.
    fn is_so(&self, user: Option<&Seen>) -> bool {
        let online = user.is_some_and(|user| user.online);
        match &self.status {
            _ if self.offline => !online,
            Some(status) => {
                (online || !self.online)
                    && user.is_some_and(|user| user.status.as_ref() == Some(status))
            }
            None => online,
        }
    }
}
