//! The bucket itself: making it, checking it, asking it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{ErrorCode, stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How long a deletion marker lives (`PROTOCOL`, section 6).
pub const MARKER_TTL: &str = "24h";

/// The stream of a key-value bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    timeout_ms: Arc<AtomicU64>,
}

/// What a bucket is to be made with.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub replicas: usize,
    pub in_memory: bool,
}

/// Why the bucket did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("the bucket does not exist")]
    Missing,
    #[error("there is no such key")]
    NoKey,
    #[error("JetStream does not answer: it is not enabled for this account, or has no leader")]
    NoJetStream,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("JetStream answers: {description} ({code})")]
    Refused { code: u64, description: String },
    #[error("not connected to NATS: {0}")]
    Disconnected(String),
}

/// The state of the stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// When the stream was made; another time is another bucket.
    pub created: String,
    pub state: State,
    pub config: stream::Config,
    /// Who holds it; absent from a server that is in no cluster.
    cluster: Option<Holders>,
}

/// The servers that hold the bucket, as its leader sees them.
#[derive(Debug, Clone, Deserialize)]
struct Holders {
    #[serde(default)]
    replicas: Vec<Follower>,
}

/// A server that follows the leader.
#[derive(Debug, Clone, Deserialize)]
struct Follower {
    /// How long ago the leader heard of it, in nanoseconds.
    active: u64,
    #[serde(default)]
    offline: bool,
}

/// A follower that the leader has not heard of for so long may be cut off from it; it answers once a
/// second.
const FOLLOWER_SILENT: Duration = Duration::from_millis(2500);

