//! A request of any operation: parsed, weighed and run in one way.

use super::batch::Batch;
use super::connect::Connect;
use super::context::Context;
use super::count_users::CountUsers;
use super::delete_channel::DeleteChannel;
use super::delete_users::DeleteUsers;
use super::disconnect::Disconnect;
use super::explain::Explain;
use super::query_channels::QueryChannels;
use super::query_users::QueryUsers;
use super::reply::Reply;
use super::rules::RequestRules;
use super::update_connection::UpdateConnection;
use super::upsert_channel::UpsertChannel;
use super::upsert_users::UpsertUsers;
use super::watch_channel::WatchChannel;
use crate::api::heartbeats::Heartbeat;
use crate::api::request::door::Door;
use crate::api::request::fields::Fields;
use crate::api::request::operation::Operation;
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// A parsed request.
#[derive(Debug)]
pub enum Request {
    Connect(Connect),
    UpdateConnection(UpdateConnection),
    Heartbeat(Heartbeat),
    Disconnect(Disconnect),
    UpsertUsers(UpsertUsers),
    DeleteUsers(DeleteUsers),
    QueryUsers(QueryUsers),
    CountUsers(CountUsers),
    UpsertChannel(UpsertChannel),
    DeleteChannel(DeleteChannel),
    WatchChannel(WatchChannel),
    QueryChannels(QueryChannels),
    Batch(Batch),
    Explain(Explain),
}

impl Request {
    pub fn parse(
        operation: Operation,
        body: &[u8],
        door: &Door,
        service: &Service,
    ) -> Result<Self, Refusal> {
        let rules = &RequestRules::of(door, service);
        let fields = || door.fields(body);
        Ok(match operation {
            Operation::Connect => Self::Connect(Connect::parse(fields()?, rules)?),
            Operation::UpdateConnection => {
                Self::UpdateConnection(UpdateConnection::parse(fields()?, rules)?)
            }
            Operation::Heartbeat => Self::Heartbeat(Heartbeat::read(body, door)?),
            Operation::Disconnect => Self::Disconnect(Disconnect::parse(fields()?, rules)?),
            Operation::UpsertUsers => Self::UpsertUsers(UpsertUsers::parse(fields()?, rules)?),
            Operation::DeleteUsers => Self::DeleteUsers(DeleteUsers::parse(fields()?, rules)?),
            Operation::QueryUsers => Self::QueryUsers(QueryUsers::parse(fields()?, rules)?),
            Operation::CountUsers => Self::CountUsers(CountUsers::parse(fields()?, rules)?),
            Operation::UpsertChannel => {
                Self::UpsertChannel(UpsertChannel::parse(fields()?, rules)?)
            }
            Operation::DeleteChannel => {
                Self::DeleteChannel(DeleteChannel::parse(fields()?, rules)?)
            }
            Operation::WatchChannel => Self::WatchChannel(WatchChannel::parse(fields()?, rules)?),
            Operation::QueryChannels => {
                Self::QueryChannels(QueryChannels::parse(fields()?, rules)?)
            }
            // A flaw in an operation of a batch refuses that operation alone.
            Operation::Batch => Self::Batch(Batch::parse(Fields::parse(body)?, rules)?),
            Operation::Explain => Self::Explain(Explain::parse(fields()?, rules)?),
        })
    }

    /// The number of commands that the request counts as in the bound on pending commands.
    pub fn weight(&self) -> usize {
        match self {
            Self::UpsertUsers(upsert) => upsert.len(),
            Self::DeleteUsers(delete) => delete.len(),
            Self::Batch(batch) => batch.users(),
            _ => 1,
        }
    }

    /// Carries the request out. What is under way by the thousand stands in the future itself; the
    /// others would make it several times as large.
    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        match self {
            Self::Connect(connect) => connect.run(ctx).await,
            Self::UpdateConnection(update) => update.run(ctx).await,
            Self::Heartbeat(heartbeat) => heartbeat.run(ctx).await,
            Self::Disconnect(disconnect) => disconnect.run(ctx).await,
            Self::UpsertUsers(upsert) => Box::pin(upsert.run(ctx)).await,
            Self::DeleteUsers(delete) => Box::pin(delete.run(ctx)).await,
            Self::QueryUsers(query) => Box::pin(query.run(ctx)).await,
            Self::CountUsers(count) => Box::pin(count.run(ctx)).await,
            Self::UpsertChannel(upsert) => Box::pin(upsert.run(ctx)).await,
            Self::DeleteChannel(delete) => Box::pin(delete.run(ctx)).await,
            Self::WatchChannel(watch) => Box::pin(watch.run(ctx)).await,
            Self::QueryChannels(query) => Box::pin(query.run(ctx)).await,
            Self::Batch(batch) => Box::pin(batch.run(ctx)).await,
            Self::Explain(explain) => Box::pin(explain.run(ctx)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_under_way_is_small() {
        let bytes = size_of_future(Request::run);
        assert!(bytes <= 1024, "{bytes}");
        let bytes = size_of_future(Connect::run);
        assert!(bytes <= 768, "{bytes}");
    }
}
