//! `set`: the fields of a user.

use chrono::{Datelike, SecondsFormat, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use presenced_client::Patch;
use serde_json::{Map, Value, json};

use crate::args::Changes;
use crate::condition::json_or_text;
use crate::failure::Failure;
use crate::output::{Kind, Output};
use crate::session::Session;

#[derive(Clone, Copy, ValueEnum)]
pub enum Availability {
    Auto,
    Away,
    Busy,
}

#[derive(Args)]
pub struct Set {
    /// The id of the user
    user: String,
    #[command(flatten)]
    changes: Changes,
    /// Remove the status
    #[arg(long, conflicts_with = "status")]
    no_status: bool,
    /// Be shown to others again
    #[arg(long, conflicts_with = "invisible")]
    visible: bool,
    /// The availability to show while online
    #[arg(long, value_name = "CHOICE")]
    availability: Option<Availability>,
    /// Hide from others when the user was last active
    #[arg(long)]
    hide_last_active: bool,
    /// Show others when the user was last active
    #[arg(long, conflicts_with = "hide_last_active")]
    show_last_active: bool,
    /// Remove a custom field. May be repeated
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

impl Set {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let door = session.door()?;
        door.check_user(&self.user)?;
        let mut user = self.changes.fields()?;
        if self.no_status {
            user.insert("status".to_owned(), Value::Null);
        }
        if self.visible {
            user.insert("invisible".to_owned(), false.into());
        }
        if let Some(choice) = self.availability {
            let name = match choice {
                Availability::Auto => "auto",
                Availability::Away => "away",
                Availability::Busy => "busy",
            };
            user.insert("availability".to_owned(), name.into());
        }
        if self.hide_last_active || self.show_last_active {
            user.insert("hide_last_active".to_owned(), self.hide_last_active.into());
        }
        for name in self.unset {
            Patch::new().unset(&name)?;
            if user.contains_key(&name) {
                return Err(Failure::usage(format!("{name:?} is both set and removed")));
            }
            user.insert(name, Value::Null);
        }
        user.insert("id".to_owned(), self.user.as_str().into());
        let answer = door.request("upsert_users", &json!({"users": [user]})).await?;
        if output.raw(&answer)? {
            return Ok(());
        }
        output.record(Kind::User, &answer["users"][self.user.as_str()])
    }
}

impl Changes {
    /// As the fields of a user object.
    pub fn fields(&self) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        if let Some(status) = &self.status {
            fields.insert("status".to_owned(), status.as_str().into());
        }
        if let Some(end) = self.status_end()? {
            fields.insert("status_expires_at".to_owned(), end.into());
        }
        if self.invisible {
            fields.insert("invisible".to_owned(), true.into());
        }
        for (name, value) in self.custom()? {
            fields.insert(name.to_owned(), value);
        }
        Ok(fields)
    }

    /// The time at which the status ends, if it does.
    pub fn status_end(&self) -> Result<Option<String>, Failure> {
        let Some(period) = self.status_for else { return Ok(None) };
        let period = TimeDelta::from_std(period).ok();
        let end = period.and_then(|period| Utc::now().checked_add_signed(period));
        let end = end.filter(|end| end.year() <= 9999);
        let end = end.ok_or_else(|| Failure::usage("--status-for ends after the year 9999"))?;
        Ok(Some(end.to_rfc3339_opts(SecondsFormat::Millis, true)))
    }

    /// Names and values of custom fields.
    pub fn custom(&self) -> Result<Vec<(&str, Value)>, Failure> {
        let pairs = self.fields.iter().map(|text| match text.split_once('=') {
            Some((name, value)) => {
                Patch::new().set(name, Value::Null)?;
                Ok((name, json_or_text(value)))
            }
            None => Err(Failure::usage(format!("{text:?}: write a field as name=value"))),
        });
        pairs.collect()
    }
}