impl Info {
    /// Whether the leader that answered is in touch with a majority. One that was cut off believes
    /// for some seconds that it leads.
    pub fn has_majority(&self) -> bool {
        let followers = self.cluster.as_ref().map_or(&[][..], |holders| &holders.replicas);
        let in_touch = |each: &&Follower| {
            let silent_ns = u128::from(each.active);
            // 0: the leader has not heard of it at all.
            !each.offline && silent_ns > 0 && silent_ns < FOLLOWER_SILENT.as_nanos()
        };
        2 * (1 + followers.iter().filter(in_touch).count()) > 1 + followers.len()
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct State {
    pub last_seq: u64,
}

/// One stored message.
#[derive(Debug)]
pub struct Raw {
    pub seq: u64,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

#[derive(Deserialize)]
struct Problem {
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// `JetStream not enabled` for the server, and for the account.
const NOT_ENABLED: [u64; 2] = [10_076, 10_039];

impl Bucket {
    pub fn new(client: Client, name: &str, timeout: Duration) -> Self {
        let bucket = Self { client, name: name.to_owned(), timeout_ms: Arc::default() };
        bucket.set_timeout(timeout);
        bucket
    }

    /// How long an answer is waited for from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.timeout_ms.store(timeout_ms, Ordering::Relaxed);
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the stream.
    pub fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    /// What all subjects of the bucket begin with.
    pub fn prefix(&self) -> String {
        format!("$KV.{}.", self.name)
    }

    pub async fn info(&self) -> Result<Info, BucketError> {
        self.ask(&format!("STREAM.INFO.{}", self.stream()), &serde_json::Value::Null).await
    }

    /// Makes the bucket; one that is there stays as it is.
    pub async fn create(&self, shape: Shape) -> Result<(), BucketError> {
        let config = stream::Config {
            name: self.stream(),
            description: Some("presence of users, kept by presenced".to_owned()),
            subjects: vec![format!("{}>", self.prefix())],
            max_messages_per_subject: 1,
            discard: stream::DiscardPolicy::New,
            num_replicas: shape.replicas,
            storage: if shape.in_memory {
                stream::StorageType::Memory
            } else {
                stream::StorageType::File
            },
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            allow_message_ttl: true,
            ..stream::Config::default()
        };
        let body = serde_json::to_value(config).unwrap_or_default();
        let subject = format!("STREAM.CREATE.{}", self.stream());
        self.ask::<serde_json::Value>(&subject, &body).await.map(|_| ())
    }

    /// Whether the stream can serve as our bucket; otherwise says what is wrong with it.
    pub fn check(&self, info: &Info) -> Result<(), String> {
        let config = &info.config;
        let name = &self.name;
        if config.subjects != [format!("{}>", self.prefix())] {
            return Err(format!(
                "the stream KV_{name} exists and is no key-value bucket (its subjects are {:?}); choose another `store.bucket`",
                config.subjects
            ));
        }
        if !config.allow_message_ttl || !config.allow_rollup {
            return Err(format!(
                "the bucket {name} exists without per-message TTL or roll-up, which deletion markers need; allow both on the stream KV_{name}, or choose another `store.bucket`"
            ));
        }
        let bounded = config.max_messages > 0 || config.max_bytes > 0;
        if config.retention != stream::RetentionPolicy::Limits
            || bounded && config.discard != stream::DiscardPolicy::New
        {
            return Err(format!(
                "the bucket {name} drops old entries by itself, so users would vanish; let the stream KV_{name} keep to limits and discard new entries, or choose another `store.bucket`"
            ));
        }
        if !config.max_age.is_zero() {
            return Err(format!(
                "the bucket {name} forgets its entries after {:?}, so users would vanish; take the maximum age off the stream KV_{name}, or choose another `store.bucket`",
                config.max_age
            ));
        }
        Ok(())
    }

    /// The newest message of a subject, from the leader.
    pub async fn last(&self, subject: &str) -> Result<Raw, BucketError> {
        #[derive(Deserialize)]
        struct Reply {
            message: stream::RawMessage,
        }
        let body = serde_json::json!({ "last_by_subj": subject });
        let asked = format!("STREAM.MSG.GET.{}", self.stream());
        let Reply { message } = self.ask(&asked, &body).await?;
        let message = StreamMessage::try_from(message)
            .map_err(|error| BucketError::Refused { code: 0, description: error.to_string() })?;
        Ok(Raw { seq: message.sequence, headers: message.headers, payload: message.payload })
    }

    /// Whether the leader holds any message at that sequence or behind it.
    pub async fn holds_from(&self, seq: u64) -> Result<bool, BucketError> {
        let body = serde_json::json!({ "seq": seq, "next_by_subj": format!("{}>", self.prefix()) });
        let asked = format!("STREAM.MSG.GET.{}", self.stream());
        match self.ask::<serde_json::Value>(&asked, &body).await {
            Ok(_) => Ok(true),
            Err(BucketError::NoKey) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One request to the JetStream API.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &serde_json::Value,
    ) -> Result<T, BucketError> {
        let payload =
            if body.is_null() { Bytes::new() } else { body.to_string().into_bytes().into() };
        let request = self.client.request(format!("$JS.API.{what}"), payload);
        let timeout = Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed));
        let reply = match tokio::time::timeout(timeout, request).await {
            Err(_) => return Err(BucketError::Timeout(timeout)),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => BucketError::NoJetStream,
                    RequestErrorKind::TimedOut => BucketError::Timeout(timeout),
                    _ => BucketError::Disconnected(error.to_string()),
                });
            }
            Ok(Ok(reply)) => reply,
        };
        let odd = |error: serde_json::Error| BucketError::Refused {
            code: 0,
            description: error.to_string(),
        };
        let mut answer: serde_json::Value = serde_json::from_slice(&reply.payload).map_err(odd)?;
        match answer.get_mut("error").map(serde_json::Value::take) {
            None => serde_json::from_value(answer).map_err(odd),
            Some(problem) => Err(error(serde_json::from_value(problem).map_err(odd)?)),
        }
    }
}

fn error(problem: Problem) -> BucketError {
    match problem.err_code {
        code if code == ErrorCode::STREAM_NOT_FOUND.0 => BucketError::Missing,
        code if code == ErrorCode::NO_MESSAGE_FOUND.0 => BucketError::NoKey,
        code if NOT_ENABLED.contains(&code) => BucketError::NoJetStream,
        code => BucketError::Refused { code, description: problem.description },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_has_a_majority_if_it_heard_of_enough_followers_lately() {
        let leads = |followers: &[(u64, bool)]| {
            let replicas: Vec<_> = followers
                .iter()
                .map(|(ms, offline)| serde_json::json!({"active": ms * 1_000_000, "offline": offline}))
                .collect();
            let cluster: Holders =
                serde_json::from_value(serde_json::json!({ "replicas": replicas })).unwrap();
            let (created, config) = (String::new(), stream::Config::default());
            let info =
                Info { created, state: State { last_seq: 0 }, config, cluster: Some(cluster) };
            info.has_majority()
        };
        assert!(leads(&[]), "alone it is all there is");
        assert!(leads(&[(300, false), (300, false)]));
        assert!(leads(&[(300, false), (60_000, false)]), "one of three may be away");
        assert!(leads(&[(300, false), (300, true)]));
        assert!(!leads(&[(3000, false), (3000, false)]));
        assert!(!leads(&[(0, false), (0, false)]), "neither was ever heard of");
        assert!(!leads(&[(300, false), (0, false), (9000, false), (300, true)]));
    }
}
