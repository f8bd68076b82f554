//! The NATS service protocol (ADR-32): `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`.
//!
//! The client's service framework does not fit: it gives every endpoint a subscription and a lock,
//! counts a request before it can be dropped or refused, and answers pings after a stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::{Client, Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use serde_json::{Value, json};

use super::intake::QUEUE_GROUP;
use super::responder::ReplyContext;
use crate::api::request::operation::OPERATIONS;
use crate::api::request::subjects::Subjects;
use crate::presence::entity::DaemonId;
use crate::presence::time::Time;
use crate::store::outbox;
use crate::version::VERSION;

/// The name of the service.
const NAME: &str = "presence";

/// One daemon as an instance of the service.
#[derive(Debug)]
pub struct Micro {
    pub daemon: DaemonId,
    pub context: Arc<ReplyContext>,
    pub subjects: Subjects,
    /// What tells this instance from others.
    pub metadata: Value,
    pub started: Time,
}

/// The verb of an inquiry.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Ping,
    Info,
    Stats,
}

impl Micro {
    /// Answers inquiries until they end.
    pub async fn run(self, mut inquiries: SelectAll<Subscriber>) {
        while let Some(inquiry) = inquiries.next().await {
            self.answer(&inquiry);
        }
    }

    fn answer(&self, inquiry: &Message) {
        let Some(reply) =
            inquiry.reply.as_ref().filter(|reply| !self.subjects.is_forbidden_reply(reply))
        else {
            return;
        };
        let asked = match inquiry.subject.split('.').nth(1) {
            Some("PING") => Asked::Ping,
            Some("INFO") => Asked::Info,
            Some("STATS") => Asked::Stats,
            _ => return,
        };
        self.context.outbox.send(outbox::Message {
            subject: reply.to_string(),
            reply: None,
            headers: None,
            payload: self.body(asked).to_string().into_bytes().into(),
            not_after_ms: None,
        });
    }

    fn body(&self, asked: Asked) -> Value {
        let kind = match asked {
            Asked::Ping => "io.nats.micro.v1.ping_response",
            Asked::Info => "io.nats.micro.v1.info_response",
            Asked::Stats => "io.nats.micro.v1.stats_response",
        };
        let mut body = json!({
            "type": kind,
            "name": NAME,
            "id": self.daemon.to_string(),
            "version": VERSION,
            "metadata": self.metadata,
        });
        match asked {
            Asked::Ping => {}
            Asked::Info => {
                body["description"] =
                    json!("who is online, what is their status, when were they last active");
                body["endpoints"] =
                    OPERATIONS.iter().map(|each| self.endpoint(each.name())).collect();
            }
            Asked::Stats => {
                body["started"] = json!(self.started.to_string());
                body["data"] = self.context.metrics.summary();
                body["endpoints"] = OPERATIONS
                    .iter()
                    .map(|each| {
                        let counters = self.context.stats.of(*each);
                        let requests = counters.requests.load(Ordering::Relaxed);
                        let nanos = counters.processing_ns.load(Ordering::Relaxed);
                        let mut endpoint = self.endpoint(each.name());
                        endpoint["num_requests"] = json!(requests);
                        endpoint["num_errors"] = json!(counters.errors.load(Ordering::Relaxed));
                        endpoint["last_error"] = json!("");
                        endpoint["processing_time"] = json!(nanos);
                        endpoint["average_processing_time"] = json!(nanos / requests.max(1));
                        endpoint
                    })
                    .collect();
            }
        }
        body
    }

    fn endpoint(&self, operation: &str) -> Value {
        json!({
            "name": operation,
            "subject": format!("{}.{operation}", self.subjects.prefix),
            "queue_group": QUEUE_GROUP,
            "metadata": {},
        })
    }
}

/// Subscribes to all inquiries for this instance.
pub async fn inquiries(
    client: &Client,
    daemon: DaemonId,
) -> Result<SelectAll<Subscriber>, SubscribeError> {
    let mut subscribers = Vec::new();
    for subject in subjects(&daemon.to_string()) {
        subscribers.push(client.subscribe(subject).await?);
    }
    Ok(select_all(subscribers))
}

/// The subjects of all inquiries for the instance `id`.
pub fn subjects(id: &str) -> [String; 9] {
    let whom = [String::new(), format!(".{NAME}"), format!(".{NAME}.{id}")];
    std::array::from_fn(|n| format!("$SRV.{}{}", ["PING", "INFO", "STATS"][n / 3], whom[n % 3]))
}
