//! The stage: a NATS server, two daemons, the requests of the actors and the eyes of an onlooker.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use presenced::dev::server::{self, NatsServer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// The time that any single thing may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// The time without an event that counts as silence.
const QUIET_PERIOD: Duration = Duration::from_millis(400);

pub struct Stage {
    client: Client,
    server: NatsServer,
    daemons: Vec<Child>,
    _dir: TempDir,
}

impl Stage {
    /// Starts the server and two daemons, and waits until both answer.
    pub async fn set() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = NatsServer::start(&server::find(None)?, dir.path(), 0).await?;
        println!("NATS listens on {}", server.url());
        let daemons = (0..2).map(|_| daemon(server.url())).collect::<Result<Vec<_>>>()?;
        let client = async_nats::connect(server.url()).await?;
        let stage = Self { client, server, daemons, _dir: dir };
        timeout(STEP_TIMEOUT, stage.both_answer()).await.context("the daemons do not answer")??;
        println!("Two daemons serve on it.");
        Ok(stage)
    }

    /// Stops the daemons, who must leave cleanly, and the server.
    pub async fn clear(self) -> Result<()> {
        for mut daemon in self.daemons {
            let pid = daemon.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            kill_process(pid.context("a daemon ended during the demo")?, Signal::TERM)?;
            let status =
                timeout(STEP_TIMEOUT, daemon.wait()).await.context("a daemon does not stop")??;
            ensure!(status.success(), "a daemon ended with {status}");
        }
        self.server.stop().await
    }

    /// A request that must succeed.
    pub async fn ask(&self, operation: &str, body: Value) -> Result<Value> {
        let answer = self.request(operation, &body).await?;
        ensure!(answer.get("error").is_none(), "{operation} {body} was refused: {answer}");
        Ok(answer)
    }

    /// A request, and whatever it is answered.
    pub async fn request(&self, operation: &str, body: &Value) -> Result<Value> {
        println!("  > {operation} {body}");
        let request =
            self.client.request(format!("presence.v1.{operation}"), body.to_string().into());
        let answer = timeout(STEP_TIMEOUT, request).await.context("no answer")??;
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// Begins to watch the subjects of a presence block, or any others.
    pub async fn watch<'a>(&self, subjects: impl IntoIterator<Item = &'a str>) -> Result<Watch> {
        let mut subscribers = Vec::new();
        for subject in subjects {
            subscribers.push(self.client.subscribe(subject.to_owned()).await?);
        }
        // A round trip, so that the subscriptions stand before the next request is sent.
        self.client.request("$SRV.PING.presence", "".into()).await?;
        Ok(Watch(futures_util::stream::select_all(subscribers)))
    }

    async fn both_answer(&self) -> Result<()> {
        loop {
            let inbox = self.client.new_inbox();
            let mut answers = self.client.subscribe(inbox.clone()).await?;
            self.client.publish_with_reply("$SRV.PING.presence", inbox, "".into()).await?;
            let two = async { (answers.next().await, answers.next().await) };
            if let Ok((Some(first), Some(second))) = timeout(QUIET_PERIOD, two).await
                && first.status.is_none()
                && second.status.is_none()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn daemon(url: &str) -> Result<Child> {
    let program = std::env::current_exe()?;
    let built = program.ancestors().nth(2).map(|dir| dir.join("presenced"));
    let built: PathBuf = built.filter(|path| path.is_file()).context("build presenced first")?;
    let daemon = Command::new(built)
        .args(["run", "--config", "/dev/null", "--nats-url", url, "--log-level", "warn"])
        .args(["--set", "liveness.offline_grace=1s"])
        .args(["--set", "channel_types.room.occupancy_interval=200ms"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    daemon.context("cannot start a daemon")
}

/// The events that an onlooker hears.
pub struct Watch(futures_util::stream::SelectAll<Subscriber>);

impl Watch {
    /// The next change must be of this user, with these values.
    pub async fn sees(&mut self, user: &str, online: bool, status: Option<&str>) -> Result<Value> {
        let next = timeout(STEP_TIMEOUT, self.0.next()).await;
        let change =
            next.with_context(|| format!("no change of {user} came"))?.context("closed")?;
        let event: Value = serde_json::from_slice(&change.payload)?;
        println!("  < {} {}", event["type"].as_str().unwrap_or_default(), event["user"]);
        expect(&event["user"]["id"], user)?;
        expect(&event["user"]["online"], online)?;
        expect(&event["user"]["status"], status)?;
        Ok(event["user"].clone())
    }

    /// Announcements come until the count is this one.
    pub async fn counts(&mut self, online: u64) -> Result<()> {
        loop {
            let next = timeout(STEP_TIMEOUT, self.0.next()).await;
            let change =
                next.with_context(|| format!("no count of {online} came"))?.context("closed")?;
            let event: Value = serde_json::from_slice(&change.payload)?;
            let channel = &event["channel"];
            println!("  < {} {channel}", event["type"].as_str().unwrap_or_default());
            if channel["online_count"] == online {
                return Ok(());
            }
        }
    }

    /// The next change must be of this user, with these values of some fields.
    pub async fn shows(&mut self, user: &str, fields: Value) -> Result<()> {
        let status = fields.get("status").and_then(Value::as_str).map(str::to_owned);
        let shown = self.sees(user, true, status.as_deref()).await?;
        for (field, value) in fields.as_object().context("no fields")? {
            expect(&shown[field], value.clone())?;
        }
        Ok(())
    }

    /// Nothing may be heard for a while.
    pub async fn sees_nothing(&mut self) -> Result<()> {
        match timeout(QUIET_PERIOD, self.0.next()).await {
            Err(_) => Ok(()),
            Ok(change) => bail!("nothing was to be seen, but {change:?}"),
        }
    }
}

/// Fails loudly if a value is not what was promised.
pub fn expect(found: &Value, expected: impl Into<Value>) -> Result<()> {
    let expected = expected.into();
    ensure!(*found == expected, "expected {expected}, found {found}");
    Ok(())
}
