//! `batch`: many connects, disconnects and upserts in one request, each on its own.

use std::collections::HashSet;
use std::iter;

use serde_json::Value;
use tokio::sync::oneshot;

use super::connect::{self, Connect};
use super::disconnect::{self, Disconnect};
use super::upsert_users::{self, UpsertUsers};
use super::writes::{self, Done, Gather};
use crate::api::request::door::Door;
use crate::api::request::fields::{Fields, missing, too_many, wrong};
use crate::api::transport::responder::{Responder, push_refusal};
use crate::config::Limits;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::refusal::Refusal;
use crate::presence::user::{Command, Outcome};
use crate::service::Service;
use crate::store::stripe::Answer;

/// The most users in one batch.
const MAX_USERS: usize = 1000;

/// One operation of a batch.
#[derive(Debug)]
enum Op {
    Connect(Connect),
    Disconnect { user: Id, connection: Id },
    EndLease(Id),
    UpsertUsers(UpsertUsers),
}

/// A parsed `batch`. An operation that cannot be parsed fails alone.
#[derive(Debug)]
pub struct Batch {
    ops: Vec<Result<Op, Refusal>>,
    users: usize,
}

impl Batch {
    pub fn parse(mut fields: Fields, limits: &Limits) -> Result<Self, Refusal> {
        let values = fields
            .array("ops", MAX_USERS)?
            .ok_or_else(|| missing("ops", "an array of operations"))?;
        fields.finish()?;
        let parse = |(index, value)| Op::parse(value, &format!("ops[{index}]"), limits);
        let ops: Vec<_> = values.into_iter().enumerate().map(parse).collect();
        let users = ops.iter().flatten().map(Op::users).sum();
        if users > MAX_USERS {
            return Err(too_many("ops", users, MAX_USERS));
        }
        Ok(Self { ops, users })
    }

    /// How many users are named.
    pub fn users(&self) -> usize {
        self.users
    }

    /// At most how many bytes the answer will have.
    fn answer_bytes(&self, service: &Service) -> usize {
        let op = |op: &Result<Op, Refusal>| match op {
            Ok(Op::Connect(connect)) => connect.answer_bytes(service),
            Ok(Op::UpsertUsers(upsert)) => upsert.answer_bytes(service),
            Ok(Op::Disconnect { .. } | Op::EndLease(_)) => 64,
            Err(refusal) => refusal.bytes(),
        };
        self.ops.iter().map(op).sum()
    }

    pub fn run(self, service: &Service, deadline_ms: u64, mut responder: Responder) {
        let (task, tracker) = (service.clone(), &service.store.context.tracker);
        if let Err(refusal) = responder.has_room_for(self.answer_bytes(service)) {
            return responder.refuse(&refusal);
        }
        tracker.spawn(async move {
            let mut results = Vec::with_capacity(self.ops.len());
            let mut under_way = HashSet::new();
            for op in self.ops {
                if op.as_ref().is_ok_and(|op| op.must_see(&under_way)) {
                    settle(&mut results).await;
                    under_way.clear();
                }
                under_way.extend(op.iter().flat_map(Op::named).cloned());
                results.push(match op {
                    Ok(op) => start(op, &task, deadline_ms).await,
                    Err(refusal) => Started::done(Err(refusal)),
                });
            }
            settle(&mut results).await;
            responder.invisible = !results.is_empty() && results.iter().all(Started::is_invisible);
            responder.ok(body(results));
        });
    }
}

impl Op {
    fn parse(value: Value, path: &str, limits: &Limits) -> Result<Self, Refusal> {
        let mut fields = Fields::of(value, path)?;
        let name = fields.text("op")?;
        match name.as_deref() {
            Some("connect") => Connect::parse(fields, &Door::Trusted, limits).map(Self::Connect),
            Some("disconnect") => Ok(match Disconnect::parse(fields, &Door::Trusted)? {
                Disconnect::Connection { user, connection } => {
                    Self::Disconnect { user, connection }
                }
                Disconnect::Lease(lease) => Self::EndLease(lease),
            }),
            Some("upsert_users") => {
                UpsertUsers::parse(fields, &Door::Trusted, limits).map(Self::UpsertUsers)
            }
            _ => {
                let takes = "takes \"connect\", \"disconnect\" or \"upsert_users\"";
                Err(wrong(&fields.path("op"), takes))
            }
        }
    }

    /// Whether the operation depends on what those before it, that are under way, come to: a lease
    /// holds what they have connected, and several users are checked before the first is written.
    fn must_see(&self, under_way: &HashSet<Id>) -> bool {
        match self {
            Self::EndLease(_) => true,
            Self::UpsertUsers(_) => self.named().any(|user| under_way.contains(user)),
            Self::Connect(_) | Self::Disconnect { .. } => false,
        }
    }

