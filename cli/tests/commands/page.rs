//! `web`: who is let in, what the page may do, and what it is told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::servers::{Server, eventually};
use crate::support::{Following, SOON, Stage};

/// A page that is served, and its cookie.
struct Page {
    _process: Following,
    address: String,
    token: String,
    cookie: String,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.status, self.body))
    }
}

impl Page {
    async fn start(stage: &Stage, flags: &[&str]) -> Self {
        let mut process = stage.follow(&[&["web"], flags].concat());
        let url = process.line().await;
        let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
        let (address, token) = (address.to_owned(), token.to_owned());
        let mut page = Self { _process: process, address, token, cookie: String::new() };
        let welcome = page.get(&format!("/?token={}", page.token)).await;
        assert_eq!(welcome.status, 303);
        assert!(welcome.head.contains("HttpOnly; SameSite=Strict"), "{}", welcome.head);
        let cookie = welcome.head.split("set-cookie: ").nth(1).unwrap();
        page.cookie = cookie.split(';').next().unwrap().to_owned();
        page
    }

    async fn get(&self, path: &str) -> Answer {
        let host = self.address.clone();
        self.ask("GET", path, &[("Host", &host), ("Cookie", &self.cookie)], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let host = self.address.clone();
        let kind = ("Content-Type", "application/json");
        let headers = [("Host", host.as_str()), ("Cookie", &self.cookie), kind];
        self.ask("POST", path, &headers, &body.to_string()).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

const ASSETS: [&str; 6] = ["/", "/page.js", "/views.js", "/dom.js", "/page.css", "/icon.svg"];

#[tokio::test]
async fn only_the_page_itself_is_answered() {
    let stage = Stage::start().await;
    let page = Page::start(&stage, &[]).await;
    for path in ASSETS.into_iter().chain(["/api/overview", "/api/users"]) {
        let answer = page.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains("content-security-policy: default-src 'self'"), "{path}");
        assert!(answer.head.contains("cache-control: no-store"), "{path}");
        let without = page.ask("GET", path, &[("Host", &page.address)], "").await;
        assert_eq!(without.status, 403, "{path} without a cookie");
        let wrong = page.cookie.replace('=', "=0");
        let headers = [("Host", page.address.as_str()), ("Cookie", &wrong)];
        assert_eq!(page.ask("GET", path, &headers, "").await.status, 403, "{path}, wrong cookie");
    }
    let port = page.address.split(':').nth(1).unwrap();
    let localhost = format!("localhost:{port}");
    for (host, status) in [
        (page.address.as_str(), 200),
        (localhost.as_str(), 200),
        ("evil.example", 403),
        (&format!("evil.example:{port}"), 403),
        ("127.0.0.1", 403),
    ] {
        let headers = [("Host", host), ("Cookie", &page.cookie)];
        assert_eq!(page.ask("GET", "/api/users", &headers, "").await.status, status, "{host}");
        let path = format!("/?token={}", page.token);
        let welcome = page.ask("GET", &path, &[("Host", host)], "").await;
        assert_eq!(welcome.status, if status == 200 { 303 } else { 403 }, "{host} with the token");
    }
    for (name, value) in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", &format!("https://{}", page.address)),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        let headers = [("Host", page.address.as_str()), ("Cookie", &page.cookie), (name, value)];
        assert_eq!(
            page.ask("GET", "/api/users", &headers, "").await.status,
            403,
            "{name}: {value}"
        );
    }
    assert_eq!(page.get("/?token=00000000000000000000000000000000").await.status, 200);
    let wrong = page.ask("GET", "/?token=0", &[("Host", &page.address)], "").await;
    assert_eq!(wrong.status, 403);
    stage.run(&["web", "--listen", "0.0.0.0:0"]).await.fails(2, "127.0.0.1");
}

#[tokio::test]
async fn the_page_is_served_while_nobody_answers() {
    let server = Server::start().await;
    // It hears the requests and says nothing.
    let silent = server.connect().await;
    let _heard = silent.subscribe("presence.v1.>").await.unwrap();
    silent.flush().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let stage = Stage { server, daemons: Vec::new(), home };
    let begun = Instant::now();
    let page = Page::start(&stage, &["--timeout", "30s"]).await;
    assert_eq!(page.get("/").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_page_without_write_changes_nothing() {
    let stage = Stage::start().await;
    let page = Page::start(&stage, &[]).await;
    stage.ok(&["set", "john", "--status", "here"]).await;
    let changed = page.post("/api/set", &json!({"id": "john", "status": "there"})).await;
    assert_eq!((changed.status, changed.body.contains("--write")), (403, true));
    assert_eq!(page.post("/api/delete", &json!({"id": "john"})).await.status, 403);
    let play = json!({"id": "ann", "action": "hide"});
    assert_eq!(page.post("/api/demo", &play).await.status, 403);
    assert_eq!(stage.lines(&["get", "john"]).await[0]["status"], "here");
    assert_eq!(page.get("/api/overview").await.json()["write"], false);

    let page = Page::start(&stage, &["--write"]).await;
    let changed = page.post("/api/set", &json!({"id": "john", "status": "there"})).await;
    assert_eq!(changed.json()["users"]["john"]["status"], "there");
    let refused = page.post("/api/set", &json!({"id": "john", "online": true})).await;
    assert_eq!((refused.status, refused.body.contains("online")), (400, true));
    // A form of another page cannot send JSON.
    let headers =
        [("Host", page.address.as_str()), ("Cookie", &page.cookie), ("Content-Type", "text/plain")];
    assert_eq!(page.ask("POST", "/api/set", &headers, "{\"id\":\"x\"}").await.status, 415);
    assert_eq!(page.post("/api/delete", &json!({"id": "john"})).await.status, 200);
    stage.run(&["get", "john"]).await.fails(3, "no such user");
}

#[tokio::test]
async fn the_page_is_told_what_there_is() {
    let stage = Stage::start().await;
    stage.ok(&["set", "jack", "-f", "team=red", "-f", "level=7"]).await;
    stage.ok(&["set", "jill", "-f", "team=red"]).await;
    stage.ok(&["channel", "create", "team:red", "jack"]).await;
    let page = Page::start(&stage, &[]).await;
    let users = page.get("/api/users?q=team=red%20and%20level%3E6").await.json();
    assert_eq!((&users["users"][0]["id"], &users["count"]), (&json!("jack"), &json!(1)));
    let wrong = page.get("/api/users?q=level").await;
    assert_eq!(
        (wrong.status, wrong.json()["error"].as_str().unwrap().contains("field=value")),
        (400, true)
    );
    let channels = page.get("/api/channels?q=members=jack").await.json();
    assert_eq!(channels["channels"][0]["cid"], "team:red");
    let jack = page.get("/api/user?id=jack").await.json();
    assert_eq!((&jack["user"]["level"], &jack["explain"]["user_id"]), (&json!(7), &json!("jack")));
    assert_eq!(page.get("/api/user?id=nobody").await.status, 400);
    eventually("both daemons and all users are seen", SOON, async || {
        let overview = page.get("/api/overview").await.json();
        (overview["daemons"].as_array()?.len() == 2 && overview["known"] == 2).then_some(())
    })
    .await;

    let mut stream = TcpStream::connect(&page.address).await.unwrap();
    let request = format!(
        "GET /api/changes HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        page.address, page.cookie
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 65536];
    let mut text = String::new();
    while !text.contains("text/event-stream") {
        let read = stream.read(&mut bytes).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    stage.ok(&["set", "jack", "--status", "a\nb"]).await;
    let change = async {
        while !text.contains("event: change\ndata: {") || !text.contains("\\nb") {
            let read = stream.read(&mut bytes).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    };
    tokio::time::timeout(SOON, change).await.expect("the change comes");
}

#[tokio::test]
async fn lively_users_hide_leave_and_sleep() {
    let stage = Stage::start().await;
    let page = Page::start(&stage, &["--write", "--demo"]).await;
    let online = async |expected: &str| {
        eventually(&format!("{expected:?} online"), SOON, async || {
            let ids = stage.ok(&["who", "-o", "ids"]).await.trim().replace('\n', " ");
            (ids == expected).then_some(())
        })
        .await;
    };
    let ids = eventually("both users are there", SOON, async || {
        let ids = stage.ok(&["who", "-o", "ids"]).await;
        let ids: Vec<String> = ids.lines().map(str::to_owned).collect();
        (ids.len() == 2).then_some(ids)
    })
    .await;
    let (ann, bob) = (ids[0].as_str(), ids[1].as_str());
    assert!(ann.starts_with("demo-ann-") && bob.starts_with("demo-bob-"), "{ids:?}");
    let both = format!("{ann} {bob}");
    let play = async |id: &str, action: &str| {
        let done = page.post("/api/demo", &json!({"id": id, "action": action})).await;
        assert_eq!(done.status, 200, "{action}: {}", done.body);
    };
    play(ann, "hide").await;
    online(bob).await;
    play(ann, "show").await;
    online(&both).await;
    play(bob, "leave").await;
    online(ann).await;
    play(bob, "return").await;
    online(&both).await;
    play(ann, "sleep").await;
    online(bob).await;
    play(ann, "wake").await;
    online(&both).await;
}
