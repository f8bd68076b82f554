//! `count`: how many users match.

use clap::Args;
use serde_json::{Value, json};

use crate::condition::{self, filter};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::{Door, Session};

#[derive(Args)]
pub struct Count {
    #[arg(value_name = "CONDITION", help = condition::HELP)]
    conditions: Vec<String>,
}

impl Count {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        print(&session.door()?, filter(&self.conditions)?, output).await
    }
}

pub async fn print(door: &Door, matching: Value, output: &Output) -> Result<(), Failure> {
    let body = json!({"filter": matching, "presence": true});
    let answer = door.request("count_users", &body).await?;
    if !output.raw(&answer)? {
        output.result(&json!({"count": answer["count"]}), &answer["count"].to_string())?;
    }
    Ok(())
}
