//! Texts that common languages write: accepted, or refused in their place.

use serde_json::{Value, json};

use crate::support::client;
use crate::support::stage::NO_GRACE;
use crate::support::{Refused, Stage};

async fn ask(stage: &Stage, operation: &str, body: &str) -> Result<Value, Refused> {
    let answer = stage.client.raw(stage.client.subject(operation), body.into()).await;
    client::read(&answer)
}

#[tokio::test]
async fn half_of_an_emoji_is_accepted_wherever_a_request_has_text() {
    let stage = Stage::start(NO_GRACE).await;
    let connect =
        r#"{"user":{"id":"j\ud83d","status":"\ude00!","name":"\ud83dx"},"connection_id":"c"}"#;
    let connected = ask(&stage, "connect", connect).await.unwrap();
    assert_eq!(connected["me"]["id"], "j\u{FFFD}");
    assert_eq!(connected["me"]["status"], "\u{FFFD}!");
    assert_eq!(connected["me"]["name"], "\u{FFFD}x");
    let beat = r#"{"user_id":"j\ud83d","connection_id":"c"}"#;
    assert_eq!(ask(&stage, "heartbeat", beat).await.unwrap()["unknown"], json!([]));
    let filter = r#"{"filter":{"status":"\ud83d!"},"presence":true}"#;
    assert_eq!(ask(&stage, "query_users", filter).await.unwrap()["users"][0]["online"], true);
    let status = r#"{"users":[{"id":"k","status":"\ud83d\ud83d\ude00"}]}"#;
    let upserted = ask(&stage, "upsert_users", status).await.unwrap();
    assert_eq!(upserted["users"]["k"]["status"], "\u{FFFD}😀");
    let batch = r#"{"ops":[
        {"op":"connect","user":{"id":"l","status":"\ud83d"}},
        {"op":"disconnect","user_id":"j\ude00","connection_id":"c"}
    ]}"#;
    let results = ask(&stage, "batch", batch).await.unwrap();
    assert_eq!(results["results"][0]["me"]["status"], "\u{FFFD}");
    assert_eq!(results["results"][1]["disconnected"], 1);
}

