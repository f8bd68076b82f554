//! Channels in requests and answers.

use serde_json::{Value, json};

use super::{Client, Pair, Server, Settings};

/// Settings in a file: a type whose channels clients make, and one without presence.
pub const TYPES: &str = "[channel_types.team]\nclient_create = true\n\
    [channel_types.livestream]\npresence = false\nclient_create = true\n";

/// Two daemons with these channel types.
pub async fn pair_with_types(settings: Settings<'_>) -> Pair {
    Pair::with_file(Server::start().await, settings, TYPES).await
}

/// `u0`, `u1` and so on.
pub fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("u{n}")).collect()
}

/// The members that an answer shows, in its order.
pub fn members(channel: &Value) -> Vec<&str> {
    let members = channel["members"].as_array().unwrap_or_else(|| panic!("no members: {channel}"));
    members.iter().map(|member| member["user_id"].as_str().unwrap()).collect()
}

/// A member's user as an answer shows it.
pub fn user<'a>(channel: &'a Value, id: &str) -> &'a Value {
    let members = channel["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["user_id"] == id);
    &member.unwrap_or_else(|| panic!("no {id}: {channel}"))["user"]
}

/// The request with `type` and `id` of the channel `messaging:<id>` in it.
pub fn of(id: &str, mut body: Value) -> Value {
    body["type"] = json!("messaging");
    body["id"] = json!(id);
    body
}

impl Client {
    /// Makes or changes the channel `messaging:<id>`.
    pub async fn channel(&self, id: &str, body: Value) -> Value {
        self.get("upsert_channel", of(id, body)).await["channel"].take()
    }

    /// The channel `messaging:<id>`, freshly read, as an answer to a watch.
    pub async fn watch(&self, id: &str) -> Value {
        self.get("watch_channel", of(id, json!({"presence": true}))).await
    }

    /// The ids of the channels that a query finds, freshly read, in its order.
    pub async fn find(&self, mut body: Value) -> Vec<String> {
        body["presence"] = json!(true);
        let answer = self.get("query_channels", body).await;
        let channels = answer["channels"].as_array().unwrap().iter();
        channels.map(|channel| channel["id"].as_str().unwrap().to_owned()).collect()
    }
}
