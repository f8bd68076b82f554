//! `watch`: changes of users, as they come.

use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::Utc;
use clap::Args;
use futures_util::StreamExt;
use presenced_client::{Change, Fields, Watch, WatchState};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{PAGE, channel_name};
use crate::condition::{self, filter};
use crate::failure::Failure;
use crate::output::{Format, Kind, Output, Tone, line, mark, note, printable};
use crate::session::{Session, kind_name};

#[derive(Args)]
pub struct WatchUsers {
    /// The ids of the users
    #[arg(value_name = "USER", required_unless_present_any = ["channel", "conditions", "all"])]
    users: Vec<String>,
    /// The members of a channel
    #[arg(long, value_name = "TYPE:ID", value_parser = channel_name, conflicts_with = "users")]
    channel: Option<(String, String)>,
    #[arg(
        long = "where",
        value_name = "CONDITION",
        conflicts_with_all = ["users", "channel"],
        help = condition::HELP
    )]
    conditions: Vec<String>,
    /// All users
    #[arg(long, conflicts_with_all = ["users", "channel", "conditions"])]
    all: bool,
    /// Run this with sh for each change, with the change as JSON on its standard input; of changes
    /// that come while it runs, for the newest of each user
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
}

impl WatchUsers {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        if let Some((kind, id)) = &self.channel {
            return self.follow(door.watch_channel(kind, id).await?, output).await;
        }
        door.check_served().await?;
        if self.all {
            return self.follow(door.watch_all(), output).await;
        }
        if !self.conditions.is_empty() {
            return self.follow(door.watch_where(filter(&self.conditions)?), output).await;
        }
        self.follow(door.watch(&self.users)?, output).await
    }

    async fn follow<K>(&self, mut watch: Watch<Fields, K>, output: &Output) -> Result<(), Failure> {
        let mut shown = false;
        let mut left_out = LeftOut::default();
        while let Some(change) = watch.next().await {
            left_out.tell(watch.conflated());
            match &change {
                Change::User { .. } if output.format == Format::Table && !shown => {}
                Change::User { .. } => self.print(&change, output).await?,
                Change::State(WatchState::Live | WatchState::Degraded(_)) if !shown => {
                    shown = true;
                    show_all(&watch, output)?;
                    for id in self.users.iter().filter(|id| watch.get(id).is_none()) {
                        note(&format!("there is no user {id}"));
                    }
                    if !self.conditions.is_empty() && watch.snapshot().len() == PAGE {
                        note(&format!("these are the first {PAGE} that match; others may, too"));
                    }
                }
                Change::State(WatchState::Live) => note("up to date again"),
                Change::State(WatchState::Degraded(why)) => note(&format!("may come late: {why}")),
                Change::State(WatchState::Stale(why)) => note(&format!("may be old: {why}")),
                Change::State(WatchState::Denied(error)) => return Err(error.clone().into()),
                _ => {}
            }
        }
        Err(presenced_client::Error::Closed.into())
    }

    async fn print(&self, change: &Change, output: &Output) -> Result<(), Failure> {
        let Change::User { id, before, now, .. } = change else { return Ok(()) };
        let kind = kind_name(change);
        let (before, now) = (before.as_deref(), now.as_deref());
        let json = json!({"kind": kind, "id": id, "before": before, "now": now});
        match output.format {
            Format::Table => line(&row(id.as_str(), kind, &json["now"], output))?,
            Format::Ids => output.records(Kind::User, &[json!({"id": id})])?,
            _ => output.record(Kind::User, &json)?,
        }
        match &self.exec {
            Some(command) => run(command, &json).await,
            None => Ok(()),
        }
    }
}

/// The interval at which steps that were left out are told of.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// The steps between states of users that came faster than they were printed.
#[derive(Default)]
struct LeftOut {
    count: u64,
    told_at: Option<Instant>,
}

impl LeftOut {
    fn tell(&mut self, count: u64) {
        let is_told = self.told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL);
        if count == self.count || is_told {
            return;
        }
        note(&format!(
            "changes come faster than they are taken: {} steps are left out, and the newest state \
             of each user is shown",
            count - self.count
        ));
        self.count = count;
        self.told_at = Some(Instant::now());
    }
}

/// The first picture, as a table for people.
fn show_all<K>(watch: &Watch<Fields, K>, output: &Output) -> Result<(), Failure> {
    if output.format != Format::Table {
        return Ok(());
    }
    let users: Vec<Value> =
        watch.snapshot().iter().filter_map(|user| serde_json::to_value(&**user).ok()).collect();
    output.records(Kind::User, &users)
}

/// The width of the time, the mark and the blanks between them.
const BEFORE_TEXT: usize = 12;

fn in_one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// No wider than `width` columns.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used < width
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

fn row(id: &str, kind: &str, now: &Value, output: &Output) -> String {
    let (mark, tone) = mark(now);
    let what = match kind {
        "came" => "came online",
        "left" => "went offline",
        "gone" => "is gone",
        "first" if now["online"] == true => "is online",
        "first" => "is offline",
        "status" => "has a status",
        _ => "changed",
    };
    let time = output.paint.apply(Tone::Faint, &output.clock(Utc::now()));
    let mark = tone.map_or_else(|| mark.to_owned(), |tone| output.paint.apply(tone, mark));
    let status = now["status"].as_str().map(|status| format!("  {}", in_one_line(status)));
    let text = format!("{} {what}{}", in_one_line(id), status.unwrap_or_default());
    format!("{time}  {mark} {}", cut(&text, output.width().saturating_sub(BEFORE_TEXT)))
}

/// Runs a command with the change on its standard input, and waits for its end.
async fn run(command: &str, change: &Value) -> Result<(), Failure> {
    let mut child = Command::new("sh").args(["-c", command]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read it.
        let _ = stdin.write_all(format!("{change}\n").as_bytes()).await;
    }
    let status = child.wait().await?;
    if !status.success() {
        note(&format!("{command}: {status}"));
    }
    Ok(())
}
