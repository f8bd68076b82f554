//! The names of the operations.

/// An operation of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Connect,
    UpdateConnection,
    Heartbeat,
    Disconnect,
    UpsertUsers,
    DeleteUsers,
    QueryUsers,
    CountUsers,
    UpsertChannel,
    DeleteChannel,
    WatchChannel,
    QueryChannels,
    Batch,
    Explain,
}

/// All operations, in the order of their discriminants.
pub const OPERATIONS: [Operation; 14] = [
    Operation::Connect,
    Operation::UpdateConnection,
    Operation::Heartbeat,
    Operation::Disconnect,
    Operation::UpsertUsers,
    Operation::DeleteUsers,
    Operation::QueryUsers,
    Operation::CountUsers,
    Operation::UpsertChannel,
    Operation::DeleteChannel,
    Operation::WatchChannel,
    Operation::QueryChannels,
    Operation::Batch,
    Operation::Explain,
];

impl Operation {
    pub fn parse(name: &str) -> Option<Self> {
        OPERATIONS.into_iter().find(|operation| operation.name() == name)
    }

    /// The token of the operation in a subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::UpdateConnection => "update_connection",
            Self::Heartbeat => "heartbeat",
            Self::Disconnect => "disconnect",
            Self::UpsertUsers => "upsert_users",
            Self::DeleteUsers => "delete_users",
            Self::QueryUsers => "query_users",
            Self::CountUsers => "count_users",
            Self::UpsertChannel => "upsert_channel",
            Self::DeleteChannel => "delete_channel",
            Self::WatchChannel => "watch_channel",
            Self::QueryChannels => "query_channels",
            Self::Batch => "batch",
            Self::Explain => "explain",
        }
    }

    /// Whether the operation exists for trusted services only.
    pub fn is_trusted(self) -> bool {
        matches!(
            self,
            Self::DeleteUsers
                | Self::UpsertChannel
                | Self::DeleteChannel
                | Self::Batch
                | Self::Explain
        )
    }
}
