//! A first connect that may have been stored, and is refused when it is repeated: nobody stays
//! online whom no program holds.

mod support;

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use presenced_client::filter::online;
use presenced_client::{Error, Patch, Service};
use serde_json::json;
use support::{Daemon, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

/// Stands between the client, at `presence`, and the daemon, at `cell`: the answer of the first
/// request for the operation is lost, and the second one is refused. All else passes.
async fn stand_between(nats: Client, operation: &'static str) {
    let mut requests = nats.subscribe("presence.v1.>").await.unwrap();
    nats.flush().await.unwrap();
    tokio::spawn(async move {
        let mut seen = 0;
        while let Some(request) = requests.next().await {
            let asked = request.subject.strip_prefix("presence.v1.").unwrap().to_owned();
            seen += usize::from(asked == operation);
            let reply = request.reply.clone();
            match seen {
                1 if asked == operation => {
                    nats.request(format!("cell.v1.{asked}"), request.payload).await.unwrap();
                }
                2 if asked == operation => {
                    refuse(&nats, operation, reply.unwrap()).await;
                }
                _ => {
                    let answer = nats.request(format!("cell.v1.{asked}"), request.payload).await;
                    if let Some((reply, answer)) = reply.zip(answer.ok()) {
                        nats.publish(reply, answer.payload).await.unwrap();
                    }
                }
            }
        }
    });
}

async fn refuse(nats: &Client, operation: &str, reply: async_nats::Subject) {
    let error = json!({"error": {"code": "limit_exceeded", "message": "no more", "details": {}}});
    if operation == "batch" {
        let results = json!({"results": [error]});
        return nats.publish(reply, results.to_string().into()).await.unwrap();
    }
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Service-Error-Code", "400");
    nats.publish_with_headers(reply, headers, error.to_string().into()).await.unwrap();
}

/// A server, a daemon at `cell` that ends nobody by itself, and its service.
async fn stage(operation: &'static str) -> (Server, Daemon, Service, Service) {
    let server = Server::start().await;
    let settings = [("SUBJECTS__PREFIX", "cell"), ("LIVENESS__LEASE", "60s")];
    let daemon = Daemon::start_with(&server.url(), &settings).await;
    stand_between(server.connect().await, operation).await;
    let direct = Service::builder(server.connect().await).prefix("cell").build();
    let service = Service::new(server.connect().await);
    (server, daemon, service, direct)
}

async fn nobody_is_online(direct: &Service) {
    eventually("nobody is online", SOON, async || {
        let count = direct.users().filter(online()).fresh().count().await.unwrap();
        (count == 0).then_some(())
    })
    .await;
}

fn is_refused<T: std::fmt::Debug>(connected: Result<T, Error>) {
    assert_eq!(connected.unwrap_err().code(), "limit_exceeded");
}

#[tokio::test]
async fn a_seat_that_may_be_stored_and_is_refused_is_disconnected() {
    let (_server, _daemon, service, direct) = stage("batch").await;
    let lease = service.lease("gw").unwrap();
    is_refused(lease.connect("john", Patch::new()).await);
    nobody_is_online(&direct).await;
    eventually("the seat is gone", SOON, async || (lease.state().seats == 0).then_some(())).await;
    let jack = lease.connect("jack", Patch::new()).await.unwrap();
    jack.close().await;
}

#[tokio::test]
async fn a_connection_that_may_be_stored_and_is_refused_is_disconnected() {
    let (_server, _daemon, service, direct) = stage("connect").await;
    is_refused(service.connect("john", Patch::new()).await);
    nobody_is_online(&direct).await;
}
