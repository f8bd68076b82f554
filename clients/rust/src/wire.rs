//! The messages of the contract as types, from which the JSON Schemas in `docs/schema` are made.
//!
//! Requests are closed: a field that the contract does not name is refused. Answers and events are
//! open, as later daemons may say more.

#![expect(missing_docs, reason = "docs/protocol.md describes each field")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::user::Seen;

/// The name of each message, and its schema.
pub fn schemas() -> BTreeMap<&'static str, Schema> {
    BTreeMap::from([
        ("connect.request", schema_for!(Connect)),
        ("connect.answer", schema_for!(Connected)),
        ("update_connection.request", schema_for!(UpdateConnection)),
        ("update_connection.answer", schema_for!(ConnectionUpdated)),
        ("heartbeat.request", schema_for!(Heartbeat)),
        ("heartbeat.answer", schema_for!(HeartbeatAnswer)),
        ("disconnect.request", schema_for!(Disconnect)),
        ("disconnect.answer", schema_for!(Disconnected)),
        ("upsert_users.request", schema_for!(UpsertUsers)),
        ("upsert_users.answer", schema_for!(UsersUpserted)),
        ("delete_users.request", schema_for!(DeleteUsers)),
        ("delete_users.answer", schema_for!(UsersDeleted)),
        ("query_users.request", schema_for!(QueryUsers)),
        ("query_users.answer", schema_for!(UsersFound)),
        ("count_users.request", schema_for!(CountUsers)),
        ("count_users.answer", schema_for!(UsersCounted)),
        ("upsert_channel.request", schema_for!(UpsertChannel)),
        ("upsert_channel.answer", schema_for!(ChannelUpserted)),
        ("delete_channel.request", schema_for!(DeleteChannel)),
        ("delete_channel.answer", schema_for!(ChannelDeleted)),
        ("watch_channel.request", schema_for!(WatchChannel)),
        ("watch_channel.answer", schema_for!(ChannelWatched)),
        ("query_channels.request", schema_for!(QueryChannels)),
        ("query_channels.answer", schema_for!(ChannelsFound)),
        ("batch.request", schema_for!(Batch)),
        ("batch.answer", schema_for!(BatchResults)),
        ("explain.request", schema_for!(Explain)),
        ("explain.answer", schema_for!(Map<String, Value>)),
        ("error", schema_for!(ErrorReply)),
        ("user.presence.changed", schema_for!(UserChanged)),
        ("channel.presence.changed", schema_for!(ChannelChanged)),
    ])
}

/// A partial user: `null` removes; other names are custom fields.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct UserPatch {
    pub id: Option<String>,
    pub status: Option<String>,
    pub status_expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub invisible: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub hide_last_active: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AvailabilityChoice")]
    pub availability: Option<AvailabilityChoice>,
    #[serde(flatten)]
    pub custom: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AvailabilityChoice {
    Auto,
    Away,
    Busy,
}

macro_rules! requests {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => { $(
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$attribute])* pub $field: $type),* }
    )* };
}

