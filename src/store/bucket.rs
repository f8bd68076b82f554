//! The bucket as a client of JetStream's API: creating it, and queries to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{ErrorCode, stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::clock::millis;

/// The stream of a key-value bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    /// The prefix of JetStream's API.
    api: Arc<str>,
    timeout_ms: Arc<AtomicU64>,
}

/// The settings for a new bucket.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub replicas: usize,
    pub in_memory: bool,
    /// The largest size in bytes; unlimited if absent.
    pub max_bytes: Option<u64>,
}

/// The failure of a request to the bucket.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("the bucket does not exist")]
    Missing,
    #[error("there is no such key")]
    NoKey,
    #[error("JetStream does not answer: it is not enabled for this account, or has no leader")]
    NoJetStream,
    #[error("the key was written meanwhile")]
    Conflict,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the account demands a size for each stream (10113); set `store.max_bytes`")]
    SizeRequired,
    #[error("JetStream answers: {description} ({code})")]
    Refused { code: u64, description: String },
    #[error("not connected to NATS: {0}")]
    Disconnected(String),
}

/// The state of the stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// The creation time of the stream; another time means another bucket.
    pub created: String,
    /// The time of the server that answered.
    pub ts: DateTime<Utc>,
    pub state: State,
    pub config: stream::Config,
    /// Absent from a server outside any cluster.
    cluster: Option<Cluster>,
}

/// The servers with a replica of the stream, as the leader sees them.
#[derive(Debug, Clone, Deserialize)]
struct Cluster {
    /// Absent where the server is alone.
    name: Option<String>,
    #[serde(default)]
    replicas: Vec<Follower>,
}

/// A server that follows the leader.
#[derive(Debug, Clone, Deserialize)]
struct Follower {
    /// The time since the leader last heard of it, in nanoseconds.
    active: u64,
    #[serde(default)]
    offline: bool,
}

/// A follower that the leader has not heard of for this long may be cut off from it. Followers
/// answer once a second.
const FOLLOWER_TIMEOUT: Duration = Duration::from_millis(2500);

impl Info {
    /// A warning of what is unwise about the bucket, if anything is.
    pub fn warning(&self, name: &str) -> Option<String> {
        let is_clustered = self.cluster.as_ref().is_some_and(|cluster| cluster.name.is_some());
        (is_clustered && self.config.num_replicas <= 1).then(|| {
            format!(
                "the bucket {name} has one replica on a cluster of NATS: without its server no \
                 request is answered; `nats stream edit KV_{name} --replicas 3` makes more"
            )
        })
    }

    /// Returns whether the stream keeps the newest message of each key alone.
    pub fn has_one_message_a_key(&self) -> bool {
        self.config.max_messages_per_subject == 1
    }

