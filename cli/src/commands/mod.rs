//! One file per command: its flags, and what it does.

pub mod channel;
pub mod check;
pub mod connect;
pub mod count;
pub mod daemons;
pub mod delete;
pub mod explain;
pub mod export;
pub mod get;
pub mod import;
pub mod keys;
pub mod manual;
pub mod permissions;
mod progress_file;
pub mod query;
pub mod set;
pub mod top;
pub mod wait;
pub mod watch;
pub mod who;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::session::Door;

/// The most users that one request returns.
pub const PAGE: usize = 100;

/// A list that is part of an answer.
fn list(answer: &Value, name: &str) -> Vec<Value> {
    answer[name].as_array().cloned().unwrap_or_default()
}

/// Users by their ids, those that there are, in the order of the ids.
async fn users_by_id(door: &Door, ids: &[String]) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    for chunk in ids.chunks(PAGE) {
        let filter = json!({"id": {"$in": chunk}});
        let body = json!({"filter": filter, "limit": PAGE, "presence": true});
        found.extend(list(&door.request("query_users", &body).await?, "users"));
    }
    found.sort_by_key(|user| ids.iter().position(|id| user["id"] == id.as_str()));
    Ok(found)
}

/// A text that names no channel.
#[derive(Debug, thiserror::Error)]
#[error("expected TYPE:ID")]
struct NoChannelName;

/// A channel as it is written: `type:id`.
fn channel_name(text: &str) -> Result<(String, String), NoChannelName> {
    match text.split_once(':') {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
            Ok((kind.to_owned(), id.to_owned()))
        }
        _ => Err(NoChannelName),
    }
}

/// A channel that there is, with its members.
pub async fn channel(door: &Door, kind: &str, id: &str) -> Result<Value, Failure> {
    let cid = format!("{kind}:{id}");
    let body = json!({"filter": {"cid": cid}, "member_limit": PAGE, "presence": true});
    let answer = door.request("query_channels", &body).await?;
    let found = list(&answer, "channels").into_iter().next();
    found.ok_or_else(|| Failure::not_so(format!("there is no channel {cid}")))
}

/// The members of a channel as users.
pub fn members(channel: &Value) -> Vec<Value> {
    list(channel, "members").iter().map(|member| member["user"].clone()).collect()
}

/// Says when a channel has members beyond those that are shown.
pub fn note_missing_members(channel: &Value, shown: usize) {
    if channel["member_count"].as_u64().is_some_and(|count| count > shown as u64) {
        let text = format!("the first {shown} of {} members", channel["member_count"]);
        crate::output::note(&text);
    }
}
