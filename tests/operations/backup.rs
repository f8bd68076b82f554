//! Backup and restore of the bucket by JetStream's snapshots, as `nats stream backup` and
//! `nats stream restore` make them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Server, within};

const SOON: Duration = Duration::from_secs(20);

struct Backup {
    /// Configuration and state, as the restore wants them.
    about: Value,
    chunks: Vec<Bytes>,
}

async fn api(nats: &async_nats::Client, what: &str, body: Value) -> Value {
    let payload = body.to_string().into_bytes().into();
    let reply = nats.request(format!("$JS.API.STREAM.{what}.KV_presence"), payload).await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert!(answer.get("error").is_none(), "{what}: {answer}");
    answer
}

async fn back_up(nats: &async_nats::Client) -> Backup {
    let inbox = nats.new_inbox();
    let mut arriving = nats.subscribe(inbox.clone()).await.unwrap();
    let body = json!({"deliver_subject": inbox, "no_consumers": true});
    let answer = api(nats, "SNAPSHOT", body).await;
    let about = json!({"config": answer["config"], "state": answer["state"]});
    let mut chunks = Vec::new();
    let all = async {
        loop {
            let chunk = arriving.next().await.unwrap();
            if chunk.payload.is_empty() {
                return;
            }
            if let Some(acknowledge) = chunk.reply {
                nats.publish(acknowledge, Bytes::new()).await.unwrap();
            }
            chunks.push(chunk.payload);
        }
    };
    within("the last chunk of the snapshot", SOON, all).await;
    Backup { about, chunks }
}

async fn restore(nats: &async_nats::Client, backup: &Backup) {
    let answer = api(nats, "RESTORE", backup.about.clone()).await;
    let to = answer["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in backup.chunks.iter().cloned().chain([Bytes::new()]) {
        nats.request(to.clone(), chunk).await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_taken_while_it_serves_is_restored_for_daemons_that_are_stopped() {
    let server = Server::start().await;
    let daemon = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    client
        .get(
            "upsert_users",
            json!({"users": [{"id": "john", "status": "saved", "invisible": true}]}),
        )
        .await;
    client
        .get("upsert_channel", json!({"type": "messaging", "id": "c", "members": ["john"]}))
        .await;
    client.get("delete_users", json!({"ids": ["nobody"]})).await;
    let saved = client.see("john").await.unwrap();
    let backup = back_up(&client.nats).await;
    client
        .get("upsert_users", json!({"users": [{"id": "john", "status": "later"}, {"id": "late"}]}))
        .await;

    daemon.stop().await;
    api(&client.nats, "DELETE", json!({})).await;
    restore(&client.nats, &backup).await;

    let daemon = Daemon::spawn(&server, NO_GRACE).await;
    assert_eq!(client.see("john").await.unwrap(), saved);
    assert_eq!(client.see_as("john", "john").await.unwrap()["invisible"], true);
    assert!(client.see("late").await.is_none(), "what came after the backup is gone");
    let channel = json!({"type": "messaging", "id": "c", "presence": true});
    assert_eq!(client.get("watch_channel", channel).await["channel"]["member_count"], 1);
    // Written on: the version goes on by the clock, beyond what any watcher has seen.
    let later =
        client.get("upsert_users", json!({"users": [{"id": "john", "status": "on"}]})).await;
    assert!(later["users"]["john"]["version"].as_u64() > saved["version"].as_u64());
    daemon.stop().await;
}

#[tokio::test]
async fn a_bucket_that_is_restored_under_running_daemons_is_followed_as_a_new_truth() {
    let server = Server::start().await;
    let _daemon = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    client.get("upsert_users", json!({"users": [{"id": "john", "status": "saved"}]})).await;
    let backup = back_up(&client.nats).await;
    client.get("upsert_users", json!({"users": [{"id": "john", "status": "later"}]})).await;
    api(&client.nats, "DELETE", json!({})).await;
    restore(&client.nats, &backup).await;
    crate::support::eventually("the restored status is shown", SOON, async || {
        let body = json!({"filter": {"id": "john"}, "presence": true});
        let answer = client.attempt("query_users", body, SOON).await?.ok()?;
        (answer["users"][0]["status"] == "saved").then_some(())
    })
    .await;
}
