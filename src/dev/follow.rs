//! The output of `presenced dev`: a welcome, and one line for each presence change.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use async_nats::Client;
use futures_util::StreamExt;
use serde_json::Value;

use crate::config::Subjects;

/// The address, the fate of the data, three commands to try, and the one that opens a page to look at.
pub fn welcome(url: &str, dir: &Path, is_kept: bool, subjects: &Subjects) -> String {
    let prefix = subjects.requests();
    let tries = [
        (
            "connect",
            r#"{"user":{"id":"john","status":"Eating a veggie burger..."},"connection_id":"c1"}"#,
        ),
        (
            "query_users",
            r#"{"filter":{"id":{"$in":["john","jack"]}},"sort":{"id":-1},"presence":true}"#,
        ),
        ("disconnect", r#"{"user_id":"john","connection_id":"c1"}"#),
    ];
    let fate = match is_kept {
        true => {
            "Users with their connections and channels are kept there for the next start; \
             --ephemeral keeps nothing."
        }
        false => {
            "Nothing is kept: users, channels and the log of nats-server are removed with that \
             folder at the end."
        }
    };
    let mut text = format!(
        "presenced serves on {url} (data in {})\n{fate}\n\nTry, in another terminal:\n",
        dir.display()
    );
    for (operation, body) in tries {
        let _ = writeln!(text, "  nats --server {url} request {prefix}.{operation} '{body}'");
    }
    let _ = writeln!(text, "\nA page to look at, with two lively users:");
    let (prefix, events) = (&subjects.prefix, &subjects.events);
    let cell = format!("--prefix {prefix} --events {events}");
    let _ = writeln!(text, "  presencectl --server {url} {cell} web --write --demo --open");
    text.push_str("\nPresence changes, until Ctrl-C:");
    text
}

/// Prints one line for each change, for as long as the connection lasts.
pub async fn changes(client: &Client, events: &str) -> Result<()> {
    let subject = format!("{events}.*");
    let mut changes = client.subscribe(subject).await.context("cannot follow the changes")?;
    while let Some(change) = changes.next().await {
        if let Ok(event) = serde_json::from_slice::<Value>(&change.payload) {
            println!("{}", line(&event));
        }
    }
    Ok(())
}

/// `13:17:42.375  john  online  "Eating a veggie burger..."`
fn line(event: &Value) -> String {
    let user = &event["user"];
    let at = event["created_at"].as_str().unwrap_or_default();
    let time = at.get(11..23).unwrap_or(at);
    let state = if user["online"] == true { "online" } else { "offline" };
    // Escaped, as ids and statuses may hold control sequences of a terminal.
    let id = user["id"].as_str().unwrap_or_default().escape_debug();
    match user["status"].as_str() {
        Some(status) => format!("{time}  {id}  {state}  {status:?}"),
        None => format!("{time}  {id}  {state}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let event = json!({
            "created_at": "2019-01-07T13:17:42.375Z",
            "user": { "id": "john", "online": true, "status": "a\nb" },
        });
        assert_eq!(line(&event), r#"13:17:42.375  john  online  "a\nb""#);
    }
}