#[tokio::test]
async fn a_number_that_json_does_not_have_is_refused_with_its_field() {
    let stage = Stage::start(NO_GRACE).await;
    for (operation, body, field) in [
        ("connect", r#"{"user":{"id":"x","score":NaN}}"#, "user.score"),
        ("connect", r#"{"user":{"id":"x","score":-Infinity}}"#, "user.score"),
        ("connect", r#"{"user":{"id":"x","score":1e999}}"#, "user.score"),
        ("upsert_users", r#"{"users":[{"id":"x","a":[Infinity]}]}"#, "users[0].a[0]"),
        ("query_users", r#"{"limit":NaN}"#, "limit"),
        ("connect", r#"{"user":{"id":"x","id":"y"}}"#, "user.id"),
        ("batch", r#"{"ops":[],"ops":[]}"#, "ops"),
    ] {
        let refused = ask(&stage, operation, body).await.unwrap_err();
        assert_eq!(refused.what(), ("invalid_request", Some(field)), "{body}: {refused:?}");
    }
    assert!(stage.client.see("x").await.is_none());
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_the_sort_behind_it_counts() {
    let stage = Stage::start(NO_GRACE).await;
    for user in ["a", "b"] {
        let body = format!("\u{FEFF}{{\"users\":[{{\"id\":\"{user}\"}}]}}");
        ask(&stage, "upsert_users", &body).await.unwrap();
    }
    let query = "\u{FEFF}{\"sort\":{\"id\":-1},\"presence\":true}";
    let users = ask(&stage, "query_users", query).await.unwrap()["users"].take();
    assert_eq!((&users[0]["id"], &users[1]["id"]), (&json!("b"), &json!("a")));
}

#[tokio::test]
async fn one_bad_part_of_a_batch_never_spoils_the_others() {
    let stage = Stage::start(NO_GRACE).await;
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let parts = [
        (r#"{"op":"connect","user":{"id":"u","score":NaN}}"#.to_owned(), "ops[1].user.score"),
        (r#"{"op":"connect","user":{"id":"u","score":1e999}}"#.to_owned(), "ops[1].user.score"),
        (r#"{"op":"connect","op":"connect","user":{"id":"u"}}"#.to_owned(), "ops[1].op"),
        (r#"{"op":"connect","user":{"id":"u","id":"u"}}"#.to_owned(), "ops[1].user.id"),
        (r#"{"op":"disconnect","user_id":Infinity}"#.to_owned(), "ops[1].user_id"),
        ("NaN".to_owned(), "ops[1]"),
        ("null".to_owned(), "ops[1]"),
        (r#"{"op":"heartbeat","lease":"gw"}"#.to_owned(), "ops[1].op"),
        (r#"{"op":"connect","user":"u"}"#.to_owned(), "ops[1].user"),
        (r#"{"op":"upsert_users","users":{}}"#.to_owned(), "ops[1].users"),
    ];
    for (index, (part, field)) in parts.iter().enumerate() {
        let (before, behind) = (format!("a{index}"), format!("b{index}"));
        let connect = |user: &str| format!(r#"{{"op":"connect","user":{{"id":"{user}"}}}}"#);
        let body = format!(r#"{{"ops":[{},{part},{}]}}"#, connect(&before), connect(&behind));
        let results = ask(&stage, "batch", &body).await.unwrap()["results"].take();
        let refused = Refused::read(&results[1]["error"]);
        assert_eq!(refused.what(), ("invalid_request", Some(*field)), "{part}: {refused:?}");
        for user in [&results[0], &results[2]] {
            assert_eq!(user["me"]["online"], true, "{part}");
        }
        assert_eq!(stage.client.see_all(&[&before, &behind]).await.len(), 2, "{part}");
    }
    let body = format!(r#"{{"ops":[{{"op":"connect","user":{{"id":"v"}}}},{{"a":{deep}}}]}}"#);
    let results = ask(&stage, "batch", &body).await.unwrap()["results"].take();
    assert_eq!(results[0]["me"]["online"], true);
    assert_eq!(Refused::read(&results[1]["error"]).what().0, "invalid_request");
    assert!(stage.client.see("u").await.is_none());
}

#[tokio::test]
async fn only_what_is_no_request_at_all_refuses_a_batch() {
    let stage = Stage::start(NO_GRACE).await;
    let connect = r#"{"op":"connect","user":{"id":"john"}}"#;
    for (body, code) in [
        (format!("[{connect}]"), "invalid_request"),
        (format!(r#"{{"ops":[{connect}]"#), "invalid_request"),
        (format!(r#"{{"ops":{connect}}}"#), "invalid_request"),
        (format!(r#"{{"ops":[{connect}],"me":1}}"#), "invalid_request"),
        (format!(r#"{{"ops":[{}]}}"#, [connect; 1001].join(",")), "limit_exceeded"),
        (format!(r#"{{"ops":[{}],"ops":[]}}"#, ["NaN"; 1000].join(",")), "invalid_request"),
        (format!(r#"{{"ops":[{}],"ops":[]}}"#, ["NaN"; 1002].join(",")), "invalid_request"),
    ] {
        assert_eq!(ask(&stage, "batch", &body).await.unwrap_err().what().0, code);
    }
    assert!(stage.client.see("john").await.is_none());
}

#[tokio::test]
async fn what_serialisers_write_is_accepted_or_refused_in_its_place() {
    let stage = Stage::start(NO_GRACE).await;
    // Values as JavaScript, Python, Go, Java, C# and PHP write them, and what is read back.
    let accepted = [
        ("-0", json!(0)),
        ("-0.0", json!(0)),
        ("1E+2", json!(100.0)),
        ("1e-7", json!(1e-7)),
        ("0.1", json!(0.1)),
        ("1e+21", json!(1e21)),
        ("9007199254740993", json!(9_007_199_254_740_993_u64)),
        ("18446744073709551615", json!(u64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        (r#""\u003cb\u003e \u0026 \u003d \u0027 \u002B""#, json!("<b> & = ' +")),
        (r#""a\/b""#, json!("a/b")),
        (r#""\u2028\u2029\u00e9\ud83e\uddc0""#, json!("\u{2028}\u{2029}é🧀")),
        ("\"\u{2028}é🧀\u{7f}\"", json!("\u{2028}é🧀\u{7f}")),
        (r#""\u0000\b\f""#, json!("\0\u{8}\u{c}")),
        (r#""\ud83d""#, json!("\u{FFFD}")),
        (r#""NaN""#, json!("NaN")),
        ("[ ]", json!([])),
        (r#"{"deep" : {"er":[null,true]}}"#, json!({"deep": {"er": [null, true]}})),
        ("null", Value::Null),
    ];
    for (index, (text, value)) in accepted.iter().enumerate() {
        let id = format!("a{index}");
        let body = format!(
            "\u{FEFF} {{\"ops\":[\r\n\t\
             {{\"op\":\"upsert_users\",\"users\":[{{\"id\":\"{id}\",\"x\":{text}}}]}}]}}\n"
        );
        let results = ask(&stage, "batch", &body).await.unwrap()["results"].take();
        assert!(results[0].get("users").is_some(), "{text}: {results}");
        let seen = stage.client.see(&id).await.unwrap();
        let same = match (seen["x"].as_f64(), value.as_f64()) {
            // `-0` is 0.
            (Some(seen), Some(value)) if value == 0.0 => seen == value,
            _ => seen["x"] == *value,
        };
        assert!(same, "{text}: {seen}");
    }
    let huge = format!("1{}", "0".repeat(30));
    let refused = [
        ("NaN", true),
        ("-Infinity", true),
        ("1e400", true),
        ("-1E+400", true),
        (huge.as_str(), false),
    ];
    for (index, (text, is_refused)) in refused.into_iter().enumerate() {
        let id = format!("r{index}");
        let upsert = format!(r#"{{"op":"upsert_users","users":[{{"id":"{id}","x":[{text}]}}]}}"#);
        let body = format!(r#"{{"ops":[{upsert},{{"op":"connect","user":{{"id":"{id}c"}}}}]}}"#);
        let results = ask(&stage, "batch", &body).await.unwrap()["results"].take();
        assert_eq!(results[1]["me"]["online"], true, "{text}: {results}");
        assert_eq!(results[0].get("error").is_some(), is_refused, "{text}: {results}");
        if is_refused {
            let error = Refused::read(&results[0]["error"]);
            assert_eq!(error.what(), ("invalid_request", Some("ops[0].users[0].x[0]")), "{text}");
        }
    }
}