    /// The users that it names.
    fn named(&self) -> Box<dyn Iterator<Item = &Id> + '_> {
        match self {
            Self::Connect(connect) => Box::new(iter::once(&connect.user)),
            Self::Disconnect { user, .. } => Box::new(iter::once(user)),
            Self::UpsertUsers(upsert) => Box::new(upsert.named()),
            Self::EndLease(_) => Box::new(iter::empty()),
        }
    }

    fn users(&self) -> usize {
        match self {
            Self::Connect(_) | Self::Disconnect { .. } | Self::EndLease(_) => 1,
            Self::UpsertUsers(upsert) => upsert.len(),
        }
    }
}

/// An operation of a batch that was begun.
enum Started {
    Done(Ended),
    Awaited(oneshot::Receiver<Ended>),
}

/// What an operation of a batch came to, and whether only an invisible user may know of it.
struct Ended {
    result: Result<Vec<u8>, Refusal>,
    invisible: bool,
}

impl Started {
    /// One that others see.
    fn done(result: Result<Vec<u8>, Refusal>) -> Self {
        Self::Done(Ended { result, invisible: false })
    }

    fn is_invisible(&self) -> bool {
        matches!(self, Self::Done(Ended { invisible: true, .. }))
    }
}

/// Sends the commands of an operation on their way, behind those of the operations before it.
async fn start(op: Op, service: &Service, deadline_ms: u64) -> Started {
    let (commands, finish): (Vec<(Id, Command)>, Finish) = match op {
        Op::EndLease(lease) => {
            let ended = service.end_lease(lease, deadline_ms).await;
            return Started::done(ended.map(|(count, rev)| {
                disconnect::body(
                    Answer { outcome: Outcome::Disconnected { count, invisible: false }, rev },
                    &Door::Trusted,
                )
            }));
        }
        Op::Connect(connect) => {
            let liveness = service.liveness.clone();
            let was_invisible = service.is_invisible(&connect.user);
            let finish = move |_: &[Id], results: Vec<Done>| {
                let done = first(results);
                let invisible = writes::is_invisible(&done, was_invisible);
                let body = |answer| connect::body(answer, &liveness, &Door::Trusted);
                Ended { result: done.map(body), invisible }
            };
            (vec![connect.command(false)], Box::new(finish))
        }
        Op::Disconnect { user, connection } => {
            let was_invisible = service.is_invisible(&user);
            let finish = move |_: &[Id], results: Vec<Done>| {
                let done = first(results);
                let invisible = writes::is_invisible(&done, was_invisible);
                Ended {
                    result: done.map(|answer| disconnect::body(answer, &Door::Trusted)),
                    invisible,
                }
            };
            (vec![(user, Command::Disconnect { connection })], Box::new(finish))
        }
        Op::UpsertUsers(upsert) => {
            let commands = upsert.commands(false);
            if service.check(&commands).is_err() {
                // Perhaps only by what this daemon has not seen yet.
                let fresh = service.fresh(deadline_ms).await;
                if let Err(refusal) = fresh.and_then(|()| service.check(&commands)) {
                    return Started::done(Err(refusal));
                }
            }
            let finish = |ids: &[Id], results: Vec<Done>| Ended {
                result: upsert_users::answer(ids, results, &Door::Trusted),
                invisible: false,
            };
            (commands, Box::new(finish))
        }
    };
    let ids: Vec<_> = commands.iter().map(|(user, _)| user.clone()).collect();
    if ids.is_empty() {
        return Started::Done(finish(&ids, Vec::new()));
    }
    let (sender, receiver) = oneshot::channel();
    let gather = Gather::new(ids.len(), move |results| {
        let _ = sender.send(finish(&ids, results));
    });
    for (index, (user, command)) in commands.into_iter().enumerate() {
        service.command(user, command, deadline_ms, gather.place(index));
    }
    Started::Awaited(receiver)
}

/// Makes the result of an operation of the answers to its commands.
type Finish = Box<dyn FnOnce(&[Id], Vec<Done>) -> Ended + Send>;

fn first(results: Vec<Done>) -> Done {
    results.into_iter().next().unwrap_or_else(|| Err(crate::service::unavailable("no answer came")))
}

/// Waits for all that was begun.
async fn settle(results: &mut [Started]) {
    for started in results {
        if let Started::Awaited(receiver) = started {
            let stopped = "the daemon stopped before the answer came";
            *started = match receiver.await {
                Ok(ended) => Started::Done(ended),
                Err(_) => Started::done(Err(crate::service::unavailable(stopped))),
            };
        }
    }
}

fn body(results: Vec<Started>) -> Vec<u8> {
    let mut out = b"{\"results\":".to_vec();
    json::push_array(&mut out, results, |out, started| match started {
        Started::Done(Ended { result: Ok(result), .. }) => out.extend_from_slice(&result),
        Started::Done(Ended { result: Err(refusal), .. }) => {
            json::push(out, "{\"error\":");
            push_refusal(out, &refusal);
            out.push(b'}');
        }
        Started::Awaited(_) => json::push(out, "null"),
    });
    out.push(b'}');
    out
}
