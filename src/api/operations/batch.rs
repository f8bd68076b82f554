//! `batch`: many connects, disconnects and upserts in one request, each on its own.

use std::pin::Pin;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, join_all, maybe_done};
use hashbrown::HashSet;
use serde_json::Value;

use super::connect::Connect;
use super::context::{Context, UsersShown};
use super::disconnect::Disconnect;
use super::reply::{Reply, push_refusal};
use super::rules::RequestRules;
use super::update_connection::UpdateConnection;
use super::upsert_users::UpsertUsers;
use crate::api::request::fields::{Fields, missing, too_many, wrong};
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// The most users in one batch.
const MAX_USERS: usize = 1000;

/// The upper bound of the answer to a disconnect, in bytes.
const DISCONNECT_ANSWER_BYTES: usize = 64;

/// One operation of a batch.
#[derive(Debug)]
enum Op {
    Connect(Connect),
    UpdateConnection(UpdateConnection),
    Disconnect(Disconnect),
    UpsertUsers(UpsertUsers),
}

/// A parsed `batch`. An operation that cannot be parsed fails alone.
#[derive(Debug)]
pub struct Batch {
    ops: Vec<Result<Op, Refusal>>,
    users: usize,
    shows: UsersShown,
}

/// An operation under way: its result, and whether it concerns an invisible user only.
type Running<'a> = Pin<Box<MaybeDone<BoxFuture<'a, (Result<Reply, Refusal>, bool)>>>>;

impl Batch {
    pub fn parse(mut fields: Fields, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let flaws = fields.flaws_in("ops")?;
        let values = fields
            .array("ops", MAX_USERS)?
            .ok_or_else(|| missing("ops", "an array of operations"))?;
        let me = fields.boolean("me")?.unwrap_or(true);
        fields.finish()?;
        let parse = |(index, value)| Op::parse(value, &format!("ops[{index}]"), rules);
        let mut ops: Vec<_> = values.into_iter().enumerate().map(parse).collect();
        for (index, refusal) in flaws {
            match ops.get_mut(index) {
                Some(op) => *op = Err(refusal),
                None => return Err(refusal),
            }
        }
        Op::note_order(&mut ops);
        let users = ops.iter().flatten().map(Op::users).sum();
        if users > MAX_USERS {
            return Err(too_many("ops", users, MAX_USERS));
        }
        let shows = if me { UsersShown::WithoutCustom } else { UsersShown::None };
        Ok(Self { ops, users, shows })
    }

    /// The number of users named.
    pub fn users(&self) -> usize {
        self.users
    }

    /// An upper bound of the answer, in bytes.
    fn answer_bytes(&self, service: &Service) -> usize {
        let bytes = |op: &Result<Op, Refusal>| match op {
            Ok(op) => op.answer_bytes(self.shows, service),
            Err(refusal) => refusal.bytes(),
        };
        self.ops.iter().map(bytes).sum()
    }

    pub async fn run(self, ctx: &Context) -> Result<Reply, Refusal> {
        ctx.has_room_for(self.answer_bytes(&ctx.service))?;
        let mut running: Vec<Running<'_>> = Vec::with_capacity(self.ops.len());
        let (mut settled, mut under_way) = (0, HashSet::new());
        for op in self.ops {
            let op = match op {
                Ok(op) => op,
                Err(refusal) => {
                    running.push(failed(refusal));
                    continue;
                }
            };
            if op.must_see(&under_way) {
                join_all(&mut running[settled..]).await;
                settled = running.len();
                under_way.clear();
            }
            under_way.extend(op.named().cloned());
            running.push(op.start(self.shows, ctx).await);
        }
        join_all(&mut running[settled..]).await;
        let results: Vec<_> =
            running.iter_mut().filter_map(|each| each.as_mut().take_output()).collect();
        ctx.set_invisible(!results.is_empty() && results.iter().all(|(_, invisible)| *invisible));
        Ok(reply(results))
    }
}

impl Op {
    fn parse(value: Value, path: &str, rules: &RequestRules<'_>) -> Result<Self, Refusal> {
        let mut fields = Fields::of(value, path)?;
        let name = fields.text("op")?;
        match name.as_deref() {
            Some("connect") => Connect::parse(fields, rules).map(Self::Connect),
            Some("update_connection") => {
                UpdateConnection::parse(fields, rules).map(Self::UpdateConnection)
            }
            Some("disconnect") => Disconnect::parse(fields, rules).map(Self::Disconnect),
            Some("upsert_users") => UpsertUsers::parse(fields, rules).map(Self::UpsertUsers),
            _ => {
                let takes = "takes \"connect\", \"update_connection\", \"disconnect\" or \
                             \"upsert_users\"";
                Err(wrong(&fields.path("op"), takes))
            }
        }
    }

