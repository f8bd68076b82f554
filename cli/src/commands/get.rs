//! `get`: one user.

use clap::Args;
use presenced_client::Id;
use serde_json::json;

use super::list;
use crate::failure::Failure;
use crate::output::{Kind, Output};
use crate::session::Session;

#[derive(Args)]
pub struct Get {
    /// The id of the user
    user: String,
}

impl Get {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        Id::parse(&self.user)?;
        let body = json!({"filter": {"id": self.user}, "limit": 1, "presence": true});
        let answer = door.request("query_users", &body).await?;
        let Some(user) = list(&answer, "users").into_iter().next() else {
            return Err(Failure::not_so(format!("no such user: {}", self.user)));
        };
        if output.raw(&answer)? {
            return Ok(());
        }
        output.record(Kind::User, &user)
    }
}
