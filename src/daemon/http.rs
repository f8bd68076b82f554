//! HTTP at `metrics.listen`: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors
//! and load balancers.
//!
//! Connections are few and short. Clients that open many, or send nothing, must not use up the
//! files that the daemon may open and needs for NATS.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::health::Health;
use crate::metrics::{self, Metrics};

/// Connections that are served at a time; others wait in the operating system's queue.
const MAX_CONNECTIONS: usize = 64;

/// The time for which a connection may last. Each is for one page, which takes far less.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a failure to accept, such as a lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// The address of the setting cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot serve metrics on {address}, as `metrics.listen` says: {error}")]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl ListenError {
    /// Returns whether a later attempt may succeed: another process still has the address, or the
    /// machine does not have it yet.
    pub fn may_pass(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
    }
}

#[derive(Debug, Clone)]
struct Pages {
    health: Health,
    metrics: Arc<Metrics>,
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    pages: Pages,
}

impl Http {
    pub async fn bind(
        address: SocketAddr,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        // With port 0 the system has chosen one.
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "serving /metrics, /healthz and /readyz");
        Ok(Self { listener, pages: Pages { health, metrics } })
    }

    /// Answers for as long as it is polled; connections end with it.
    pub async fn run(self) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let served = serve(stream, self.pages.clone());
                        connections.spawn(timeout(REQUEST_TIMEOUT, served));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection to the metrics was not accepted");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve(stream: TcpStream, pages: Pages) {
    let respond = service_fn(|request| {
        let response = pages.respond(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), respond);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the metrics broke");
    }
}

impl Pages {
    fn respond<B>(&self, request: &Request<B>) -> Response<String> {
        let page = match request.uri().path() {
            "/metrics" => Self::metrics,
            "/healthz" => Self::healthz,
            "/readyz" => Self::readyz,
            _ => return response(StatusCode::NOT_FOUND, PLAIN_TEXT, String::new()),
        };
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return page(self);
        }
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN_TEXT, String::new());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refused
    }

    fn metrics(&self) -> Response<String> {
        let ready = self.health.watch().borrow().is_ready();
        self.metrics.set_ready(ready);
        response(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text())
    }

    /// The process runs, whatever it waits for.
    fn healthz(&self) -> Response<String> {
        response(StatusCode::OK, PLAIN_TEXT, "ok\n".to_owned())
    }

    /// Answers whether the daemon serves. If it does not, the answer names its problems, or what it
    /// waits for, in one line.
    fn readyz(&self) -> Response<String> {
        let condition = self.health.watch().borrow().clone();
        let status =
            if condition.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, PLAIN_TEXT, format!("{condition}\n"))
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_named_once_with_all_causes() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Arc::new(Metrics::new([], []));
        let bound = Http::bind(taken.local_addr().unwrap(), Health::new(), metrics).await;
        let error = bound.unwrap_err();
        assert!(error.may_pass());
        let chain = format!("{:#}", anyhow::Error::new(error));
        assert_eq!(chain.matches("Address already in use").count(), 1, "{chain}");
    }
}
