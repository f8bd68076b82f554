//! What is served over HTTP where `metrics.listen` says: `/metrics` for Prometheus, `/healthz` and
//! `/readyz` for whoever decides whether the daemon lives and may be used.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::map_response;
use axum::response::IntoResponse;
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpListener;

use super::limited_listener::LimitedListener;
use crate::health::Health;
use crate::metrics::{CONTENT_TYPE, Metrics};

/// The address of the setting cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot serve metrics on {address}, as `metrics.listen` says: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl ListenError {
    /// Whether it is only that another process has the address, which may be about to leave, or that
    /// the machine does not have it yet.
    pub fn may_pass(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
    }
}

#[derive(Debug, Clone)]
struct Shared {
    health: Health,
    metrics: Arc<Metrics>,
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    router: Router,
}

impl Http {
    pub async fn bind(
        address: SocketAddr,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        // With port 0 the system has chosen one.
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .layer(map_response(one_page))
            .with_state(Shared { health, metrics });
        tracing::info!(%address, "serving /metrics, /healthz and /readyz");
        Ok(Self { listener, router })
    }

    /// Answers for as long as it is polled.
    pub async fn run(self) {
        if let Err(error) = axum::serve(LimitedListener::new(self.listener), self.router).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    }
}

/// A connection is for one page, so that it need not last.
async fn one_page<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics_page(State(shared): State<Shared>) -> impl IntoResponse {
    let ready = shared.health.watch().borrow().is_ready();
    shared.metrics.set_ready(ready);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], shared.metrics.text())
}

/// The process runs, whatever it waits for.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether it serves, and otherwise what it waits for or suffers from, in one line.
async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let condition = shared.health.watch().borrow().clone();
    let status =
        if condition.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{condition}\n"))
}
