//! Moving a bucket from one replica to three, while it is in use.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::support::load::Load;
use crate::support::server::stream;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Server, eventually};

const LONG: Duration = Duration::from_secs(60);
/// A request that has no answer by then was lost with the node.
const ANSWER: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_bucket_in_use_is_given_three_replicas_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mut daemon = Daemon::launch(&cluster.urls(), NO_GRACE);
    daemon.logs("\"ready\"").await;
    let client = Client::trusted(cluster.connect().await, "presence");
    let load = Load::paced(&client, 4, Duration::from_millis(5));

    let mut config = stream(&client.nats, "presence").await["config"].take();
    assert_eq!(config["num_replicas"], 1);
    config["num_replicas"] = json!(3);
    let subject = "$JS.API.STREAM.UPDATE.KV_presence";
    let updated = client.nats.request(subject, config.to_string().into_bytes().into()).await;
    let updated: Value = serde_json::from_slice(&updated.unwrap().payload).unwrap();
    assert!(updated.get("error").is_none(), "{updated}");
    eventually("all three replicas are current", LONG, async || {
        let info = stream(&client.nats, "presence").await;
        let replicas = info["cluster"]["replicas"].as_array()?.clone();
        (replicas.len() == 2 && replicas.iter().all(|each| each["current"] == true)).then_some(())
    })
    .await;

    let tallies = load.stop().await;
    for (id, tally) in &tallies {
        // While the stream elects a leader, requests are refused as unavailable; none is dropped.
        assert_eq!(tally.unanswered, 0, "{id}: {tally:?}");
        tally.check(&client.see(id).await.unwrap());
    }
    // Now one may go.
    let leader = cluster.leader(&client.nats).await;
    cluster.kill(leader);
    for (id, tally) in &tallies {
        let user = eventually("it is served again", LONG, async || {
            let body = json!({"filter": {"id": id}, "presence": true});
            let answer = client.attempt("query_users", body, ANSWER).await?.ok()?;
            answer["users"].get(0).cloned()
        })
        .await;
        tally.check(&user);
    }
}

#[tokio::test]
async fn one_replica_on_a_cluster_is_a_warning_at_the_start_and_in_a_check() {
    let warning = "the bucket presence has one replica on a cluster of NATS";
    let cluster = Cluster::start(3).await;
    let mut daemon = Daemon::launch(&cluster.urls(), NO_GRACE);
    daemon.logs("\"ready\"").await;
    let line = daemon.logs(warning).await;
    assert_eq!(line["level"], "WARN");
    // A cluster that has just elected its leaders may take longer than a check waits.
    eventually("the check warns, too", LONG, async || {
        check(&cluster.urls()).filter(|text| text.contains(warning))
    })
    .await;

    let server = Server::start().await;
    let alone = Daemon::spawn(&server, NO_GRACE).await;
    assert!(alone.lines().iter().all(|line| !line.to_string().contains("one replica")));
    let text = check(&server.url()).unwrap();
    assert!(!text.contains("one replica"), "a server by itself has no choice");
}

/// The output of `presenced check --connect`, if the bucket can be used.
fn check(urls: &str) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presenced"));
    command.env_clear().args(["check", "--connect", "--config", "/dev/null", "--nats-url", urls]);
    let output = command.output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
