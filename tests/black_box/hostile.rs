//! Ten thousand malformed and hostile requests: each is answered once, with an error of the
//! protocol; nothing is written, and the daemon serves on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::client::read;
use crate::support::stage::PATIENT;
use crate::support::{Stage, token};

const SEED: u64 = 11;
const REQUESTS: usize = 10_000;
const AT_ONCE: usize = 64;

/// One in so many is as large as the server takes.
const LARGE: usize = 200;

/// After so much silence no more answers come.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

const OPERATIONS: [&str; 8] = [
    "connect",
    "heartbeat",
    "disconnect",
    "upsert_users",
    "delete_users",
    "query_users",
    "batch",
    "explain",
];

struct Hostile {
    /// Behind the prefix.
    subject: String,
    body: Vec<u8>,
    what: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_is_answered_once_with_an_error_and_nothing_is_written() {
    let mut stage = Stage::start(PATIENT).await;
    stage.client.connect_user("john", "c").await;
    stage.events.only();
    let before = stage.written().await;
    let nats = stage.client.nats.clone();
    let max_payload = nats.server_info().max_payload;
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(format!("{inbox}.*")).await.unwrap();
    let places = Arc::new(Semaphore::new(AT_ONCE));

    let (sender, sent_places) = (nats.clone(), Arc::clone(&places));
    let sending = tokio::spawn(async move {
        let mut rng = Rng::with_seed(SEED);
        let mut sent = Vec::new();
        for n in 0..REQUESTS {
            sent_places.acquire().await.unwrap().forget();
            let hostile = hostile(n, &mut rng, max_payload);
            let subject = format!("presence.v1.{}", hostile.subject);
            let reply = format!("{inbox}.{n}");
            sender.publish_with_reply(subject, reply, hostile.body.clone().into()).await.unwrap();
            let start =
                String::from_utf8_lossy(&hostile.body).chars().take(200).collect::<String>();
            sent.push(format!("{} {} {start:?}", hostile.what, hostile.subject));
        }
        sent
    });
    let mut codes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    // Until all have their answer and for a moment longer, for those who would have two.
    let mut quiet_period = QUIET_PERIOD;
    while let Ok(Some(answer)) = timeout(quiet_period, answers.next()).await {
        let n: usize = answer.subject.rsplit('.').next().unwrap().parse().unwrap();
        let code = match read(&answer) {
            Ok(body) => format!("ok: {body}"),
            Err(refused) => refused.code,
        };
        codes.entry(n).or_default().push(code);
        places.add_permits(1);
        if codes.len() == REQUESTS {
            quiet_period = Duration::from_millis(300);
        }
    }
    let sent = sending.await.unwrap();
    let accepted = [
        "invalid_request",
        "invalid_id",
        "invalid_filter",
        "invalid_sort",
        "limit_exceeded",
        "identity_mismatch",
        "too_large",
        "user_not_found",
    ];
    for (n, sent) in sent.iter().enumerate() {
        let codes = codes.get(&n).map_or(&[][..], Vec::as_slice);
        let as_it_should = codes.len() == 1 && accepted.contains(&codes[0].as_str());
        assert!(as_it_should, "seed {SEED}, request {n}: {sent}: {codes:?}");
    }
    assert_eq!(stage.written().await, before);
    assert_eq!(stage.events.arrived().len(), 0);
    assert!(stage.daemon.ended().is_none());
    let log = stage.daemon.lines();
    assert!(!log.iter().any(|line| line["level"] == "ERROR"), "{log:?}");
    assert_eq!(stage.client.query(json!({"presence": true})).await.len(), 1);
}

fn hostile(n: usize, rng: &mut Rng, max_payload: usize) -> Hostile {
    if n.is_multiple_of(LARGE) {
        return large(rng, max_payload);
    }
    match rng.usize(..8) {
        0 => not_json(rng),
        1 => nested(rng),
        2 | 3 => wrong_types(rng),
        4 => numbers(rng),
        5 => odd_ids(rng),
        6 => odd_subjects(rng),
        _ => odd_fields(rng),
    }
}

fn operation(rng: &mut Rng) -> &'static str {
    OPERATIONS[rng.usize(..OPERATIONS.len())]
}

