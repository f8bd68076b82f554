//! `query`: users or channels that match.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{PAGE, list};
use crate::condition::{self, filter};
use crate::failure::Failure;
use crate::output::{Kind, Output, note};
use crate::session::{Door, Session};

/// The most channels that one request returns.
const CHANNELS: u32 = 30;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    Users,
    Channels,
}

#[derive(Args)]
pub struct Query {
    /// The kind of record to find
    what: What,
    #[arg(value_name = "CONDITION", help = condition::HELP)]
    conditions: Vec<String>,
    /// The order, such as -last_active,id, or JSON
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", conflicts_with = "all")]
    limit: Option<u32>,
    /// All of them, in the order of their ids
    #[arg(long, conflicts_with = "sort")]
    all: bool,
    /// Print the number of matching users
    #[arg(long, conflicts_with_all = ["sort", "limit", "all"])]
    count: bool,
}

impl Query {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        let matching = filter(&self.conditions)?;
        if self.count {
            return match self.what {
                What::Users => super::count::print(&door, matching, output).await,
                What::Channels => Err(Failure::usage("users can be counted, channels cannot")),
            };
        }
        if self.all {
            output.refuse_raw()?;
            return self.pages(&door, matching, output).await;
        }
        let mut body = json!({"filter": matching, "presence": true});
        if let Some(sort) = &self.sort {
            body["sort"] = condition::sort(sort)?;
        }
        if let Some(limit) = self.limit {
            body["limit"] = limit.into();
        }
        let (operation, name, kind) = self.wire();
        if self.what == What::Channels {
            body["online_count"] = true.into();
        }
        let answer = door.request(operation, &body).await?;
        if output.raw(&answer)? {
            return Ok(());
        }
        output.records(kind, &list(&answer, name))?;
        if answer["more"] == true {
            note("there are more: --all, or another --limit");
        }
        Ok(())
    }

    fn wire(&self) -> (&'static str, &'static str, Kind) {
        match self.what {
            What::Users => ("query_users", "users", Kind::User),
            What::Channels => ("query_channels", "channels", Kind::Channel),
        }
    }

    /// Asks page by page; lines come out as they come in.
    async fn pages(&self, door: &Door, matching: Value, output: &Output) -> Result<(), Failure> {
        let (operation, name, kind) = self.wire();
        let (key, limit) = match self.what {
            What::Users => ("id", PAGE as u32),
            What::Channels => ("cid", CHANNELS),
        };
        let mut body =
            json!({"filter": matching, "sort": {key: 1}, "limit": limit, "presence": true});
        let mut all = Vec::new();
        loop {
            let answer = door.request(operation, &body).await?;
            let page = list(&answer, name);
            let last = page.last().map(|record| record[key].clone());
            if output.is_line_by_line() {
                output.records(kind, &page)?;
            } else {
                all.extend(page);
            }
            let (true, Some(last)) = (answer["more"] == true, last) else { break };
            body["filter"] = json!({"$and": [matching, {key: {"$gt": last}}]});
        }
        if output.is_line_by_line() { Ok(()) } else { output.records(kind, &all) }
    }
}
