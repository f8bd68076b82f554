//! `import`: users from JSON lines, as `export` writes them.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use chrono::Utc;
use clap::Args;
use presenced_client::Id;
use serde_json::{Map, Value, json};

use super::PAGE;
use super::progress_file::ProgressFile;
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
        output.needs_records()?;
        session.service()?;
        let door = session.door()?;
        let (total, content) = self.check()?;
        if self.dry_run {
            output.result(&json!({"users": total}), &format!("{total} users could be imported"))?;
            return Ok(());
        }
        let progress = ProgressFile::beside(&self.file, &(session.cell(), content));
        let done = progress.done()?;
        if done > 0 {
            note(&format!("going on after line {done}, as {} says", progress.path().display()));
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
            progress.set(at)?;
            bar.inc(count as u64);
        }
        bar.finish_and_clear();
        progress.remove();
        output.result(&json!({"imported": at - done}), &format!("imported {} users", at - done))?;
        Ok(())
    }

    /// Reads every line before the first is sent: their number, and what tells them from others.
    fn check(&self) -> Result<(usize, u64), Failure> {
        let name = self.file.display();
        // It is read twice.
        if self.file.exists() && !self.file.is_file() {
            return Err(Failure::usage(format!("{name} is no regular file: save it in one first")));
        }
        let (mut count, mut content) = (0, DefaultHasher::new());
        for user in self.users()? {
            user?["id"].hash(&mut content);
            count += 1;
        }
        Ok((count, content.finish()))
    }

    fn users(&self) -> Result<impl Iterator<Item = Result<User, Failure>>, Failure> {
        let name = self.file.display().to_string();
        let at_name = |error: &io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let file = File::open(&self.file).map_err(|error| at_name(&error))?;
        let lines = BufReader::new(file).lines().enumerate();
        Ok(lines.map(move |(number, line)| {
            let at = number + 1;
            user(&line?).map_err(|error| Failure::usage(format!("{name}, line {at}: {error}")))
        }))
    }
}

/// The reason why a line is no user.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("no \"id\", which is a text")]
    NoId,
    #[error("{0}")]
    Id(presenced_client::Error),
}

fn user(line: &str) -> Result<User, LineError> {
    let mut user: User = serde_json::from_str(line)?;
    let id = user.get("id").and_then(Value::as_str).ok_or(LineError::NoId)?;
    Id::parse(id).map_err(LineError::Id)?;
    // A status that has ended meanwhile is none.
    let end = user.get("status_expires_at").and_then(parse_time);
    if end.is_some_and(|end| end <= Utc::now()) {
        user.remove("status_expires_at");
        user.remove("status");
    }
    Ok(user)
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
