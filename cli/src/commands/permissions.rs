//! `permissions`: what NATS has to allow to a user's own client, and nothing else.

use clap::{Args, ValueEnum};
use presenced_client::Id;
use serde_json::json;

use super::channel_name;
use crate::failure::Failure;
use crate::output::line;
use crate::session::{Flags, subject};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    Connect,
    UpdateConnection,
    Heartbeat,
    Disconnect,
    UpsertUsers,
    WatchChannel,
    QueryChannels,
    /// Reads the public view of every user
    QueryUsers,
    /// Counts among all users
    CountUsers,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::UpdateConnection => "update_connection",
            Self::Heartbeat => "heartbeat",
            Self::Disconnect => "disconnect",
            Self::UpsertUsers => "upsert_users",
            Self::WatchChannel => "watch_channel",
            Self::QueryChannels => "query_channels",
            Self::QueryUsers => "query_users",
            Self::CountUsers => "count_users",
        }
    }

    fn is_on_all_users(self) -> bool {
        matches!(self, Self::QueryUsers | Self::CountUsers)
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// For the configuration of nats-server
    Conf,
    /// For a user JWT
    Json,
    /// The command that edits a user of nsc
    Nsc,
}

#[derive(Args)]
pub struct Permissions {
    /// The id of the user
    user: String,
    /// A user whose events it may hear, besides its own. May be repeated
    #[arg(long, value_name = "USER")]
    sees: Vec<String>,
    /// Let it hear and query everyone
    #[arg(long, conflicts_with = "sees")]
    sees_all: bool,
    /// A channel whose count of online members it may hear. May be repeated
    #[arg(long, value_name = "TYPE:ID", value_parser = channel_name)]
    counts: Vec<(String, String)>,
    /// The daemons' setting subjects.channel_events
    #[arg(long, value_name = "PREFIX", default_value = "channel.presence.changed", value_parser = subject)]
    channel_events: String,
    /// The operations [default: all of a user's own; with --sees-all also query-users, count-users]
    #[arg(long, value_name = "OPERATION", value_delimiter = ',', num_args = 1..)]
    ops: Vec<Operation>,
    /// The purpose of the text
    #[arg(long, value_name = "FORMAT", default_value = "conf")]
    format: Format,
}

impl Permissions {
    pub fn run(self, flags: &Flags) -> Result<(), Failure> {
        let id = Id::parse(&self.user)?;
        let publish = self.publish(&id, &flags.prefix);
        let subscribe = self.subscribe(&id, flags)?;
        let text = match self.format {
            Format::Conf => conf(&publish, &subscribe),
            Format::Json => {
                let permissions = json!({"pub": {"allow": publish}, "sub": {"allow": subscribe}});
                format!("{permissions:#}")
            }
            Format::Nsc => {
                let (publish, subscribe) = (publish.join(","), subscribe.join(","));
                let name = quoted(&self.user);
                format!(
                    "nsc edit user --name {name} --allow-pub '{publish}' --allow-sub '{subscribe}'"
                )
            }
        };
        Ok(line(&text)?)
    }

    fn publish(&self, id: &Id, prefix: &str) -> Vec<String> {
        let chosen = |operation: &Operation| match self.ops.as_slice() {
            [] => self.sees_all || !operation.is_on_all_users(),
            ops => ops.contains(operation),
        };
        let token = id.token();
        let subject = |operation: Operation| format!("{prefix}.v1.{}.{token}", operation.name());
        Operation::value_variants().iter().copied().filter(chosen).map(subject).collect()
    }

    fn subscribe(&self, id: &Id, flags: &Flags) -> Result<Vec<String>, Failure> {
        let inbox = match &flags.inbox_prefix {
            Some(prefix) => format!("{prefix}.>"),
            None => format!("_INBOX_{}.>", id.token()),
        };
        let mut subjects = vec![inbox];
        if self.sees_all {
            subjects.push(format!("{}.*", flags.events));
        } else {
            subjects.push(format!("{}.{}", flags.events, id.token()));
            for user in &self.sees {
                subjects.push(format!("{}.{}", flags.events, Id::parse(user)?.token()));
            }
        }
        for (kind, channel) in &self.counts {
            let (kind, channel) = (Id::parse(kind)?.token(), Id::parse(channel)?.token());
            subjects.push(format!("{}.{kind}.{channel}", self.channel_events));
        }
        Ok(subjects)
    }
}

/// The block as it stands in an entry of `users`.
fn conf(publish: &[String], subscribe: &[String]) -> String {
    let list = |subjects: &[String]| {
        let lines: String = subjects.iter().map(|each| format!("    \"{each}\"\n")).collect();
        format!("{{ allow: [\n{lines}  ] }}")
    };
    format!("permissions: {{\n  publish: {}\n  subscribe: {}\n}}", list(publish), list(subscribe))
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
