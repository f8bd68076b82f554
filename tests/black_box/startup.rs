//! Starting against servers that are absent, too old, without JetStream, or full of other things.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use async_nats::jetstream::{self, kv, stream};
use serde_json::{Value, json};

use crate::support::server::{Options, free_port, last, last_seq};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Server, Stage, eventually};

const END: Duration = Duration::from_secs(10);

/// The lines at which someone has to act.
fn errors(daemon: &Daemon) -> Vec<Value> {
    daemon.lines().into_iter().filter(|line| line["level"] == "ERROR").collect()
}

#[tokio::test]
async fn an_absent_server_is_waited_for_and_served_on_when_it_comes() {
    let mut server = Server::absent(Options::default());
    let mut daemon = Daemon::launch(&server.url(), NO_GRACE);
    daemon.logs("waiting for NATS").await;
    server.appear().await;
    daemon.ready(&server).await;
    let warnings = daemon.lines().iter().filter(|line| line["level"] == "WARN").count();
    assert_eq!(warnings, 1, "it is logged once in a while");
    let client = Client::connect(&server).await;
    client.connect_user("john", "c").await;
    assert_eq!(client.see("john").await.unwrap()["online"], true);
    daemon.stop().await;
}

#[tokio::test]
async fn the_client_library_is_quiet_below_a_directive_for_the_daemon() {
    let mut server = Server::absent(Options::default());
    let level = [("LOG__LEVEL", "info,presenced=debug")];
    let mut daemon = Daemon::launch(&server.url(), &level);
    daemon.logs("waiting for NATS").await;
    server.appear().await;
    daemon.ready(&server).await;
    server.vanish();
    daemon.logs("lost the connection to NATS").await;
    server.appear().await;
    daemon.ready(&server).await;
    daemon.terminate();
    daemon.end(END).await;
    let lines = daemon.lines();
    let of = |name: &str| {
        let named = |line: &&Value| line["target"].as_str().is_some_and(|of| of.starts_with(name));
        lines.iter().filter(named).cloned().collect::<Vec<_>>()
    };
    assert!(of("presenced").iter().any(|line| line["level"] == "DEBUG"));
    assert_eq!(of("async_nats"), [Value::Null; 0]);
}

#[tokio::test]
async fn its_connections_name_the_daemon_its_version_and_its_host() {
    let port = free_port();
    let config = format!("http: \"127.0.0.1:{port}\"\n");
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let _daemon = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    let ping = client.nats.request("$SRV.PING.presence", "".into()).await.unwrap();
    let ping: Value = serde_json::from_slice(&ping.payload).unwrap();
    let id = ping["id"].as_str().unwrap();
    let mut page = TcpStream::connect(("127.0.0.1", port)).unwrap();
    page.write_all(b"GET /connz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let connections: Value = serde_json::from_str(body).unwrap();
    let connections = connections["connections"].as_array().unwrap();
    let mut names: Vec<_> =
        connections.iter().filter_map(|each| each["name"].as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let of = |name: &str| format!("{name} {} {id} {host}", env!("CARGO_PKG_VERSION"));
    let expected = ["presenced", "presenced liveness", "presenced store"].map(of);
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_daemon_that_waits_for_a_server_leaves_when_told() {
    let server = Server::absent(Options::default());
    let mut daemon = Daemon::launch(&server.url(), &[]);
    daemon.logs("waiting for NATS").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_server_that_is_too_old_is_logged_in_one_line_and_the_exit_code_is_78() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || be_too_old(stream.unwrap()));
        }
    });
    let mut daemon = Daemon::launch(&url, &[]);
    assert_eq!(daemon.end(END).await.code(), Some(78));
    let errors = errors(&daemon);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let line = errors[0]["message"].as_str().unwrap();
    assert!(line.contains("2.9.10") && line.contains("2.11"), "{line}");
}

/// A server as Debian 12 has it, as far as a client sees it that connects.
fn be_too_old(mut stream: TcpStream) {
    let info = json!({
        "server_id": "old", "server_name": "old", "version": "2.9.10", "go": "go1.19", "proto": 1,
        "host": "127.0.0.1", "port": 4222, "headers": true, "max_payload": 1_048_576,
        "jetstream": true
    });
    // The client may be gone at any moment.
    let _ = stream.write_all(format!("INFO {info}\r\n").as_bytes());
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if line.starts_with("PING") {
            let _ = stream.write_all(b"PONG\r\n");
        }
    }
}

