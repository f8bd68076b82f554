//! The pages that a daemon serves to people on call over HTTP, and their use in `config`.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Server, eventually, within};

const SOON: Duration = Duration::from_secs(10);

const SETTINGS: &[(&str, &str)] = &[
    ("METRICS__LISTEN", "127.0.0.1:0"),
    ("LIVENESS__OFFLINE_GRACE", "0s"),
    ("LIVENESS__LEASE", "2s"),
    ("LIVENESS__HEARTBEAT_INTERVAL", "1s"),
];

/// Waits until a page has that status, and returns its body.
async fn until(http: &Http, path: &str, status: u16) -> String {
    eventually(&format!("{path} says {status}"), SOON, async || {
        let page = http.get(path).await;
        (page.status == status).then_some(page.body)
    })
    .await
}

/// Waits until a series has that value.
async fn until_metric(http: &Http, series: &str, wanted: f64) {
    eventually(&format!("{series} is {wanted}"), SOON, async || {
        (http.metric(series).await == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_is_ready_only_while_it_serves_and_is_connected() {
    let mut server = Server::absent(Options::default());
    let mut daemon = Daemon::launch(&server.url(), SETTINGS);
    let http = Http::of(&mut daemon).await;
    let why = until(&http, "/readyz", 503).await;
    assert!(why.starts_with("waiting for NATS at"), "{why}");
    assert_eq!(http.get("/healthz").await.status, 200);
    assert_eq!(http.metric("presence_ready").await, 0.0);
    assert_eq!(http.metric("presence_deaf").await, 1.0, "it ends no lease");
    server.appear().await;
    assert_eq!(until(&http, "/readyz", 200).await, "serving\n");
    assert_eq!(http.metric("presence_ready").await, 1.0);
    server.vanish();
    let why = until(&http, "/readyz", 503).await;
    assert!(why.contains("not connected to NATS"), "{why}");
    assert_eq!(http.get("/healthz").await.status, 200);
    server.appear().await;
    until(&http, "/readyz", 200).await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_jetstream_it_is_never_ready_and_says_why() {
    let server = Server::start_with(Options { jetstream: false, ..Options::default() }).await;
    let mut daemon = Daemon::launch(&server.url(), SETTINGS);
    let http = Http::of(&mut daemon).await;
    let why = eventually("it waits for the bucket", SOON, async || {
        Some(http.get("/readyz").await.body).filter(|why| why.contains("JetStream"))
    })
    .await;
    assert!(why.starts_with("waiting for the bucket presence: "), "{why}");
}

#[tokio::test]
async fn it_is_not_ready_while_the_replica_lags_by_more_than_a_second() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    until(&http, "/readyz", 200).await;
    server.pause();
    let why = until(&http, "/readyz", 503).await;
    assert!(why.contains("replica: has not caught up"), "{why}");
    assert!(http.metric("presence_replica_lag_seconds").await > 1.0);
    server.resume();
    until(&http, "/readyz", 200).await;
    assert!(http.metric("presence_replica_lag_seconds").await < 1.0);
}

#[tokio::test]
async fn it_counts_what_happens() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    for user in ["john", "jack"] {
        client.connect_user(user, "c").await;
    }
    client
        .get("connect", json!({"user": {"id": "unseen", "invisible": true}, "connection_id": "c"}))
        .await;
    client.get("upsert_users", json!({"users": [{"id": "absent"}]})).await;
    client.upsert(json!({"id": "jack", "availability": "busy"})).await;
    client.ask("query_users", json!({"limit": "many"})).await.unwrap_err();
    client.get("upsert_channel", json!({"type": "messaging", "id": "lobby"})).await;
    client.get("heartbeat", json!({"user_id": "john", "connection_id": "c"})).await;
    let list = [
        json!({"user_id": "john", "connection_id": "c"}),
        json!({"user_id": "jack", "connection_id": "c"}),
    ];
    client.get("heartbeat", json!({"connections": list})).await;
    client.get("heartbeat", json!({"lease": "nobody's"})).await;

    until_metric(&http, "presence_users{state=\"known\"}", 4.0).await;
    for (series, value) in [
        ("presence_users{state=\"online\"}", 2.0),
        ("presence_users{state=\"active\"}", 1.0),
        ("presence_users{state=\"away\"}", 0.0),
        ("presence_users{state=\"busy\"}", 1.0),
        ("presence_channels", 1.0),
        ("presence_daemons", 1.0),
        ("presence_requests_total{operation=\"connect\",result=\"ok\"}", 3.0),
        ("presence_requests_total{operation=\"query_users\",result=\"invalid_request\"}", 1.0),
        ("presence_request_duration_seconds_count{operation=\"connect\"}", 3.0),
        ("presence_events_total", 3.0),
        ("presence_commits_total{kind=\"user\"}", 5.0),
        ("presence_commits_total{kind=\"channel\"}", 1.0),
        ("presence_heartbeats_total{kind=\"connection\"}", 3.0),
        ("presence_heartbeats_total{kind=\"lease\"}", 1.0),
        ("presence_queue_depth{queue=\"answers\"}", 0.0),
    ] {
        assert_eq!(http.metric(series).await, value, "{series}");
    }
    // All three fall silent.
    until_metric(&http, "presence_lapses_total", 3.0).await;
    until_metric(&http, "presence_users{state=\"online\"}", 0.0).await;
    assert!(http.metric("presence_deaf_seconds_total").await >= 1.0);
    assert_eq!(http.metric("presence_deaf").await, 0.0);

    let page = http.get("/metrics").await;
    assert!(page.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(page.body.ends_with("# EOF\n"));
    for id in ["john", "jack", "unseen", "absent", "lobby", "nobody"] {
        assert!(!page.body.contains(id), "{id} is named");
        let told = daemon.lines().iter().any(|line| line.to_string().contains(id));
        assert!(!told, "{id} is named in the log");
    }
}

#[tokio::test]
async fn it_counts_beacons_and_conflicts_between_daemons() {
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, SETTINGS).await, Daemon::spawn(&server, SETTINGS).await];
    let [one, two] = [Http::of(&mut daemons[0]).await, Http::of(&mut daemons[1]).await];
    until_metric(&one, "presence_daemons", 2.0).await;
    assert!(one.metric("presence_beacons_total").await >= 1.0);
    let client = Client::connect(&server).await;
    eventually("two daemons write the same user at the same moment", SOON, async || {
        let writes = (0..64).map(|n| {
            client
                .ask("upsert_users", json!({"users": [{"id": "busy", "n": fastrand::u32(..) + n}]}))
        });
        futures_util::future::join_all(writes).await;
        let series = "presence_conflicts_total{kind=\"user\"}";
        (one.metric(series).await + two.metric(series).await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_do_not_use_up_its_files() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let before = daemon.files();
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(http.open("GET /metrics HTTP/1.1\r\nHost").await);
    }
    // They are turned out after a while, and then others get in.
    within("a page for someone else", 6 * SOON, http.get("/healthz")).await;
    let files = daemon.files();
    assert!(files < before + 100, "{files} files, and {before} before");
    assert_eq!(http.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_logged_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = Server::start().await;
    let listen = [("METRICS__LISTEN", address.as_str())];
    let mut daemon = Daemon::launch(&server.url(), &listen);
    assert_eq!(daemon.end(SOON).await.code(), Some(1), "it may be free at the next start");
    let line = daemon.logs("`metrics.listen`").await["message"].as_str().unwrap().to_owned();
    assert!(line.contains(&address), "{line}");
}

#[tokio::test]
async fn nothing_is_served_unless_asked_for() {
    let server = Server::start().await;
    let daemon = Daemon::spawn(&server, NO_GRACE).await;
    assert!(!daemon.lines().iter().any(|line| line.to_string().contains("/metrics")));
}

#[tokio::test]
async fn the_process_shows_its_memory_its_time_and_its_open_files() {
    let server = Server::start().await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let resident = http.metric("process_resident_memory_bytes").await;
    let actual = daemon.memory_kib() as f64 * 1024.0;
    assert!((0.5..2.0).contains(&(resident / actual)), "{resident} of {actual}");
    assert!(http.metric("process_cpu_seconds_total").await > 0.0);
    let open = http.metric("process_open_fds").await;
    assert!((open - daemon.files() as f64).abs() <= 8.0, "{open}");
    let series = format!("{} ", env!("CARGO_PKG_VERSION"));
    let page = http.get("/metrics").await.body;
    let info = page.lines().find(|line| line.starts_with("presence_build_info{")).unwrap();
    assert!(info.contains(series.trim()) && info.contains("commit=\""), "{info}");
    daemon.stop().await;
}

/// All names in a text that look like ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("presence_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn dashboard_and_alerts_name_only_metrics_that_exist() {
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, SETTINGS).await, Daemon::spawn(&server, SETTINGS).await];
    let http = Http::of(&mut daemons[0]).await;
    let text = eventually("both know each other", SOON, async || {
        Some(http.get("/metrics").await.body).filter(|text| text.contains("presence_daemons 2"))
    })
    .await;
    // From what is described, not from what has happened: a counter without an event has no line.
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exist: BTreeSet<_> = described
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        })
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let (dashboard, alerts) = (read("grafana-dashboard.json"), read("prometheus-alerts.yaml"));
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() >= 8);
    // A variable that is asked for at each change of the time range shows a cell that was added.
    let variables = parsed["templating"]["list"].as_array().unwrap();
    let asked: Vec<_> = variables.iter().filter(|each| each["type"] == "query").collect();
    assert!(!asked.is_empty() && asked.iter().all(|each| each["refresh"] == 2), "{asked:?}");
    for (file, text) in [("dashboard", &dashboard), ("alerts", &alerts)] {
        let used = names(text);
        assert!(used.len() >= 5, "{file}");
        let unknown: Vec<_> = used.difference(&exist).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} of {exist:?}");
    }
    // The handbook explains each alert and each metric.
    let handbook = read("../docs/operations.md");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(handbook.contains(&format!("### {alert}\n")), "{alert} is not explained");
    }
    let explained = names(&handbook);
    let bare = |name: &str| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|e| name.strip_suffix(e))
            .unwrap_or(name)
            .to_owned()
    };
    let silent: Vec<_> = exist.iter().filter(|name| !explained.contains(&bare(name))).collect();
    assert!(silent.is_empty(), "{silent:?}");
    // And everything that is measured can be seen.
    let shown = &names(&dashboard) | &names(&alerts);
    let unseen: Vec<_> = exist
        .iter()
        .filter(|name| !shown.contains(*name))
        .filter(|name| {
            !name.ends_with("_sum") && !name.ends_with("_count") && !name.ends_with("_info")
        })
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
