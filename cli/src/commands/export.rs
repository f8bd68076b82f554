//! `export`: users as JSON lines, with what they themselves have set. Connections stay behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};

use super::progress_file::{Done, ProgressFile};
use super::{PAGE, list};
use crate::condition::{self, filter};
use crate::failure::Failure;
use crate::output::{Kind, note};
use crate::progress::bar;
use crate::session::{Door, Session};

/// The fields that the service keeps or derives: no user has set them.
const NOT_OWN: [&str; 9] = [
    "online",
    "last_active",
    "offline_since",
    "availability_choice",
    "devices",
    "created_at",
    "updated_at",
    "version",
    "id",
];
/// The part of an export itself says how far it is.
const BEGUN: Done = Done { count: 1, content: 0 };
/// Requests under way at a time.
const IN_FLIGHT: usize = 32;

#[derive(Args)]
pub struct Export {
    /// The file to write, by way of FILE.part, from which an export that was cut off goes on;
    /// standard output without it, or for -
    file: Option<PathBuf>,
    #[arg(long = "where", value_name = "CONDITION", help = condition::HELP)]
    conditions: Vec<String>,
}

impl Export {
    pub async fn run(self, session: &Session) -> Result<(), Failure> {
        session.service()?;
        let door = session.door()?;
        let matching = filter(&self.conditions)?;
        let Some(file) = self.file.as_ref().filter(|file| *file != Path::new("-")) else {
            let mut stdout = io::stdout().lock();
            return users(&door, &matching, None, &mut stdout).await.map(|_| ());
        };
        if file.exists() {
            let text = format!("{} exists: name another file, or remove it", file.display());
            return Err(Failure::usage(text));
        }
        let mut part = file.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        // It holds users of this server that match these conditions, and no others.
        let progress = ProgressFile::beside(&part, &(session.cell(), matching.to_string()));
        if !part.exists() {
            progress.remove();
        } else if !progress.done().is_ok_and(|done| done == BEGUN) {
            let text = "is of an export from another server or with other conditions: remove it to \
                        begin again";
            return Err(Failure::usage(format!("{} {text}", part.display())));
        }
        // What cannot begin leaves no file.
        door.check_served().await?;
        progress.set(BEGUN)?;
        let last = last_id(&part)?;
        if let Some(last) = &last {
            note(&format!("going on after {last}, as {} says", part.display()));
        }
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&part);
        let mut writer = BufWriter::new(opened.map_err(Failure::writing(&part))?);
        let count = users(&door, &matching, last, &mut writer).await;
        let count = count.map_err(|failure| failure.of_output(&part))?;
        let written = writer.into_inner().map_err(io::IntoInnerError::into_error);
        let synced = written.and_then(|written| written.sync_all());
        synced.map_err(Failure::writing(&part))?;
        fs::rename(&part, file).map_err(Failure::writing(file))?;
        progress.remove();
        note(&format!("exported {count} users to {}", file.display()));
        Ok(())
    }
}

/// The user that was written last; a line that was cut off is taken back.
fn last_id(part: &Path) -> Result<Option<String>, Failure> {
    let file = match File::open(part) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::reading(part)(error)),
    };
    let mut reader = BufReader::new(file);
    let (mut whole, mut last) = (0, None);
    let mut line = String::new();
    let mut next = |line: &mut String| reader.read_line(line).map_err(Failure::reading(part));
    while next(&mut line)? > 0 && line.ends_with('\n') {
        whole += line.len() as u64;
        let user: Value =
            serde_json::from_str(&line).map_err(|error| Failure::reading(part)(error.into()))?;
        last = Some(Kind::User.id(&user));
        line.clear();
    }
    let cut = OpenOptions::new().write(true).open(part).and_then(|file| file.set_len(whole));
    cut.map_err(Failure::writing(part))?;
    Ok(last)
}

/// Writes all users that match, by id, those behind `last`.
async fn users(
    door: &Door,
    matching: &Value,
    last: Option<String>,
    writer: &mut impl Write,
) -> Result<u64, Failure> {
    let behind = |last: &Option<String>| match last {
        Some(last) => json!({"$and": [matching, {"id": {"$gt": last}}]}),
        None => matching.clone(),
    };
    let mut last = last;
    let counted = json!({"filter": behind(&last), "presence": true});
    let total = door.request("count_users", &counted).await?["count"].as_u64();
    let bar = bar(total.unwrap_or(0), "exported");
    let mut count = 0;
    loop {
        let body = json!({"filter": behind(&last), "limit": PAGE, "presence": true});
        let page = door.request("query_users", &body).await?;
        let found = list(&page, "users");
        let ids: Vec<String> = found.iter().map(|user| Kind::User.id(user)).collect();
        let own: Vec<Option<Value>> =
            stream::iter(&ids).map(|id| own(door, id)).buffered(IN_FLIGHT).try_collect().await?;
        for user in own.into_iter().flatten() {
            writeln!(writer, "{user}")?;
            count += 1;
        }
        writer.flush()?;
        bar.inc(ids.len() as u64);
        last = ids.into_iter().last().or(last);
        if page["more"] != true {
            bar.finish_and_clear();
            return Ok(count);
        }
    }
}

/// The fields that a user has set, as it sees itself; `None` if it was deleted meanwhile.
async fn own(door: &Door, id: &str) -> Result<Option<Value>, Failure> {
    let body = json!({"filter": {"id": id}, "limit": 1, "as": id});
    let found = list(&door.request("query_users", &body).await?, "users").into_iter().next();
    let Some(Value::Object(me)) = found else { return Ok(None) };
    Ok(Some(Value::Object(set_by(id, me))))
}

fn set_by(id: &str, mut me: Map<String, Value>) -> Map<String, Value> {
    let choice = me.remove("availability_choice");
    me.remove("availability");
    me.retain(|name, value| !NOT_OWN.contains(&name.as_str()) && !value.is_null());
    for name in ["invisible", "hide_last_active"] {
        if me.get(name) == Some(&Value::Bool(false)) {
            me.remove(name);
        }
    }
    if let Some(choice) = choice.filter(|choice| choice != "auto") {
        me.insert("availability".to_owned(), choice);
    }
    me.insert("id".to_owned(), id.into());
    me
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_has_set_is_kept_and_nothing_else() {
        let me = json!({
            "id": "john", "online": true, "status": "here", "last_active": "2026-01-01T00:00:00Z",
            "offline_since": null, "availability": "busy", "availability_choice": "busy",
            "invisible": true, "hide_last_active": false, "version": 7, "team": "red",
        });
        let Value::Object(me) = me else { panic!() };
        let own = Value::Object(set_by("john", me));
        let expected = json!({
            "id": "john", "status": "here", "availability": "busy", "invisible": true,
            "team": "red",
        });
        assert_eq!(own, expected);
    }

    #[test]
    fn an_export_that_was_cut_off_goes_on_behind_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("users.part");
        assert_eq!(last_id(&part).unwrap(), None);
        fs::write(&part, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c").unwrap();
        assert_eq!(last_id(&part).unwrap().as_deref(), Some("b"));
        assert_eq!(fs::read_to_string(&part).unwrap(), "{\"id\":\"a\"}\n{\"id\":\"b\"}\n");
    }
}