macro_rules! answers {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => { $(
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        pub struct $name { $($(#[$attribute])* pub $field: $type),* }
    )* };
}

requests! {
    Connect {
        user: Option<UserPatch>, defaults: Option<UserPatch>, connection_id: Option<String>,
        lease: Option<String>, device: Option<String>, idle: Option<bool>,
    }
    UpdateConnection {
        user_id: Option<String>, connection_id: String, device: Option<String>, idle: Option<bool>,
    }
    Heartbeat {
        user_id: Option<String>, connection_id: Option<String>,
        #[schemars(length(max = 1000))]
        connections: Option<Vec<ConnectionName>>,
        lease: Option<String>,
    }
    Disconnect {
        user_id: Option<String>, connection_id: Option<String>, lease: Option<String>,
        grace_ms: Option<u64>,
    }
    UpsertUsers {
        #[schemars(length(max = 100))]
        users: Vec<UserPatch>,
    }
    DeleteUsers {
        #[schemars(length(max = 100))]
        ids: Option<Vec<String>>,
        filter: Option<Filter>,
        #[schemars(range(min = 1, max = 100))]
        limit: Option<u64>,
    }
    QueryUsers {
        filter: Option<Filter>, sort: Option<Sort>,
        #[schemars(range(min = 1, max = 100))]
        limit: Option<u64>,
        #[schemars(range(max = 1000))]
        offset: Option<u64>,
        presence: Option<bool>,
        #[serde(rename = "as")]
        viewer: Option<String>,
        min_rev: Option<u64>,
    }
    CountUsers {
        filter: Option<Filter>, presence: Option<bool>,
        #[serde(rename = "as")]
        viewer: Option<String>,
        min_rev: Option<u64>,
    }
    UpsertChannel {
        #[serde(rename = "type")]
        kind: String,
        id: String, data: Option<Map<String, Value>>, members: Option<Vec<String>>,
        add_members: Option<Vec<String>>, remove_members: Option<Vec<String>>,
    }
    DeleteChannel {
        #[serde(rename = "type")]
        kind: String,
        id: String,
    }
    WatchChannel {
        #[serde(rename = "type")]
        kind: String,
        id: String, data: Option<Map<String, Value>>, presence: Option<bool>,
        #[schemars(length(max = 10))]
        users: Option<Vec<String>>,
        #[schemars(range(min = 1, max = 100))]
        member_limit: Option<u64>,
        online_count: Option<bool>,
        #[serde(rename = "as")]
        viewer: Option<String>,
        min_rev: Option<u64>,
    }
    QueryChannels {
        filter: Option<Filter>, sort: Option<Sort>,
        #[schemars(range(min = 1, max = 30))]
        limit: Option<u64>,
        #[schemars(range(max = 1000))]
        offset: Option<u64>,
        #[schemars(range(min = 1, max = 100))]
        member_limit: Option<u64>,
        online_count: Option<bool>, presence: Option<bool>,
        #[serde(rename = "as")]
        viewer: Option<String>,
        min_rev: Option<u64>,
    }
    Batch {
        ops: Vec<Operation>, me: Option<bool>,
    }
    Explain {
        user_id: String,
    }
}

answers! {
    ConnectionName {
        user_id: String, connection_id: String,
    }
    HeartbeatTimes {
        interval_ms: u64, lease_ms: u64,
    }
    Connected {
        connection_id: String, me: Seen, created: bool, heartbeat: HeartbeatTimes, rev: Option<u64>,
    }
    ConnectionUpdated {
        unknown: Vec<ConnectionName>, rev: Option<u64>,
    }
    HeartbeatAnswer {
        unknown: Vec<Unknown>, held: Option<u64>, heartbeat: HeartbeatTimes,
    }
    Disconnected {
        disconnected: u64, rev: Option<u64>,
    }
    UsersUpserted {
        users: BTreeMap<String, Seen>, rev: Option<u64>,
    }
    UsersDeleted {
        deleted: Vec<String>, more: Option<bool>, rev: Option<u64>,
    }
    PresenceBlock {
        users: Vec<String>, subjects: Vec<String>, truncated: bool, not_watched: Vec<String>,
        occupancy_subject: Option<String>,
    }
    UsersFound {
        users: Vec<Seen>, more: bool, presence: Option<PresenceBlock>,
    }
    UsersCounted {
        count: u64,
    }
    Member {
        user_id: String, user: Option<Seen>,
    }
    Channel {
        #[serde(rename = "type")]
        kind: String,
        id: String, cid: String, member_count: u64, members: Vec<Member>, online_count: Option<u64>,
        last_message_at: Option<String>, created_at: String, updated_at: String,
        presence: Option<PresenceBlock>,
    }
    ChannelUpserted {
        channel: Map<String, Value>, rev: Option<u64>,
    }
    ChannelDeleted {
        deleted: bool, rev: Option<u64>,
    }
    ChannelWatched {
        channel: Channel, presence: Option<PresenceBlock>,
    }
    ChannelsFound {
        channels: Vec<Channel>, more: bool, presence: Option<PresenceBlock>,
    }
    BatchResults {
        results: Vec<Map<String, Value>>,
    }
    Failure {
        code: String, message: String, details: Option<Map<String, Value>>,
    }
    ErrorReply {
        error: Failure,
    }
    UserChanged {
        #[serde(rename = "type")]
        #[schemars(extend("const" = "user.presence.changed"))]
        kind: String,
        created_at: String, user: Seen,
    }
    ChannelCount {
        #[serde(rename = "type")]
        kind: String,
        id: String, cid: String, online_count: u64, member_count: u64, version: u64,
    }
    ChannelChanged {
        #[serde(rename = "type")]
        #[schemars(extend("const" = "channel.presence.changed"))]
        kind: String,
        created_at: String, channel: ChannelCount,
    }
}

/// A connection, or a lease, that has to connect again.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Unknown {
    Connection(ConnectionName),
    Lease(String),
}

/// Fields and operators; several are all required.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Filter(pub Map<String, Value>);

/// Keys in the order written, or a list of them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sort {
    Keys(BTreeMap<String, i8>),
    List(Vec<Map<String, Value>>),
}

/// An operation of a batch: its fields are those of the operation by itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    pub op: OperationName,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationName {
    Connect,
    UpdateConnection,
    Disconnect,
    UpsertUsers,
}
