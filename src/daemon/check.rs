//! `presenced check --connect`: tries the login, the permissions and the bucket without serving.

use async_nats::ServerInfo;
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
    #[error(
        "the bucket {bucket} is missing, and a start cannot make it: `store.replicas` is \
         {replicas}, and this server is in no cluster"
    )]
    NoCluster { bucket: String, replicas: usize },
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
    let server = client.server_info();
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
        Err(BucketError::Missing) if settings.store.replicas > 1 && is_alone(&server, settings) => {
            let (bucket, replicas) = (bucket.name().to_owned(), settings.store.replicas);
            return Err(CheckError::NoCluster { bucket, replicas });
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

/// Returns whether the server keeps the streams itself, and is in no cluster. By another prefix of
/// the API it may reach those of others.
fn is_alone(server: &ServerInfo, settings: &Settings) -> bool {
    let is_local = server.jetstream && settings.nats.js_api == Settings::default().nats.js_api;
    is_local && server.cluster.as_deref().unwrap_or_default().is_empty()
}
