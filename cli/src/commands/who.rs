//! `who`: who is online.

use clap::Args;
use serde_json::json;

use super::{PAGE, channel, channel_name, list, members, note_missing_members, users_by_id};
use crate::condition;
use crate::failure::Failure;
use crate::output::{Kind, Output, note};
use crate::session::Session;

#[derive(Args)]
pub struct Who {
    /// These users, also if they are offline
    #[arg(value_name = "USER", conflicts_with_all = ["channel", "offline", "sort"])]
    users: Vec<String>,
    /// The members of a channel
    #[arg(long, value_name = "TYPE:ID", value_parser = channel_name, conflicts_with = "sort")]
    channel: Option<(String, String)>,
    /// Those who are offline, too
    #[arg(long)]
    offline: bool,
    /// The order, such as -last_active [default: id]
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
}

impl Who {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        if !self.users.is_empty() {
            output.refuse_raw()?;
            let found = users_by_id(&door, &self.users).await?;
            output.records(Kind::User, &found)?;
            let there = |id: &&String| found.iter().any(|user| user["id"] == id.as_str());
            let missing: Vec<_> = self.users.iter().filter(|id| !there(id)).cloned().collect();
            return match missing.as_slice() {
                [] => Ok(()),
                _ => Err(Failure::not_so(format!("no such user: {}", missing.join(", ")))),
            };
        }
        let mut users = match &self.channel {
            Some((kind, id)) => {
                output.refuse_raw()?;
                let channel = channel(&door, kind, id).await?;
                let members = members(&channel);
                note_missing_members(&channel, members.len());
                members
            }
            None => {
                let mut body = json!({"limit": PAGE, "presence": true});
                if !self.offline {
                    body["filter"] = json!({"online": true});
                }
                if let Some(sort) = &self.sort {
                    body["sort"] = condition::sort(sort)?;
                }
                let answer = door.request("query_users", &body).await?;
                if output.raw(&answer)? {
                    return Ok(());
                }
                if answer["more"] == true {
                    let which = if self.offline { "" } else { " online=true" };
                    note(&format!(
                        "there are more; `presencectl query users{which} --all` lists them"
                    ));
                }
                list(&answer, "users")
            }
        };
        if !self.offline {
            users.retain(|user| user["online"] == true);
        }
        output.records(Kind::User, &users)
    }
}
