//! Opening the bucket at the start: waits for it, creates it if it is missing, checks its stream.

use std::time::Duration;

use async_nats::jetstream::stream;

use super::bucket::{Bucket, BucketError, Info, Shape};
use crate::health::Health;

/// The pause between two attempts to open the bucket.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The number of attempts after which the same reason is logged again.
const QUIET_ATTEMPTS: u32 = 60;

/// The reason why a stream cannot serve as the bucket, and what to do about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableBucket {
    #[error(
        "the stream {stream} exists and is no key-value bucket (its subjects are {subjects:?}); \
         choose another `store.bucket`"
    )]
    NoBucket { stream: String, subjects: Vec<String> },
    #[error(
        "the bucket {name} exists without per-message TTL or roll-up, which deletion markers need; \
         allow both on the stream KV_{name}, or choose another `store.bucket`"
    )]
    NoMarkers { name: String },
    #[error(
        "the bucket {name} drops old entries by itself, so users would vanish; let the stream \
         KV_{name} keep to limits and discard new entries, or choose another `store.bucket`"
    )]
    DropsOld { name: String },
    #[error(
        "the bucket {name} forgets its entries after {max_age:?}, so users would vanish; take the \
         maximum age off the stream KV_{name}, or choose another `store.bucket`"
    )]
    MaxAge { name: String, max_age: Duration },
    #[error(
        "the bucket {name} keeps {depth} entries of each key, so their number tells of no loss; \
         set the limit of messages per subject of the stream KV_{name} to 1, or choose another \
         `store.bucket`"
    )]
    Depth { name: String, depth: String },
    #[error(
        "the bucket {name} is sealed, which cannot be undone: nothing can be written; remove the \
         stream KV_{name}, or choose another `store.bucket`"
    )]
    Sealed { name: String },
}

/// Waits until the bucket is there, and creates it if it is missing. Logs from time to time what it
/// waits for.
pub async fn open(bucket: &Bucket, shape: Shape, health: &Health) -> Result<(), UnusableBucket> {
    let mut logged = String::new();
    let mut attempts = 0_u32;
    health.starting(format!("the bucket {}", bucket.name()));
    loop {
        let opened = match bucket.info().await {
            Ok(info) => return check(bucket, &info),
            Err(BucketError::Missing) => bucket.create(shape).await,
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            let reason = error.to_string();
            health.starting(format!("the bucket {}: {reason}", bucket.name()));
            // A problem that is logged already explains why no answer comes.
            let is_explained = matches!(error, BucketError::Timeout(_)) && health.has_problems();
            if !is_explained && (logged != reason || attempts >= QUIET_ATTEMPTS) {
                tracing::error!(bucket = bucket.name(), reason, "waiting for the bucket");
                (logged, attempts) = (reason, 0);
            }
            attempts += 1;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Checks that the stream can serve as the bucket.
pub fn check(bucket: &Bucket, info: &Info) -> Result<(), UnusableBucket> {
    let config = &info.config;
    let name = bucket.name().to_owned();
    if config.subjects != [format!("{}>", bucket.prefix())] {
        let subjects = config.subjects.clone();
        return Err(UnusableBucket::NoBucket { stream: bucket.stream(), subjects });
    }
    if config.sealed {
        return Err(UnusableBucket::Sealed { name });
    }
    if !config.allow_message_ttl || !config.allow_rollup {
        return Err(UnusableBucket::NoMarkers { name });
    }
    let is_bounded = config.max_messages > 0 || config.max_bytes > 0;
    if config.retention != stream::RetentionPolicy::Limits
        || is_bounded && config.discard != stream::DiscardPolicy::New
    {
        return Err(UnusableBucket::DropsOld { name });
    }
    if !config.max_age.is_zero() {
        return Err(UnusableBucket::MaxAge { name, max_age: config.max_age });
    }
    if !info.has_one_message_a_key() {
        let depth = config.max_messages_per_subject;
        let depth = if depth > 0 { depth.to_string() } else { "any number of".to_owned() };
        return Err(UnusableBucket::Depth { name, depth });
    }
    Ok(())
}
