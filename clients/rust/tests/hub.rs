//! The hub of a door: how it asks for users, and when it lets go of them.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{StreamExt, TryStreamExt};
use presenced_client::{Known, Patch, Seen, Service, User};
use serde_json::{Value, json};
use support::{Daemon, Server, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(15);

async fn next(requests: &mut Subscriber) -> Message {
    tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap()
}

fn asked(query: &Message) -> usize {
    let body: Value = serde_json::from_slice(&query.payload).unwrap();
    body["filter"]["id"]["$in"].as_array().unwrap().len()
}

#[tokio::test]
async fn four_queries_of_a_hundred_users_are_in_flight_at_most() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let mut queries = nats.subscribe("presence.v1.query_users").await.unwrap();
    let service = Service::new(server.connect().await);
    let watch = service.watch((0..650).map(|n| format!("u{n}"))).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(next(&mut queries).await);
    }
    let mut counts: Vec<usize> = waiting.iter().map(asked).collect();
    // The fifth query comes when the first is answered, and no earlier.
    for answered in 0..7 {
        let more = tokio::time::timeout(Duration::from_millis(200), queries.next()).await;
        assert!(more.is_err(), "a query more before answer {answered}");
        let reply = waiting.remove(0).reply.unwrap();
        let answer = json!({"users": [], "more": false}).to_string();
        nats.publish(reply, answer.into()).await.unwrap();
        if answered < 3 {
            let query = next(&mut queries).await;
            counts.push(asked(&query));
            waiting.push(query);
        }
    }
    watch.live().await.unwrap();
    assert_eq!(counts, [100, 100, 100, 100, 100, 100, 50]);
}

/// The number of subscriptions to a subject, as the server counts them.
async fn subscriptions(port: u16, subject: &str) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = "GET /subsz?subs=1 HTTP/1.0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.matches(&format!("\"{subject}\"")).count()
}

#[tokio::test]
async fn a_user_whom_nobody_watches_any_more_is_kept_for_a_moment_and_then_left() {
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start_with(&format!("http: \"127.0.0.1:{http}\"")).await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let spy = server.connect().await;
    let mut queries = spy.subscribe("presence.v1.query_users").await.unwrap();
    spy.flush().await.unwrap();
    let watch = service.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    assert_eq!(asked(&next(&mut queries).await), 1);

    // A view that is taken down and set up again costs nothing.
    drop(watch);
    let watch = service.watch(["jack"]).unwrap();
    watch.live().await.unwrap();
    assert_eq!(subscriptions(http, "user.presence.changed.jack").await, 1);
    drop(watch);
    eventually("the subscription ends", SOON, async || {
        (subscriptions(http, "user.presence.changed.jack").await == 0).then_some(())
    })
    .await;
    let again = service.watch(["jack"]).unwrap();
    again.live().await.unwrap();
    next(&mut queries).await;
    spy.publish("presence.v1.query_users", "end".into()).await.unwrap();
    assert_eq!(next(&mut queries).await.payload, "end", "one query for each subscription");
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_is_asked_for_in_parts() {
    let server = Server::start_with("max_payload: 8192").await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let ids: Vec<String> = (0..20).map(|n| format!("u{n}")).collect();
    for id in &ids {
        let patch = Patch::new().set("about", "x".repeat(900)).unwrap();
        service.upsert([patch.of(id).unwrap()]).await.unwrap();
    }
    let spy = server.connect().await;
    let mut queries = spy.subscribe("presence.v1.query_users").await.unwrap();
    spy.flush().await.unwrap();
    let watch = service.watch(&ids).unwrap();
    watch.live().await.unwrap();
    for id in &ids {
        assert!(watch.get(id).is_some(), "{id}");
    }
    assert_eq!(asked(&next(&mut queries).await), 20);
    assert_eq!(asked(&next(&mut queries).await), 10);
}

#[tokio::test]
async fn pages_with_an_answer_that_would_be_too_large_are_smaller() {
    let server = Server::start_with("max_payload: 8192").await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let ids: Vec<String> = (0..20).map(|n| format!("u{n:02}")).collect();
    for id in &ids {
        let patch = Patch::new().set("about", "x".repeat(900)).unwrap();
        service.upsert([patch.of(id).unwrap()]).await.unwrap();
    }
    let users: Vec<Seen> = service.users().pages().try_collect().await.unwrap();
    assert!(users.iter().map(|user| &user.id).eq(&ids));
    let all = service.watch_all();
    eventually("all users are shown", SOON, async || (all.snapshot().len() == 20).then_some(()))
        .await;
    all.live().await.unwrap();
}

async fn channel_of(service: &Service, members: &[String]) {
    for (index, chunk) in members.chunks(100).enumerate() {
        let field = if index == 0 { "members" } else { "add_members" };
        let change = json!({field: chunk}).as_object().unwrap().clone();
        service.upsert_channel("messaging", "42", change).await.unwrap();
    }
}

#[tokio::test]
async fn a_member_behind_those_that_are_shown_is_unknown_until_something_is_heard() {
    let server = Server::start().await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let members: Vec<String> = (0..120).map(|n| format!("u{n:03}")).collect();
    channel_of(&service, &members).await;
    let _seat = service.connect("u110", Patch::new()).await.unwrap();
    let me = User::new(server.connect().await, "u000").unwrap();
    let watch = me.watch_channel("messaging", "42", None).await.unwrap().watch;
    watch.add("u110").unwrap();
    watch.live().await.unwrap();
    assert_eq!(watch.known("u050"), Known::Absent);
    assert_eq!(watch.known("u110"), Known::Unknown);
    service.upsert([Patch::new().status("here").of("u110").unwrap()]).await.unwrap();
    eventually("the member is shown", SOON, async || {
        watch.get("u110").filter(|user| user.online && user.status.as_deref() == Some("here"))
    })
    .await;
}

#[tokio::test]
async fn a_channel_with_an_answer_that_would_be_too_large_is_watched_in_part() {
    let server = Server::start_with("max_payload: 8192").await;
    let _daemon = Daemon::start(&server.url()).await;
    let service = Service::new(server.connect().await);
    let members: Vec<String> = (0..40).map(|n| format!("u{n:02}")).collect();
    channel_of(&service, &members).await;
    for id in &members {
        let patch = Patch::new().set("about", "x".repeat(300)).unwrap();
        service.upsert([patch.of(id).unwrap()]).await.unwrap();
    }
    let me = User::new(server.connect().await, "u00").unwrap();
    let channel = me.watch_channel("messaging", "42", None).await.unwrap();
    channel.watch.live().await.unwrap();
    let shown = channel.channel["members"].as_array().unwrap().len();
    assert!((1..40).contains(&shown), "{shown}");
    assert_eq!(channel.channel["member_count"], 40);
    assert!(channel.watch.get("u00").is_some());
    assert_eq!(channel.watch.snapshot().len(), shown);
}