#[tokio::test]
async fn without_jetstream_it_says_so_and_does_not_serve() {
    let server = Server::start_with(Options { jetstream: false, ..Options::default() }).await;
    let mut daemon = Daemon::launch(&server.url(), &[]);
    let line = daemon.logs("JetStream").await;
    assert_eq!(line["level"], "ERROR");
    let client = Client::connect(&server).await;
    let bound = Duration::from_secs(1);
    assert!(client.attempt("query_users", json!({}), bound).await.is_none());
    assert!(daemon.ended().is_none(), "it waits for someone to enable it");
    daemon.stop().await;
}

#[tokio::test]
async fn a_stream_of_that_name_that_is_no_bucket_is_left_alone_and_the_exit_code_is_78() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let js = jetstream::new(nats.clone());
    let config = stream::Config {
        name: "KV_presence".into(),
        subjects: vec!["orders.>".into()],
        ..stream::Config::default()
    };
    js.create_stream(config).await.unwrap();
    js.publish("orders.1", "x".into()).await.unwrap().await.unwrap();
    let mut daemon = Daemon::launch(&server.url(), &[]);
    assert_eq!(daemon.end(END).await.code(), Some(78));
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    assert!(errors(&daemon)[0].to_string().contains("KV_presence"));
    assert_eq!(last_seq(&nats).await, 1);
}

#[tokio::test]
async fn a_bucket_that_cannot_keep_markers_is_left_alone_and_the_exit_code_is_78() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let config = kv::Config { bucket: "presence".into(), ..kv::Config::default() };
    let bucket = jetstream::new(nats.clone()).create_key_value(config).await.unwrap();
    bucket.put("color", "green".into()).await.unwrap();
    let mut daemon = Daemon::launch(&server.url(), &[]);
    assert_eq!(daemon.end(END).await.code(), Some(78));
    assert_eq!(errors(&daemon).len(), 1, "{:?}", errors(&daemon));
    assert_eq!(bucket.get("color").await.unwrap().unwrap(), "green");
    assert_eq!(last_seq(&nats).await, 1);
}

#[tokio::test]
async fn foreign_keys_of_the_bucket_are_reported_and_left_alone() {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("john", "c").await;
    let Stage { server, daemon, client, .. } = stage;
    daemon.stop().await;
    let js = jetstream::new(client.nats.clone());
    let foreign = ["color", "settings.color", "user.a.b", "user.=41", "users.john", "channel.x"];
    for key in foreign {
        js.publish(format!("$KV.presence.{key}"), "green".into()).await.unwrap().await.unwrap();
    }
    let before = last_seq(&client.nats).await;
    let daemon = Daemon::spawn(&server, NO_GRACE).await;
    assert!(!errors(&daemon).is_empty());
    assert!(errors(&daemon)[0]["message"].as_str().unwrap().contains("no presence record"));
    assert_eq!(client.query(json!({"presence": true})).await.len(), 1);
    assert_eq!(last_seq(&client.nats).await, before);
    client.connect_user("color", "c").await;
    for key in foreign {
        assert_eq!(last(&client.nats, key).await.unwrap().payload, "green");
    }
}

#[tokio::test]
async fn a_server_that_vanishes_is_waited_for_and_served_on_again() {
    let Stage { mut server, client, mut daemon, mut events } = Stage::start(NO_GRACE).await;
    client.connect_user("john", "c").await;
    events.only();
    server.vanish();
    daemon.logs("lost the connection").await;
    server.appear().await;
    let bound = Duration::from_secs(1);
    let again = json!({"user": {"id": "jack"}, "connection_id": "c"});
    eventually("the daemon serves again", Duration::from_secs(15), async || {
        client.attempt("connect", again.clone(), bound).await.and_then(Result::ok)
    })
    .await;
    let both = client.see_all(&["john", "jack"]).await;
    assert!(both.len() == 2 && both.iter().all(|user| user["online"] == true), "{both:?}");
    assert!(daemon.ended().is_none());
}