/// A body with which the operation would be done.
fn valid(operation: &str) -> Value {
    match operation {
        "connect" => json!({"user": {"id": "x", "status": "s"}, "connection_id": "c"}),
        "heartbeat" | "disconnect" => json!({"user_id": "x", "connection_id": "c"}),
        "upsert_users" => json!({"users": [{"id": "x", "status": "s", "name": "n"}]}),
        "delete_users" => json!({"ids": ["john"]}),
        "query_users" => json!({"filter": {"id": "john"}, "sort": {"id": 1}, "presence": true}),
        "batch" => json!({"ops": [{"op": "connect", "user": {"id": "x"}}]}),
        _ => json!({"user_id": "john"}),
    }
}

fn not_json(rng: &mut Rng) -> Hostile {
    let operation = operation(rng);
    let mut body = valid(operation).to_string().into_bytes();
    match rng.usize(..6) {
        0 => body.truncate(rng.usize(..body.len())),
        1 => body.extend_from_slice(b"}"),
        2 => body = (0..rng.usize(1..200)).map(|_| rng.u8(0x80..)).collect(),
        // Not UTF-8 within a string.
        3 => body.splice(2..2, [0xC3, 0x28]).for_each(drop),
        4 => body.splice(1..1, *b"\"\\ud800\":1,").for_each(drop),
        _ => body.insert(rng.usize(..2), 0),
    }
    Hostile { subject: operation.into(), body, what: "not JSON" }
}

fn nested(rng: &mut Rng) -> Hostile {
    let depth = rng.usize(200..5000);
    let (open, close) = if rng.bool() { ("[", "]") } else { ("{\"a\":", "}") };
    let close = if rng.bool() { close.repeat(depth) } else { String::new() };
    let core = if close.is_empty() { "" } else { "1" };
    let deep = open.repeat(depth) + core + &close;
    let (subject, body) = match rng.usize(..3) {
        0 => ("connect", format!("{{\"user\":{{\"id\":\"x\",\"a\":{deep}}}}}")),
        1 => ("query_users", format!("{{\"filter\":{deep}}}")),
        _ => (operation(rng), deep),
    };
    Hostile { subject: subject.into(), body: body.into_bytes(), what: "deep nesting" }
}

fn wrong_types(rng: &mut Rng) -> Hostile {
    let operation = operation(rng);
    let mut body = valid(operation);
    let wrong = match rng.usize(..4) {
        0 => json!(rng.i64(..)),
        1 => json!(rng.f64()),
        2 => json!([[rng.u8(..)]]),
        _ => Value::Null,
    };
    let field = match operation {
        "connect" => ["/user", "/user/id", "/connection_id"][rng.usize(..3)],
        "heartbeat" | "disconnect" => ["/user_id", "/connection_id"][rng.usize(..2)],
        "upsert_users" => ["/users", "/users/0", "/users/0/id"][rng.usize(..3)],
        "delete_users" => ["/ids", "/ids/0"][rng.usize(..2)],
        "query_users" => ["/filter", "/filter/id", "/presence"][rng.usize(..3)],
        "batch" => "/ops",
        _ => "/user_id",
    };
    // An operation of a batch fails alone: an array there is none of a wrong type.
    let wrong = if operation == "batch" { json!(wrong.to_string()) } else { wrong };
    *body.pointer_mut(field).unwrap() = wrong;
    Hostile { subject: operation.into(), body: body.to_string().into_bytes(), what: "wrong type" }
}

fn numbers(rng: &mut Rng) -> Hostile {
    let numbers = ["-2", "1e400", "99999999999999999999999", "0.5", "-0.0001", "1e-5", "\"7\""];
    let number = numbers[rng.usize(..numbers.len())];
    let bodies = [
        format!("{{\"limit\":{number}}}"),
        format!("{{\"offset\":{number}}}"),
        format!("{{\"min_rev\":{number}}}"),
        format!("{{\"sort\":{{\"id\":{number}}}}}"),
        format!("{{\"filter\":{{\"last_active\":{{\"$gt\":{number}}}}}}}"),
    ];
    let body = bodies[rng.usize(..bodies.len())].clone().into_bytes();
    Hostile { subject: "query_users".into(), body, what: "a number" }
}