    /// Returns whether the leader that answered is in touch with a majority. A leader that was cut
    /// off goes on as leader for some seconds.
    pub fn has_majority(&self) -> bool {
        let followers = self.cluster.as_ref().map_or(&[][..], |cluster| &cluster.replicas);
        let in_touch = |each: &&Follower| {
            let silent_ns = u128::from(each.active);
            // 0: the leader has never heard of it.
            !each.offline && silent_ns > 0 && silent_ns < FOLLOWER_TIMEOUT.as_nanos()
        };
        2 * (1 + followers.iter().filter(in_touch).count()) > 1 + followers.len()
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct State {
    pub last_seq: u64,
    pub messages: u64,
}

/// A stored message.
#[derive(Debug)]
pub struct RawEntry {
    pub seq: u64,
    /// The time at which it was stored, in milliseconds since 1970.
    pub stored_ms: i64,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

#[derive(Deserialize)]
struct Problem {
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The error codes for JetStream that is not enabled: on the server, for the account.
const NOT_ENABLED_CODES: [u64; 2] = [10_076, 10_039];

/// The error codes for a key that has another revision than expected.
const CONFLICT_CODES: [u64; 2] =
    [ErrorCode::STREAM_WRONG_LAST_SEQUENCE.0, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT.0];

/// The prefix of the API of the JetStream of the account and the servers at hand.
const LOCAL_API: &str = "$JS.API";

/// A stream without a size is made where the account demands one.
const SIZE_REQUIRED: u64 = 10_113;

impl Bucket {
    pub fn new(client: Client, name: &str, api: &str, timeout: Duration) -> Self {
        let (name, api) = (name.to_owned(), api.into());
        let bucket = Self { client, name, api, timeout_ms: Arc::default() };
        bucket.set_timeout(timeout);
        bucket
    }

    /// Sets the time-out of requests from here on.
    pub fn set_timeout(&self, timeout: Duration) {
        let timeout_ms = millis(timeout);
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

    /// The prefix of the subjects of writes. A server hands them on to the JetStream of another
    /// domain or account only with the prefix of its API.
    pub fn write_prefix(&self) -> String {
        match &*self.api {
            LOCAL_API => self.prefix(),
            api => format!("{api}.{}", self.prefix()),
        }
    }

    /// The key that a subject of the bucket ends in.
    pub fn key_of<'a>(&self, subject: &'a str) -> &'a str {
        subject.get(self.prefix().len()..).unwrap_or_default()
    }

    /// The prefix of the subjects of the bucket's keys.
    pub fn prefix(&self) -> String {
        format!("$KV.{}.", self.name)
    }

    /// The state and the settings of the stream, from its leader.
    pub async fn info(&self) -> Result<Info, BucketError> {
        self.ask(&format!("STREAM.INFO.{}", self.stream()), &serde_json::Value::Null).await
    }

    /// Creates the bucket; an existing one stays as it is.
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
            max_bytes: shape.max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1),
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

    /// The newest message of a subject, from the leader.
    pub async fn last(&self, subject: &str) -> Result<RawEntry, BucketError> {
        #[derive(Deserialize)]
        struct Reply {
            message: stream::RawMessage,
        }
        let body = serde_json::json!({ "last_by_subj": subject });
        let request = format!("STREAM.MSG.GET.{}", self.stream());
        let Reply { message } = self.ask(&request, &body).await?;
        let message = StreamMessage::try_from(message)
            .map_err(|error| BucketError::Refused { code: 0, description: error.to_string() })?;
        let stored_ms = i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000);
        Ok(RawEntry {
            seq: message.sequence,
            stored_ms: stored_ms.unwrap_or(0),
            headers: message.headers,
            payload: message.payload,
        })
    }

    /// The time at which the leader stored message `seq`, in nanoseconds since 1970; `None` if it
    /// is not there.
    pub async fn stored_at(&self, seq: u64) -> Result<Option<i64>, BucketError> {
        #[derive(Deserialize)]
        struct Reply {
            message: Stored,
        }
        #[derive(Deserialize)]
        struct Stored {
            time: DateTime<Utc>,
        }
        let request = format!("STREAM.MSG.GET.{}", self.stream());
        match self.ask::<Reply>(&request, &serde_json::json!({ "seq": seq })).await {
            Ok(Reply { message }) => Ok(Some(message.time.timestamp_nanos_opt().unwrap_or(0))),
            Err(BucketError::NoKey) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The sequence of the first message from `seq` on that the leader holds.
    pub async fn first_from(&self, seq: u64) -> Result<Option<u64>, BucketError> {
        #[derive(Deserialize)]
        struct Reply {
            message: Stored,
        }
        #[derive(Deserialize)]
        struct Stored {
            seq: u64,
        }
        let body = serde_json::json!({ "seq": seq, "next_by_subj": format!("{}>", self.prefix()) });
        let request = format!("STREAM.MSG.GET.{}", self.stream());
        match self.ask::<Reply>(&request, &body).await {
            Ok(Reply { message }) => Ok(Some(message.seq)),
            Err(BucketError::NoKey) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a key, under the conditions in `headers`.
    pub async fn put(
        &self,
        key: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BucketError> {
        let subject = format!("{}{key}", self.write_prefix());
        self.request::<serde_json::Value>(subject, headers, payload).await.map(|_| ())
    }

    /// Sends one request to the JetStream API.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        api: &str,
        body: &serde_json::Value,
    ) -> Result<T, BucketError> {
        let payload =
            if body.is_null() { Bytes::new() } else { body.to_string().into_bytes().into() };
        self.request(format!("{}.{api}", self.api), HeaderMap::new(), payload).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<T, BucketError> {
        let request = self.client.send_request(
            subject,
            async_nats::Request::new().headers(headers).payload(payload).timeout(None),
        );
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
        let unreadable = |error: serde_json::Error| BucketError::Refused {
            code: 0,
            description: error.to_string(),
        };
        let mut answer: serde_json::Value =
            serde_json::from_slice(&reply.payload).map_err(unreadable)?;
        match answer.get_mut("error").map(serde_json::Value::take) {
            None => serde_json::from_value(answer).map_err(unreadable),
            Some(problem) => Err(error(serde_json::from_value(problem).map_err(unreadable)?)),
        }
    }
}

fn error(problem: Problem) -> BucketError {
    match problem.err_code {
        code if code == ErrorCode::STREAM_NOT_FOUND.0 => BucketError::Missing,
        code if code == ErrorCode::NO_MESSAGE_FOUND.0 => BucketError::NoKey,
        code if CONFLICT_CODES.contains(&code) => BucketError::Conflict,
        SIZE_REQUIRED => BucketError::SizeRequired,
        code if NOT_ENABLED_CODES.contains(&code) => BucketError::NoJetStream,
        code => BucketError::Refused { code, description: problem.description },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_has_a_majority_if_it_recently_heard_of_enough_followers() {
        let leads = |followers: &[(u64, bool)]| {
            let replicas: Vec<_> = followers
                .iter()
                .map(|(ms, offline)| {
                    serde_json::json!({"active": ms * 1_000_000, "offline": offline})
                })
                .collect();
            let cluster: Cluster =
                serde_json::from_value(serde_json::json!({ "replicas": replicas })).unwrap();
            let info = Info {
                created: String::new(),
                ts: DateTime::default(),
                state: State { last_seq: 0, messages: 0 },
                config: stream::Config::default(),
                cluster: Some(cluster),
            };
            info.has_majority()
        };
        assert!(leads(&[]), "a single server is a majority");
        assert!(leads(&[(300, false), (300, false)]));
        assert!(leads(&[(300, false), (60_000, false)]), "one of three may be down");
        assert!(leads(&[(300, false), (300, true)]));
        assert!(!leads(&[(3000, false), (3000, false)]));
        assert!(!leads(&[(0, false), (0, false)]), "neither was ever heard of");
        assert!(!leads(&[(300, false), (0, false), (9000, false), (300, true)]));
    }
}
