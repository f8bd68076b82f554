//! `import`: users from JSON lines, as `export` writes them.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::Args;
use presenced_client::Id;
use serde_json::{Map, Value, json};

use super::PAGE;
use crate::failure::Failure;
use crate::output::{Output, note, parse_time};
use crate::progress::bar;
use crate::session::Session;

#[derive(Args)]
pub struct Import {
    /// The file to read; FILE.progress says after which line an import that was cut off goes on
    file: PathBuf,
    /// Read and check the file only
    #[arg(long)]
    dry_run: bool,
}

type User = Map<String, Value>;

impl Import {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        session.service()?;
        let door = session.door()?;
        let total = self.check()?;
        if self.dry_run {
            output.result(&json!({"users": total}), &format!("{total} users could be imported"))?;
            return Ok(());
        }
        let progress = self.progress();
        let done = fs::read_to_string(&progress).ok().and_then(|text| text.trim().parse().ok());
        let done: usize = done.unwrap_or(0);
        if done > 0 {
            note(&format!("going on after line {done}, as {} says", progress.display()));
        }
        let bar = bar(total as u64, "imported");
        bar.inc(done as u64);
        let mut lines = self.users()?.skip(done);
        let mut at = done;
        loop {
            let users: Vec<User> = lines.by_ref().take(PAGE).collect::<Result<_, _>>()?;
            if users.is_empty() {
                break;
            }
            let count = users.len();
            let asked = door.request("upsert_users", &json!({"users": users})).await;
            if let Err(error) = asked {
                bar.abandon();
                note(&format!("in lines {} to {} of {}:", at + 1, at + count, self.file.display()));
                return Err(error.into());
            }
            at += count;
            write_whole(&progress, &at.to_string())?;
            bar.inc(count as u64);
        }
        bar.finish_and_clear();
        // There is none if the file held no user.
        let _ = fs::remove_file(&progress);
        output.result(&json!({"imported": at - done}), &format!("imported {} users", at - done))?;
        Ok(())
    }

    fn progress(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".progress");
        name.into()
    }

    /// Reads every line before the first is sent.
    fn check(&self) -> Result<usize, Failure> {
        let mut count = 0;
        for user in self.users()? {
            user?;
            count += 1;
        }
        Ok(count)
    }

    fn users(&self) -> Result<impl Iterator<Item = Result<User, Failure>>, Failure> {
        let name = self.file.display().to_string();
        let at_name = |error: &io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let file = File::open(&self.file).map_err(|error| at_name(&error))?;
        let lines = BufReader::new(file).lines().enumerate();
        Ok(lines.map(move |(number, line)| {
            let wrong = |what: &str| Failure::usage(format!("{name}, line {}: {what}", number + 1));
            user(&line?).map_err(|what| wrong(&what))
        }))
    }
}

fn user(line: &str) -> Result<User, String> {
    let mut user: User = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let id = user.get("id").and_then(Value::as_str).ok_or("no \"id\", which is a text")?;
    Id::parse(id).map_err(|error| error.to_string())?;
    // A status that has ended meanwhile is none.
    let end = user.get("status_expires_at").and_then(parse_time);
    if end.is_some_and(|end| end <= Utc::now()) {
        user.remove("status_expires_at");
        user.remove("status");
    }
    Ok(user)
}

/// Never half a number, even if the power goes.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_user_with_an_id() {
        assert!(user(r#"{"id":"john","team":"red"}"#).is_ok());
        for line in ["", "{", "[]", r#"{"team":"red"}"#, r#"{"id":7}"#, r#"{"id":""}"#] {
            assert!(user(line).is_err(), "{line}");
        }
        let ended = r#"{"id":"john","status":"lunch","status_expires_at":"2020-01-01T00:00:00Z"}"#;
        assert_eq!(user(ended).unwrap().len(), 1);
    }
}
