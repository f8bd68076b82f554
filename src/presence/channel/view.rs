//! A channel as everyone sees it; its members' users are shown by their own projection.

use super::key::ChannelKey;
use super::record::Record;
use crate::presence::id::Id;
use crate::presence::json;

/// A channel with as many of its members as an answer needs.
#[derive(Debug, Clone)]
pub struct Page {
    pub key: ChannelKey,
    pub record: Record,
    pub member_count: usize,
    /// The number of all members whom the viewer sees online, if it was asked for.
    pub online_count: Option<usize>,
}

impl Page {
    /// Takes the first `members` members of a channel.
    pub fn of(key: &ChannelKey, record: &Record, members: usize) -> Self {
        let first: Vec<Id> = record.members.iter().take(members).cloned().collect();
        Self {
            key: key.clone(),
            member_count: record.members.len(),
            online_count: None,
            record: Record {
                members: first,
                custom: record.custom.clone(),
                unknown: None,
                ..*record
            },
        }
    }
}

/// Appends the fields of a channel and leaves the object open. `push_member` writes one member's
/// user; `members` is how many are shown.
pub fn push_fields(
    out: &mut Vec<u8>,
    page: &Page,
    members: usize,
    mut push_user: impl FnMut(&mut Vec<u8>, &Id),
) {
    json::push(out, "{\"type\":");
    json::push_str(out, page.key.kind());
    json::push(out, ",\"id\":");
    json::push_str(out, page.key.id());
    json::push(out, ",\"cid\":");
    json::push_str(out, page.key.cid());
    json::push(out, ",\"member_count\":");
    json::push_number(out, page.member_count as u64);
    if let Some(count) = page.online_count {
        json::push(out, ",\"online_count\":");
        json::push_number(out, count as u64);
    }
    json::push(out, ",\"members\":");
    json::push_array(out, page.record.members.iter().take(members), |out, id| {
        json::push(out, "{\"user_id\":");
        json::push_str(out, id.as_str());
        json::push(out, ",\"user\":");
        push_user(out, id);
        out.push(b'}');
    });
    if !page.record.custom.is_empty() {
        out.push(b',');
        json::push(out, page.record.custom.as_members());
    }
    json::push(out, ",\"last_message_at\":");
    json::push_optional_time(out, page.record.last_message_at);
    json::push(out, ",\"created_at\":");
    json::push_optional_time(out, Some(page.record.created_at));
    json::push(out, ",\"updated_at\":");
    json::push_optional_time(out, Some(page.record.updated_at));
}
