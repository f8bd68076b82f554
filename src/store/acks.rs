//! Acknowledgements of writes. They arrive at an inbox of the daemon's own rather than as replies
//! to requests of the client: thousands are in flight at once, and the client would keep an entry
//! for each one that never comes.

use async_nats::jetstream::ErrorCode;
use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;

use super::Store;
use super::keyspace::{WriteOutcome, settle};
use super::stripe::Failure;
use crate::presence::channel::Channels;
use crate::presence::entity::Entity;
use crate::presence::refusal::{Code, Refusal};
use crate::presence::user::Users;
use crate::watchdog::WatchdogTap;

/// The number of acknowledgements taken before the watchdog is looked at.
const MAX_PER_TURN: usize = 256;

#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Takes acknowledgements until the subscription ends.
pub(super) async fn run(store: Store, mut inbox: Subscriber, mut tap: WatchdogTap) {
    loop {
        let message = tokio::select! {
            biased;
            ping = tap.next() => {
                ping.answer();
                continue;
            }
            message = inbox.next() => message,
        };
        let Some(message) = message else { return };
        take(&store, &message);
        for _ in 1..MAX_PER_TURN {
            let Some(message) = inbox.next().now_or_never().flatten() else { break };
            take(&store, &message);
        }
    }
}

fn take(store: &Store, message: &Message) {
    let mut tokens = message.subject.rsplit('.');
    let (Some(write), Some(stripe), Some(kind)) = (tokens.next(), tokens.next(), tokens.next())
    else {
        return;
    };
    let (Ok(write), Ok(stripe)) = (write.parse(), stripe.parse()) else { return };
    match kind {
        Users::KIND => settle(&store.users, stripe, write, outcome(message)),
        Channels::KIND => settle(&store.channels, stripe, write, outcome(message)),
        _ => {}
    }
}

fn outcome(message: &Message) -> WriteOutcome {
    if message.status.is_some() {
        // No responders: the stream has no leader at the moment, or is gone.
        return refused("the stream has no leader at the moment, or is gone".to_owned());
    }
    match serde_json::from_slice::<Ack>(&message.payload) {
        Ok(Ack { error: Some(problem), .. }) => {
            let code = ErrorCode(problem.err_code);
            if [
                ErrorCode::STREAM_WRONG_LAST_SEQUENCE,
                ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
            ]
            .contains(&code)
            {
                WriteOutcome::Conflict
            } else if code == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM {
                WriteOutcome::Failed(Failure::Refused(Refusal::new(
                    Code::TooLarge,
                    "the record is larger than the bucket's stream accepts (its `max_msg_size`)",
                )))
            } else {
                refused(format!("{} ({})", problem.description, problem.err_code))
            }
        }
        Ok(Ack { seq: Some(rev), .. }) => WriteOutcome::Stored(rev),
        Ok(_) | Err(_) => WriteOutcome::Failed(Failure::Retry(None)),
    }
}

fn refused(reason: String) -> WriteOutcome {
    WriteOutcome::Failed(Failure::Retry(Some(reason.into())))
}
