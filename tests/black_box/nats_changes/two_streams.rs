//! Daemons of one prefix with different buckets, or of one bucket with different settings.

use serde_json::json;

use super::HEALED;
use crate::support::http::Http;
use crate::support::{Client, Daemon, Server, eventually};

#[tokio::test]
async fn of_daemons_with_two_buckets_behind_one_prefix_only_the_older_group_serves() {
    let server = Server::start().await;
    let mut first = Daemon::spawn(&server, &[]).await;
    let client = Client::connect(&server).await;
    client.connect_user("ann", "1").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let settings = [("STORE__BUCKET", "presence2"), ("METRICS__LISTEN", "127.0.0.1:0")];
    let mut second = Daemon::spawn(&server, &settings).await;
    let http = Http::of(&mut second).await;
    eventually("the second is not ready", HEALED, async || {
        let page = http.get("/readyz").await;
        let names = page.body.contains("KV_presence2") && page.body.contains("in KV_presence (");
        (page.status == 503 && names).then_some(())
    })
    .await;
    // It takes those that are under way to it.
    super::agree(&client, "ann", HEALED, |ann| ann.is_some_and(|ann| ann["online"] == true)).await;
    // The daemon that goes on logs the error too, once.
    first.logs("keep their records in two streams").await;
    let errors =
        |daemon: &Daemon| daemon.lines().iter().filter(|line| line["level"] == "ERROR").count();
    assert_eq!((errors(&first), errors(&second)), (1, 1));

    first.stop().await;
    eventually("the second serves alone", HEALED, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let body = json!({"user": {"id": "bob"}, "connection_id": "1"});
    super::answer(&client, "connect", body, HEALED).await;
}

#[tokio::test]
async fn different_settings_of_daemons_of_one_bucket_are_a_warning_and_a_metric() {
    let server = Server::start().await;
    let mut first = Daemon::spawn(&server, &[("METRICS__LISTEN", "127.0.0.1:0")]).await;
    let http = Http::of(&mut first).await;
    let differ = async |expected: f64| {
        eventually(&format!("presence_settings_differ is {expected}"), HEALED, async || {
            let differ = http.metric("presence_settings_differ").await;
            ((differ - expected).abs() < 0.1).then_some(())
        })
        .await;
    };
    for different in [
        &[("LIVENESS__LEASE", "6s"), ("LIVENESS__HEARTBEAT_INTERVAL", "2s")][..],
        &[("SUBJECTS__EVENTS", "someone.changed")],
        &[("USERS__ANNOUNCED_FIELDS", r#"["mood"]"#)],
        &[("CHANNEL_TYPES__TEAM__OCCUPANCY_INTERVAL", "2s")],
    ] {
        let mut second = Daemon::spawn(&server, different).await;
        second.logs("daemons of one bucket have different settings").await;
        differ(1.0).await;
        assert_eq!(http.get("/readyz").await.status, 200);
        second.stop().await;
        differ(0.0).await;
    }
    first.logs("daemons of one bucket have different settings").await;
}