fn odd_ids(rng: &mut Rng) -> Hostile {
    let bad = [
        String::new(),
        "a\u{0}b".to_owned(),
        "\r\nPUB x 0\r\n".to_owned(),
        "\u{85}".to_owned(),
        "😀".repeat(64),
        "x".repeat(rng.usize(256..5000)),
    ];
    // These are ids, but nobody's: what is asked of them is not there.
    let odd = [
        ".", "*", ">", "a.b", "user.>", " ", "  a b ", "😀", "$KV", "../..", "%2e", "=41",
        "\u{202e}", "'; DROP", "\\u0000", "null",
    ];
    let emoji = "😀".repeat(63) + "abc";
    let odd = odd.into_iter().chain([emoji.as_str()]).nth(rng.usize(..=odd.len())).unwrap();
    let bad = &bad[rng.usize(..bad.len())];
    let (subject, body) = match rng.usize(..6) {
        0 => ("explain".to_owned(), json!({"user_id": odd})),
        1 => ("connect".to_owned(), json!({"user": {"id": odd, "version": 1}})),
        2 => (format!("connect.{}", token(odd)), json!({"user": {"id": "another"}})),
        3 => ("connect".to_owned(), json!({"user": {"id": bad}})),
        4 => ("delete_users".to_owned(), json!({"ids": ["john", bad]})),
        _ => ("disconnect".to_owned(), json!({"user_id": odd, "connection_id": bad})),
    };
    Hostile { subject, body: body.to_string().into_bytes(), what: "an odd id" }
}

fn odd_subjects(rng: &mut Rng) -> Hostile {
    let operation = operation(rng);
    let long = "A".repeat(rng.usize(256..1500));
    let tails = [
        ".*",
        ".>",
        ".a=",
        ".=00",
        ".=zz",
        ".=FF",
        ".é",
        ".a.b",
        ".a.b.c.d",
        "x",
        ".$KV",
        ".=2e",
        ".😀",
        ".=C3=28",
        &format!(".{long}"),
        &format!(".{}", "=F0=9F=98=80".repeat(64)),
    ];
    let subject = format!("{operation}{}", tails[rng.usize(..tails.len())]);
    let mut body = valid(operation);
    body["another"] = json!(1);
    Hostile { subject, body: body.to_string().into_bytes(), what: "an odd subject" }
}

fn odd_fields(rng: &mut Rng) -> Hostile {
    let operation = operation(rng);
    let mut body = valid(operation);
    let names =
        ["__proto__", "$where", "", "constructor", "lease ", "Users", "\u{0}", "a.b", "version"];
    let name = names[rng.usize(..names.len())];
    body[name] = json!({"$gt": ""});
    Hostile { subject: operation.into(), body: body.to_string().into_bytes(), what: "an odd field" }
}

fn large(rng: &mut Rng, max_payload: usize) -> Hostile {
    let fill = |around: &str| "x".repeat(max_payload - around.len());
    let (operation, body) = match rng.usize(..6) {
        0 => ("connect", "[".repeat(max_payload)),
        1 => ("query_users", " ".repeat(max_payload)),
        2 => {
            let around = "{\"users\":[{\"id\":\"x\",\"a\":\"\"}]}";
            ("upsert_users", around.replace("\"\"", &format!("\"{}\"", fill(around))))
        }
        3 => {
            let around = "{\"user\":{\"id\":\"x\",\"status\":\"\"}}";
            ("connect", around.replace("\"\"", &format!("\"{}\"", fill(around))))
        }
        4 => ("delete_users", json!({"ids": vec!["john"; max_payload / 7 - 10]}).to_string()),
        _ => {
            let op = json!({"op": "connect", "user": {"id": "x"}});
            ("batch", json!({"ops": vec![op; 20_000]}).to_string())
        }
    };
    assert!(body.len() <= max_payload);
    Hostile { subject: operation.into(), body: body.into_bytes(), what: "as large as can be" }
}
