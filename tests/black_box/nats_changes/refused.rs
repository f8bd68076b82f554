//! JetStream refuses writes, or the stream is edited so that it cannot serve as the bucket.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};

use super::NOTICED;
use crate::support::http::Http;
use crate::support::{Client, Daemon, Server, Settings, eventually};

pub const SETTINGS: Settings<'static> =
    &[("METRICS__LISTEN", "127.0.0.1:0"), ("LIMITS__REQUEST_TIMEOUT", "1s")];

pub async fn edit(client: &Client, change: impl Fn(&mut jetstream::stream::Config)) {
    let js = jetstream::new(client.nats.clone());
    let stream = js.get_stream("KV_presence").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    js.update_stream(config).await.unwrap();
}

pub async fn readyz_says(http: &Http, status: u16, text: &str) {
    eventually(&format!("readyz is {status} and says {text:?}"), NOTICED, async || {
        let page = http.get("/readyz").await;
        (page.status == status && page.body.contains(text)).then_some(())
    })
    .await;
}

pub fn errors(daemon: &Daemon) -> Vec<String> {
    let errors = daemon.lines().into_iter().filter(|line| line["level"] == "ERROR");
    errors.map(|line| line.to_string()).collect()
}

#[tokio::test]
async fn a_full_bucket_is_reported_to_operators_and_clients_and_heals_by_itself() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    edit(&client, |config| config.max_bytes = 4000).await;
    let status = "x".repeat(900);
    let user = |n| json!({"users": [{"id": format!("u{n}"), "status": status}]});
    let mut refused = None;
    for n in 0..10 {
        if let Err(error) = client.ask("upsert_users", user(n)).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("a write that does not fit any more");
    assert_eq!(refused.code, "unavailable");
    assert!(refused.message.contains("maximum bytes exceeded"), "{refused:?}");
    readyz_says(&http, 503, "writes: they are not stored: maximum bytes exceeded").await;
    client.refused("upsert_users", user(10)).await;
    assert_eq!(errors(&daemon).len(), 1, "one line for one reason: {:?}", errors(&daemon));

    edit(&client, |config| config.max_bytes = -1).await;
    client.get("upsert_users", user(10)).await;
    readyz_says(&http, 200, "serving").await;
}

#[tokio::test]
async fn a_stream_that_is_edited_so_that_users_would_vanish_is_reported_until_that_is_undone() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    edit(&client, |config| config.max_age = Duration::from_secs(3600)).await;
    readyz_says(&http, 503, "forgets its entries after 3600s").await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    edit(&client, |config| config.max_age = Duration::ZERO).await;
    readyz_says(&http, 200, "serving").await;
    edit(&client, |config| {
        config.discard = jetstream::stream::DiscardPolicy::Old;
        config.max_bytes = 1 << 20;
    })
    .await;
    readyz_says(&http, 503, "drops old entries by itself").await;
}

#[tokio::test]
async fn a_stream_that_keeps_several_messages_a_key_is_reported_and_not_taken_for_another() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    edit(&client, |config| config.max_messages_per_subject = 5).await;
    readyz_says(&http, 503, "keeps 5 entries of each key").await;
    for number in 0..10 {
        let body = json!({"users": [{"id": "ann", "status": format!("{number}")}]});
        client.get("upsert_users", body).await;
    }
    // The count of messages is compared twice before it is believed.
    tokio::time::sleep(NOTICED).await;
    let lines = daemon.lines();
    let read_again = |line: &Value| line.to_string().contains("reading it again");
    assert!(!lines.iter().any(read_again), "{lines:?}");
    edit(&client, |config| config.max_messages_per_subject = 1).await;
    readyz_says(&http, 200, "serving").await;
}
