//! The account import of `docs/security.md` that changes names, and streams beside presence.

use async_nats::jetstream::{self, stream};
use async_nats::{Client as Nats, ConnectOptions};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};

use crate::support::server::Options;
use crate::support::wait::within;
use crate::support::{Client, Daemon, Server, eventually, token};

const PAGE: &str = include_str!("../../docs/security.md");

const SOON: std::time::Duration = std::time::Duration::from_secs(5);

/// A server with the accounts of the page; who does not log in is the daemon.
async fn start() -> Server {
    let accounts = PAGE.split("```conf\n").nth(1).unwrap().split("```").next().unwrap();
    let config = format!("{accounts}\nno_auth_user: daemon\n");
    Server::start_with(Options { config, ..Options::default() }).await
}

async fn team(server: &Server) -> Nats {
    let login = ConnectOptions::with_user_and_password("team".to_owned(), "team".to_owned());
    login.connect(server.url()).await.unwrap()
}

async fn make_stream(nats: &Nats, name: &str, subject: &str, no_ack: bool) -> stream::Stream {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        no_ack,
        ..stream::Config::default()
    };
    jetstream::new(nats.clone()).create_stream(config).await.unwrap()
}

#[tokio::test]
async fn an_importer_hears_events_at_its_own_prefix_and_the_token_of_the_id() {
    let server = start().await;
    let _daemon = Daemon::spawn(&server, &[]).await;
    let nats = team(&server).await;
    let client = Client::trusted(nats.clone(), "team.presence");
    client.connect_user("john.doe", "1").await;
    let body = json!({"filter": {"id": "john.doe"}, "presence": true});
    let presence = client.get("query_users", body).await["presence"].take();
    assert_eq!(presence["users"], json!(["john.doe"]));
    assert_eq!(presence["subjects"], json!(["user.presence.changed.john=2Edoe"]));

    let id = presence["users"][0].as_str().unwrap();
    let own = format!("team.user.presence.changed.{}", token(id));
    let mut right = nats.subscribe(own.clone()).await.unwrap();
    let named = presence["subjects"][0].as_str().unwrap().to_owned();
    let mut wrong = nats.subscribe(named).await.unwrap();
    let stored = make_stream(&nats, "EVENTS", "team.user.presence.changed.>", false).await;
    client.upsert(json!({"id": "john.doe", "status": "here"})).await;
    let heard = within("the event", SOON, right.next()).await.unwrap();
    let event: Value = serde_json::from_slice(&heard.payload).unwrap();
    assert_eq!(event["user"]["status"], "here");
    assert!(wrong.next().now_or_never().is_none(), "nothing comes under the name in the answer");
    let kept =
        within("the event in the stream", SOON, stored.get_last_raw_message_by_subject(&own));
    let event: Value = serde_json::from_slice(&kept.await.unwrap().payload).unwrap();
    assert_eq!(event["user"]["status"], "here");
}

#[tokio::test]
async fn a_stream_over_the_events_disturbs_nothing_and_one_over_requests_needs_no_ack() {
    let server = start().await;
    let _daemon = Daemon::spawn(&server, &[]).await;
    let client = Client::connect(&server).await;
    let stored = make_stream(&client.nats, "EVENTS", "user.presence.changed.>", false).await;
    client.connect_user("john", "1").await;
    let subject = "user.presence.changed.john";
    within("the event in the stream", SOON, stored.get_last_raw_message_by_subject(subject))
        .await
        .unwrap();

    make_stream(&client.nats, "REQUESTS", "presence.v1.>", false).await;
    let body = json!({}).to_string();
    eventually("the first answer is the stream's", SOON, async || {
        let request = client.nats.request("presence.v1.count_users", body.clone().into());
        let answer: Value = serde_json::from_slice(&request.await.unwrap().payload).unwrap();
        (answer["stream"] == "REQUESTS").then_some(())
    })
    .await;
    let js = jetstream::new(client.nats.clone());
    js.delete_stream("REQUESTS").await.unwrap();
    make_stream(&client.nats, "REQUESTS", "presence.v1.>", true).await;
    for _ in 0..20 {
        assert_eq!(client.get("count_users", json!({})).await["count"], 1);
    }
}