    /// A connect behind the disconnect of the same connection was not overtaken by it.
    fn note_order(ops: &mut [Result<Self, Refusal>]) {
        let mut connects = HashSet::new();
        for op in ops.iter_mut().rev().flatten() {
            match op {
                Self::Connect(connect) => {
                    connects.insert((connect.user.clone(), connect.connection().clone()));
                }
                Self::Disconnect(disconnect) => disconnect.set_followed_by(&connects),
                Self::UpdateConnection(_) | Self::UpsertUsers(_) => {}
            }
        }
    }

    /// Returns whether the operation depends on the results of operations under way. A lease holds
    /// the connections before it, and several users are checked before the first is written.
    fn must_see(&self, under_way: &HashSet<Id>) -> bool {
        match self {
            Self::Disconnect(Disconnect::Lease { .. }) => true,
            Self::UpsertUsers(upsert) => upsert.named().any(|user| under_way.contains(user)),
            Self::Connect(_) | Self::UpdateConnection(_) | Self::Disconnect(_) => false,
        }
    }

    /// The users named.
    fn named(&self) -> Box<dyn Iterator<Item = &Id> + '_> {
        match self {
            Self::Connect(connect) => Box::new(std::iter::once(&connect.user)),
            Self::UpdateConnection(update) => Box::new(std::iter::once(&update.user)),
            Self::Disconnect(disconnect) => Box::new(disconnect.user().into_iter()),
            Self::UpsertUsers(upsert) => Box::new(upsert.named()),
        }
    }

    fn users(&self) -> usize {
        match self {
            Self::Connect(_) | Self::UpdateConnection(_) | Self::Disconnect(_) => 1,
            Self::UpsertUsers(upsert) => upsert.len(),
        }
    }

    fn answer_bytes(&self, shows: UsersShown, service: &Service) -> usize {
        match self {
            Self::Connect(connect) => connect.answer_bytes(shows, service),
            Self::UpdateConnection(update) => update.answer_bytes(),
            Self::Disconnect(_) => DISCONNECT_ANSWER_BYTES,
            Self::UpsertUsers(upsert) => upsert.answer_bytes(shows, service),
        }
    }

    /// Submits the commands of the operation, behind those of the operations before it.
    async fn start<'a>(self, shows: UsersShown, ctx: &Context) -> Running<'a> {
        let part = ctx.of_part(shows);
        let waits = matches!(self, Self::Disconnect(Disconnect::Lease { .. }));
        let run: BoxFuture<'a, _> = match self {
            Self::Connect(connect) => async move {
                let result = connect.run(&part).await;
                (result, part.is_invisible())
            }
            .boxed(),
            Self::UpdateConnection(update) => async move {
                let result = update.run(&part).await;
                (result, part.is_invisible())
            }
            .boxed(),
            Self::Disconnect(disconnect) => async move {
                let result = disconnect.run(&part).await;
                (result, part.is_invisible())
            }
            .boxed(),
            // The check may wait for what is stored. No operation behind may overtake it.
            Self::UpsertUsers(upsert) => match upsert.checked(&part).await {
                Ok(checked) => async move { (checked.run(&part).await, false) }.boxed(),
                Err(refusal) => return failed(refusal),
            },
        };
        let mut running = Box::pin(maybe_done(run));
        if waits {
            running.as_mut().await;
        } else {
            // The first poll submits the commands.
            let _ = (&mut running).now_or_never();
        }
        running
    }
}

/// An operation that was refused before it ran.
fn failed<'a>(refusal: Refusal) -> Running<'a> {
    Box::pin(MaybeDone::Done((Err(refusal), false)))
}

fn reply(results: Vec<(Result<Reply, Refusal>, bool)>) -> Reply {
    let mut out = b"{\"results\":".to_vec();
    json::push_array(&mut out, results, |out, (result, _)| match result {
        Ok(result) => out.extend_from_slice(&result),
        Err(refusal) => {
            json::push(out, "{\"error\":");
            push_refusal(out, &refusal);
            out.push(b'}');
        }
    });
    out.push(b'}');
    out
}
