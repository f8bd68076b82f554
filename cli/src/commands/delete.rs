//! `delete`: users.

use std::io::{IsTerminal, Write};

use clap::Args;
use serde_json::{Value, json};

use super::{PAGE, list};
use crate::condition::{self, filter};
use crate::failure::Failure;
use crate::output::{Format, Kind, Output, note};
use crate::session::{Door, Session};

#[derive(Args)]
pub struct Delete {
    /// The ids of the users
    #[arg(
        value_name = "USER",
        required_unless_present = "conditions",
        conflicts_with = "conditions"
    )]
    users: Vec<String>,
    #[arg(long = "where", value_name = "CONDITION", help = condition::HELP)]
    conditions: Vec<String>,
    /// Without a question
    #[arg(short, long)]
    yes: bool,
}

impl Delete {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        session.service()?;
        let door = session.door()?;
        let deleted = if self.conditions.is_empty() {
            confirm(self.yes, &format!("Delete {}?", self.users.join(", ")))?;
            by_id(&door, &self.users).await?
        } else {
            let matching = filter(&self.conditions)?;
            let counted = json!({"filter": matching, "presence": true});
            let count = door.request("count_users", &counted).await?["count"].clone();
            confirm(self.yes, &format!("Delete the {count} users that match?"))?;
            matching_users(&door, &matching).await?
        };
        let ids: Vec<&str> = deleted.iter().filter_map(Value::as_str).collect();
        if output.format == Format::Ids {
            let users: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
            output.records(Kind::User, &users)?;
        } else {
            let names = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
            output.result(&json!({"deleted": ids}), &format!("deleted: {names}"))?;
        }
        let missing = self.users.iter().filter(|user| !ids.contains(&user.as_str()));
        match missing.cloned().collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            missing => Err(Failure::not_so(format!("no such user: {}", missing.join(", ")))),
        }
    }
}

async fn by_id(door: &Door, ids: &[String]) -> Result<Vec<Value>, Failure> {
    let mut deleted = Vec::new();
    for chunk in ids.chunks(PAGE) {
        deleted
            .extend(list(&door.request("delete_users", &json!({"ids": chunk})).await?, "deleted"));
    }
    Ok(deleted)
}

/// A page at a time, until nobody matches.
async fn matching_users(door: &Door, matching: &Value) -> Result<Vec<Value>, Failure> {
    let mut deleted = Vec::new();
    loop {
        let body = json!({"filter": matching, "limit": PAGE});
        let answer = door.request("delete_users", &body).await?;
        deleted.extend(list(&answer, "deleted"));
        if answer["more"] != true {
            return Ok(deleted);
        }
        note(&format!("deleted {} so far", deleted.len()));
    }
}

/// Asks the person at the terminal. Without one, the answer has to be on the command line.
pub fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked here: pass --yes"));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::not_so("nothing was deleted")),
    }
}
