//! `channel`: make, change and delete channels.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::delete::confirm;
use super::{PAGE, channel_name};
use crate::condition::json_or_text;
use crate::failure::Failure;
use crate::output::{Kind, Output};
use crate::session::{Door, Session};

#[derive(Subcommand)]
pub enum Channel {
    /// Make a channel, or add members and fields to one
    Create(Create),
    /// Add members to a channel
    Add(Members),
    /// Remove members from a channel
    Remove(Members),
    /// Delete a channel
    Delete(Delete),
}

#[derive(Args)]
pub struct Create {
    /// The channel
    #[arg(value_name = "TYPE:ID", value_parser = channel_name)]
    channel: (String, String),
    /// The members
    #[arg(value_name = "USER")]
    users: Vec<String>,
    /// A custom field; JSON where it is JSON, else text. May be repeated
    #[arg(short, long = "field", value_name = "NAME=VALUE")]
    fields: Vec<String>,
}

#[derive(Args)]
pub struct Members {
    /// The channel
    #[arg(value_name = "TYPE:ID", value_parser = channel_name)]
    channel: (String, String),
    /// The members
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
}

#[derive(Args)]
pub struct Delete {
    /// The channel
    #[arg(value_name = "TYPE:ID", value_parser = channel_name)]
    channel: (String, String),
    /// Without a question
    #[arg(short, long)]
    yes: bool,
}

impl Channel {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        session.service()?;
        let door = session.door()?;
        match self {
            Self::Create(create) => {
                let mut data = Map::new();
                for text in &create.fields {
                    let Some((name, value)) = text.split_once('=') else {
                        let message = format!("{text:?}: write a field as name=value");
                        return Err(Failure::usage(message));
                    };
                    data.insert(name.to_owned(), json_or_text(value));
                }
                let data = (!data.is_empty()).then_some(data);
                upsert(&door, &create.channel, data, "add_members", &create.users, output).await
            }
            Self::Add(to) => existing(&door, to, "add_members", output).await,
            Self::Remove(from) => existing(&door, from, "remove_members", output).await,
            Self::Delete(delete) => {
                let (kind, id) = &delete.channel;
                confirm(delete.yes, &format!("Delete the channel {kind}:{id}?"))?;
                let body = json!({"type": kind, "id": id});
                let answer = door.request("delete_channel", &body).await?;
                if answer["deleted"] != true {
                    return Err(Failure::not_so(format!("there is no channel {kind}:{id}")));
                }
                if output.raw(&answer)? {
                    return Ok(());
                }
                let text = format!("deleted: {kind}:{id}");
                Ok(output.result(&json!({"deleted": true}), &text)?)
            }
        }
    }
}

/// Edits the members of a channel that there is.
async fn existing(
    door: &Door,
    members: Members,
    edit: &str,
    output: &Output,
) -> Result<(), Failure> {
    let (kind, id) = &members.channel;
    super::channel(door, kind, id).await?;
    upsert(door, &members.channel, None, edit, &members.users, output).await
}

/// Many members take several requests.
async fn upsert(
    door: &Door,
    (kind, id): &(String, String),
    mut data: Option<Map<String, Value>>,
    edit: &str,
    users: &[String],
    output: &Output,
) -> Result<(), Failure> {
    let mut chunks = users.chunks(PAGE);
    let mut next = chunks.next();
    loop {
        let mut body = json!({"type": kind, "id": id});
        if let Some(data) = data.take() {
            body["data"] = Value::Object(data);
        }
        if let Some(users) = next {
            body[edit] = users.into();
        }
        let answer = door.request("upsert_channel", &body).await?;
        next = chunks.next();
        if next.is_none() {
            if output.raw(&answer)? {
                return Ok(());
            }
            return output.record(Kind::Channel, &answer["channel"]);
        }
    }
}
