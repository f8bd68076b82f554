//! Permissions that are missing.

use std::time::Duration;

use serde_json::json;

use super::{errors, is_ready, launch, only_error};
use crate::support::server::Options;
use crate::support::{Client, Daemon, Server, eventually};

const BOUND: Duration = Duration::from_secs(30);

/// The subjects of answers in this test. The daemon answers wherever a requester says, so this is
/// no permission that it can try.
const ANSWERS: &str = "_INBOX.>";

/// All else that the daemon publishes on, and all that it subscribes to.
const PUBLISH: &[&str] = &[
    "user.presence.changed.*",
    "$KV.presence.>",
    "$JS.API.STREAM.INFO.KV_presence",
    "$JS.API.STREAM.CREATE.KV_presence",
    "$JS.API.STREAM.MSG.GET.KV_presence",
    "$JS.API.CONSUMER.CREATE.KV_presence.*",
    "$JS.API.CONSUMER.INFO.KV_presence.*",
    "$JS.API.CONSUMER.DELETE.KV_presence.*",
    "$JS.FC.>",
    "presence.internal.v1.>",
    "presence.v1.heartbeat",
    "presence.v1.heartbeat.probe",
];
const SUBSCRIBE: &[&str] = &[
    "_INBOX.>",
    "presence.v1.> presenced",
    "presence.v1.heartbeat",
    "presence.v1.heartbeat.*",
    "presence.internal.v1.>",
    "$SRV.PING",
    "$SRV.PING.presence",
    "$SRV.PING.presence.*",
    "$SRV.INFO",
    "$SRV.INFO.presence",
    "$SRV.INFO.presence.*",
    "$SRV.STATS",
    "$SRV.STATS.presence",
    "$SRV.STATS.presence.*",
];

/// A login without some of that, each as it stands in the message.
fn all_but(missing: &[&str]) -> String {
    let list = |verb: &str, always: &[&'static str], all: &[&'static str]| {
        let is_granted =
            |subject: &&&str| !missing.contains(&format!("{verb} on \"{subject}\"").as_str());
        let granted: Vec<_> = always.iter().chain(all.iter().filter(is_granted)).collect();
        format!("{verb}: {{ allow: {granted:?} }}")
    };
    let (publish, subscribe) =
        (list("publish", &[ANSWERS], PUBLISH), list("subscribe", &[], SUBSCRIBE));
    format!(
        "authorization {{ users: [ {{ user: admin, password: a }}, {{ user: daemon, password: d, \
         permissions: {{ {publish}, {subscribe} }} }} ] }}\nno_auth_user: admin\n"
    )
}

const LOGIN: &[(&str, &str)] = &[("NATS__USER", "daemon"), ("NATS__PASSWORD", "d")];

async fn server_with(missing: &[&str]) -> Server {
    Server::start_with(Options { config: all_but(missing), ..Options::default() }).await
}

/// Without that permission the daemon does not serve, and says so; with it, it does.
async fn is_needed(permission: &str) {
    let mut server = server_with(&[permission]).await;
    let mut daemon = launch(&server.url(), LOGIN);
    let shown = json!(permission).to_string();
    only_error(&mut daemon, &[shown.trim_matches('"'), "grant "]).await;
    server.reload(all_but(&[])).await;
    daemon.ready(&server).await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    daemon.stop().await;
}

#[tokio::test]
async fn all_that_is_listed_is_all_that_is_needed() {
    let server = server_with(&[]).await;
    let daemon = Daemon::spawn(&server, LOGIN).await;
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    assert_eq!(errors(&daemon), Vec::<String>::new());
}

/// Takes each permission of a list away once, a few at a time.
async fn each_is_needed(verb: &str, subjects: &[&str]) {
    for some in subjects.chunks(8) {
        let permissions = some.iter().map(|subject| format!("{verb} on \"{subject}\""));
        let needed = permissions.map(|permission| async move { is_needed(&permission).await });
        futures_util::future::join_all(needed).await;
    }
}

#[tokio::test]
async fn each_permission_to_publish_is_needed() {
    each_is_needed("publish", PUBLISH).await;
}

#[tokio::test]
async fn each_permission_to_subscribe_is_needed() {
    each_is_needed("subscribe", SUBSCRIBE).await;
}

#[tokio::test]
async fn a_bucket_that_is_there_need_not_be_made() {
    let server = server_with(&[]).await;
    Daemon::spawn(&server, LOGIN).await.stop().await;
    let mut server = server;
    server.reload(all_but(&["publish on \"$JS.API.STREAM.CREATE.KV_presence\""])).await;
    let daemon = Daemon::spawn(&server, LOGIN).await;
    assert_eq!(errors(&daemon), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_taken_away_while_it_serves_is_logged_once_however_often_it_is_missed() {
    let mut server = server_with(&[]).await;
    let mut daemon = Daemon::spawn(&server, LOGIN).await;
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    server.reload(all_but(&["publish on \"$KV.presence.>\""])).await;
    for n in 0..4 {
        let body = json!({"users": [{"id": "john", "status": n.to_string()}]});
        assert_eq!(client.refused("upsert_users", body).await.code, "unavailable");
    }
    daemon.logs("$KV.presence.>").await;
    let advice = |line: &&String| line.contains("grant publish");
    assert_eq!(errors(&daemon).iter().filter(advice).count(), 1, "{:?}", errors(&daemon));
    server.reload(all_but(&[])).await;
    daemon.logs("grants the missing permissions now").await;
    client.upsert(json!({"id": "john", "status": "back"})).await;
}

#[tokio::test]
async fn requests_that_were_taken_away_are_served_again_when_they_are_given_back() {
    let mut server = server_with(&[]).await;
    let mut daemon = Daemon::spawn(&server, LOGIN).await;
    assert!(is_ready(&daemon));
    server.reload(all_but(&["subscribe on \"presence.v1.> presenced\""])).await;
    daemon.logs("presence.v1.> presenced").await;
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    let client = Client::connect(&server).await;
    let body = json!({"user": {"id": "john"}, "connection_id": "c"});
    let bound = Duration::from_secs(1);
    assert!(client.attempt("connect", body.clone(), bound).await.is_none());
    server.reload(all_but(&[])).await;
    eventually("it serves again", BOUND, async || {
        client.attempt("connect", body.clone(), bound).await?.ok()
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_refused_is_logged_without_its_subject_which_may_hold_an_id() {
    let server = server_with(&[]).await;
    let mut daemon = Daemon::spawn(&server, LOGIN).await;
    let client = Client::connect(&server).await;
    let connect = json!({"user": {"id": "jack"}, "connection_id": "c"}).to_string();
    client
        .nats
        .publish_with_reply("presence.v1.connect", "answers.john.1", connect.into())
        .await
        .unwrap();
    assert_eq!(daemon.logs("refused an answer").await["level"], "WARN");
    let log = daemon.lines().iter().map(ToString::to_string).collect::<String>();
    assert!(!log.contains("john") && !log.contains("jack"), "{log}");
    assert!(is_ready(&daemon));
}
