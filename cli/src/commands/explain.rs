//! `explain`: why a user is shown as it is.

use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Format, Kind, Output, Table, line};
use crate::session::Session;

#[derive(Args)]
pub struct Explain {
    /// The id of the user
    user: String,
}

impl Explain {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        session.service()?;
        let answer = session.door()?.request("explain", &json!({"user_id": self.user})).await?;
        if output.raw(&answer)? {
            return Ok(());
        }
        if output.format != Format::Table {
            return output.record(Kind::User, &answer);
        }
        print(&answer, output)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("–").to_owned()
}

fn print(answer: &Value, output: &Output) -> Result<(), Failure> {
    let times = output.times();
    let when = |value: &Value| match value.is_null() {
        true => "not yet".to_owned(),
        false => times.ago(value),
    };
    let mut summary = Table::pairs();
    for (name, value) in [
        ("user", text(&answer["user_id"])),
        (
            "shown",
            format!(
                "{} – {}",
                text(&answer["shown"]["availability"]),
                text(&answer["shown"]["why"])
            ),
        ),
        ("revision", answer["rev"].to_string()),
        ("answered by", text(&answer["seen_by"])),
    ] {
        summary.row([name.to_owned(), value], None);
    }
    if let Some(why) = answer["deaf"].as_str() {
        let state = format!("it cannot be sure that it hears, and ends no lease: {why}");
        summary.row(["this daemon".to_owned(), state], None);
    }
    output.table(&summary)?;
    let mut table = Table::new(&["CONNECTION", "DEVICE", "LEASE", "LAST HEARD", "LAPSES", "ACTS"]);
    for connection in answer["connections"].as_array().into_iter().flatten() {
        let idle = if connection["idle"] == true { " (idle)" } else { "" };
        let cells = [
            text(&connection["connection_id"]),
            format!("{}{idle}", text(&connection["device"])),
            text(&connection["lease"]),
            when(&connection["last_heard"]),
            when(&connection["lapses_at"]),
            text(&connection["acts"]),
        ];
        table.row(cells, None);
    }
    for leaving in answer["leaving"].as_array().into_iter().flatten() {
        let cells = [
            text(&leaving["connection_id"]),
            text(&leaving["device"]),
            "leaving".to_owned(),
            when(&leaving["since"]),
            when(&leaving["until"]),
            String::new(),
        ];
        table.row(cells, None);
    }
    line("")?;
    output.table(&table)?;
    Ok(())
}
