//! `import`: users from JSON lines, as `export` writes them.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::Args;
use presenced_client::{Error, Id};
use serde_json::{Map, Value, json};

use super::PAGE;
use super::progress_file::{Done, ProgressFile};
use crate::failure::Failure;
use crate::output::{Output, note, parse_time};
use crate::progress::bar;
use crate::session::Session;

#[derive(Args)]
pub struct Import {
    /// The file to read; FILE.progress says after which line an import that was cut off goes on
    file: PathBuf,
    /// Read the file only, and check that each line is a user with an id; its fields are checked by
    /// the service
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
        let progress = ProgressFile::beside(&self.file, &session.cell());
        let Done { count: done, content } = progress.done()?;
        // Lines that are done count as they were; the others may have been mended.
        let mut content_done = DefaultHasher::new();
        for line in self.lines()?.take(done) {
            line?.text.hash(&mut content_done);
        }
        if done > 0 && content_done.finish() != content {
            return Err(progress.foreign());
        }
        if done > 0 {
            note(&format!("going on after line {done}, as {} says", progress.path().display()));
        }
        let bar = bar(total as u64, "imported");
        bar.inc(done as u64);
        let mut lines = self.lines()?.skip(done);
        let mut at = done;
        loop {
            let lines: Vec<Line> = lines.by_ref().take(PAGE).collect::<Result<_, _>>()?;
            let users: Vec<User> = lines.iter().map(Line::user).collect::<Result<_, _>>()?;
            let (Some(first), Some(last)) = (lines.first(), lines.last()) else { break };
            let count = users.len();
            let asked = door.request("upsert_users", &json!({"users": users})).await;
            if let Err(error) = asked {
                bar.abandon();
                match at_fault(&error).and_then(|index| lines.get(index)) {
                    Some(line) => note(&format!("{}:", line.at)),
                    None => note(&format!("{} to line {}:", first.at, last.number)),
                }
                return Err(error.into());
            }
            at += count;
            lines.iter().for_each(|line| line.text.hash(&mut content_done));
            progress.set(Done { count: at, content: content_done.finish() })?;
            bar.inc(count as u64);
        }
        bar.finish_and_clear();
        progress.remove();
        output.result(&json!({"imported": at - done}), &format!("imported {} users", at - done))?;
        Ok(())
    }

    /// Reads every line before the first is sent, and counts them.
    fn check(&self) -> Result<usize, Failure> {
        let name = self.file.display();
        // It is read twice.
        let is_stdin = self.file == Path::new("-");
        if is_stdin || self.file.exists() && !self.file.is_file() {
            return Err(Failure::usage(format!("{name} is no regular file: save it in one first")));
        }
        self.lines()?.try_fold(0, |count, line| line?.user().map(|_| count + 1))
    }

    /// The lines that are not blank.
    fn lines(&self) -> Result<impl Iterator<Item = Result<Line, Failure>>, Failure> {
        let name = self.file.display().to_string();
        let file = File::open(&self.file).map_err(Failure::reading(&self.file))?;
        let lines = (1..).zip(BufReader::new(file).lines()).map(move |(number, text)| {
            let at = format!("{name}, line {number}");
            match text {
                Ok(text) => {
                    // Some editors begin a file with a mark of its encoding.
                    let text = text.trim_start_matches('\u{feff}').to_owned();
                    Ok(Line { number, at, text })
                }
                Err(error) => Err(Failure::usage(format!("{at}: {error}"))),
            }
        });
        Ok(lines.filter(|line| line.as_ref().map_or(true, |line| !line.text.trim().is_empty())))
    }
}

/// A line of the file.
struct Line {
    number: usize,
    /// Its place, for messages.
    at: String,
    text: String,
}

impl Line {
    fn user(&self) -> Result<User, Failure> {
        user(&self.text).map_err(|error| Failure::usage(format!("{}: {error}", self.at)))
    }
}

/// The user of a request that the service refused.
fn at_fault(error: &Error) -> Option<usize> {
    error.field()?.strip_prefix("users[")?.split(']').next()?.parse().ok()
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
