//! `presenced check --connect`: tries the login, the permissions and the bucket without serving.

use thiserror::Error;

use super::access::{Access, ProbeError};
use super::connect::{ConnectError, connect_once};
use super::permissions::Permissions;
use crate::config::Settings;
use crate::health::Health;
use crate::store::bucket::{Bucket, BucketError};
use crate::store::{self, UnusableBucket};

/// A reason why a daemon with these settings cannot serve.
#[derive(Debug, Error)]
pub enum CheckError {
    #[error("no connection to NATS at {servers}: {failure}")]
    NotConnected { servers: String, failure: String },
    #[error(transparent)]
    Unusable(#[from] ConnectError),
    #[error("NATS refuses what the daemon needs: {0}")]
    Refused(String),
    #[error("NATS did not answer to a probe of the permissions")]
    Unanswered,
    #[error("the bucket {bucket}: {reason}")]
    Bucket { bucket: String, reason: BucketError },
    #[error(transparent)]
    UnusableBucket(#[from] UnusableBucket),
}

/// Returns a line for each part that is as it should be, or that needs attention.
pub async fn check(settings: &Settings) -> Result<Vec<String>, CheckError> {
    let access = Access::new(Health::new(), Permissions::of(settings));
    let servers = settings.nats.servers();
    let client = connect_once(&settings.nats, "presenced check", &access).await?;
    let mut lines = vec![format!("connected to NATS at {servers}")];
    access.probe_all(&client).await.map_err(|ProbeError| CheckError::Unanswered)?;
    if let Some(advice) = access.advice() {
        return Err(CheckError::Refused(advice));
    }
    lines.push("all permissions are granted".to_owned());
    let bucket = Bucket::new(
        client,
        &settings.store.bucket,
        &settings.nats.js_api,
        settings.limits.request_timeout,
    );
    match bucket.info().await {
        Ok(info) => {
            store::check(&bucket, &info)?;
            lines.push(format!("the bucket {} can be used", bucket.name()));
            lines.extend(info.warning(bucket.name()));
        }
        Err(BucketError::Missing) => {
            lines.push(format!("the bucket {} is missing; a start makes it", bucket.name()));
        }
        Err(reason) => {
            return Err(CheckError::Bucket { bucket: bucket.name().to_owned(), reason });
        }
    }
    Ok(lines)
}
