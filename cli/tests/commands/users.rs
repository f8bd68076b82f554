//! Commands that ask and change.

use serde_json::{Value, json};

use crate::support::Stage;

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn users_are_made_found_changed_and_deleted() {
    let stage = Stage::start().await;
    let made = stage.lines(&["set", "jack", "--status", "here", "-f", "level=7", "-f", "team=red"]);
    let made = &made.await[0];
    assert_eq!(
        (&made["status"], &made["level"], &made["team"]),
        (&json!("here"), &json!(7), &json!("red"))
    );
    stage.ok(&["set", "jill", "-f", "team=blue", "-f", "level=42"]).await;
    stage.ok(&["set", "john", "--status", "hm", "--status-for", "1h"]).await;

    assert_eq!(ids(&stage.lines(&["query", "users"]).await), ["jack", "jill", "john"]);
    assert_eq!(ids(&stage.lines(&["query", "users", "team=red"]).await), ["jack"]);
    assert_eq!(ids(&stage.lines(&["query", "users", "level>7", "team!=red"]).await), ["jill"]);
    assert_eq!(ids(&stage.lines(&["query", "users", r#"{"status":"here"}"#]).await), ["jack"]);
    let sorted = stage.lines(&["query", "users", "--sort", "-id", "--limit", "2"]).await;
    assert_eq!(ids(&sorted), ["john", "jill"]);
    assert_eq!(stage.ok(&["count", "team=null", "-o", "table"]).await, "1\n");
    assert_eq!(stage.ok(&["query", "users", "--count"]).await, "{\"count\":3}\n");
    assert!(stage.lines(&["get", "john"]).await[0]["status_expires_at"].is_string());

    stage.ok(&["set", "jack", "--no-status", "--unset", "level", "--availability", "busy"]).await;
    let jack = &stage.lines(&["get", "jack"]).await[0];
    assert_eq!((&jack["status"], jack.get("level")), (&Value::Null, None));
    let deleted = stage.lines(&["delete", "--yes", "jack", "jill"]).await;
    assert_eq!(deleted, [json!({"deleted": ["jack", "jill"]})]);
    stage.run(&["get", "jack"]).await.fails(3, "no such user: jack");
    let rest = stage.lines(&["delete", "--yes", "--where", "id~j"]).await;
    assert_eq!(rest, [json!({"deleted": ["john"]})]);
}

#[tokio::test]
async fn a_name_that_is_no_custom_field_is_refused_and_changes_nothing() {
    let stage = Stage::start().await;
    for name in ["id", "status", "invisible", "online", "$x", ""] {
        let field = format!("{name}=x");
        let refusal = format!("`{name}` is no name of a custom field");
        stage.run(&["set", "john", "-f", &field]).await.fails(1, &refusal);
        stage.run(&["set", "john", "--unset", name]).await.fails(1, &refusal);
        stage.run(&["connect", "john", "-f", &field]).await.fails(1, &refusal);
    }
    assert_eq!(stage.run(&["get", "john"]).await.code, 3);
    let twice = ["set", "john", "-f", "a=1", "--unset", "a"];
    stage.run(&twice).await.fails(2, "\"a\" is both set and removed");
    stage.run(&["get", ""]).await.fails(1, "invalid_id");
}

#[tokio::test]
async fn more_users_than_a_page_come_page_by_page() {
    let stage = Stage::start().await;
    let service = presenced_client::Service::new(stage.server.connect().await);
    let all: Vec<String> = (0..250).map(|n| format!("u{n:03}")).collect();
    for chunk in all.chunks(100) {
        let users = chunk.iter().map(|id| presenced_client::Patch::new().of(id).unwrap());
        service.upsert(users).await.unwrap();
    }
    assert_eq!(stage.ok(&["query", "users", "--all", "-o", "ids"]).await, all.join("\n") + "\n");
    let json: Value =
        serde_json::from_str(&stage.ok(&["query", "users", "--all", "-j"]).await).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 250);
    let first = stage.run(&["query", "users"]).await;
    assert_eq!((first.stdout.lines().count(), first.stderr.contains("--all")), (30, true));
    // A reader that takes a part of it only is no failure.
    let head = format!("{} query users --all | head -1", env!("CARGO_BIN_EXE_presencectl"));
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &head]).env("NATS_URL", stage.server.url());
    let done = crate::support::Done::of(shell).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
}

#[tokio::test]
async fn each_form_of_output_is_what_it_is_called() {
    let stage = Stage::start().await;
    stage.ok(&["set", "jack", "--status", "a, \"b\"\u{1b}[31m", "-f", "team=red"]).await;
    let table = stage.ok(&["who", "--offline", "-o", "table"]).await;
    assert!(table.lines().next().unwrap().contains("STATUS"), "{table}");
    assert!(table.contains('○') && !table.contains('\u{1b}'), "{table}");
    assert!(stage.ok(&["who", "--offline", "-j"]).await.starts_with("[\n"));
    assert_eq!(stage.ok(&["who", "--offline", "-o", "ids"]).await, "jack\n");
    let csv = stage.ok(&["query", "users", "-o", "csv"]).await;
    let heading = "id,online,status,availability,devices,last_active,offline_since,\
                   status_expires_at,created_at,updated_at,version,team\n";
    assert!(csv.starts_with(heading), "{csv}");
    assert!(csv.contains("jack,false,\"a, \"\"b\"\"\u{1b}[31m\",offline,"), "{csv}");
    let raw: Value = serde_json::from_str(&stage.ok(&["get", "jack", "--raw"]).await).unwrap();
    assert_eq!(raw["users"][0]["id"], "jack");
    assert!(raw["presence"].is_object());
    let full = stage.ok(&["get", "jack", "-o", "table", "--utc"]).await;
    assert!(full.contains("team") && full.contains("just now"), "{full}");
}

#[tokio::test]
async fn a_table_fits_eighty_columns() {
    let stage = Stage::start().await;
    let long = "long ".repeat(40);
    stage.ok(&["set", &"j".repeat(60), "--status", &long]).await;
    let channel = format!("{}:{}", "t".repeat(60), "c".repeat(60));
    stage.ok(&["channel", "create", &channel, "john"]).await;
    for command in [
        vec!["who", "--offline"],
        vec!["query", "channels"],
        vec!["daemons"],
        vec!["get", &"j".repeat(60)],
        vec!["explain", &"j".repeat(60)],
    ] {
        let table = stage.ok(&[command.as_slice(), &["-o", "table"]].concat()).await;
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{widest}: {table}");
    }
}

#[tokio::test]
async fn channels_are_made_edited_and_deleted() {
    let stage = Stage::start().await;
    let made =
        stage.lines(&["channel", "create", "team:red", "john", "jack", "-f", "color=red"]).await;
    assert_eq!((&made[0]["member_count"], &made[0]["color"]), (&json!(2), &json!("red")));
    let added = stage.lines(&["channel", "add", "team:red", "jill"]).await;
    assert_eq!(added[0]["member_count"], 3);
    let removed = stage.lines(&["channel", "remove", "team:red", "john", "jack"]).await;
    assert_eq!(removed[0]["member_count"], 1);
    let found = stage.lines(&["query", "channels", "members=jill", "type=team"]).await;
    assert_eq!(found[0]["cid"], "team:red");
    let who = stage.lines(&["who", "--channel", "team:red", "--offline"]).await;
    assert_eq!(who[0]["id"], "jill");
    stage.run(&["who", "--channel", "team:blue"]).await.fails(3, "there is no channel team:blue");
    stage
        .run(&["channel", "add", "team:blue", "x"])
        .await
        .fails(3, "there is no channel team:blue");
    stage.run(&["channel", "delete", "team:red"]).await.fails(2, "--yes");
    stage.ok(&["channel", "delete", "team:red", "--yes"]).await;
    stage.run(&["channel", "delete", "team:red", "--yes"]).await.fails(3, "there is no channel");
}

#[tokio::test]
async fn who_shows_those_who_are_online_and_explain_says_why() {
    let stage = Stage::start().await;
    stage.ok(&["set", "jill"]).await;
    let mut john = stage.follow(&["connect", "john", "--status", "here", "--device", "desktop"]);
    assert_eq!(john.json().await["state"], "online");
    let who = stage.lines(&["who"]).await;
    assert_eq!(ids(&who), ["john"]);
    assert_eq!((&who[0]["status"], &who[0]["devices"]), (&json!("here"), &json!(["desktop"])));
    assert_eq!(ids(&stage.lines(&["who", "jill", "john"]).await), ["jill", "john"]);
    let missing = stage.run(&["who", "john", "nobody"]).await;
    assert_eq!(missing.code, 3);
    assert!(missing.stdout.contains("john") && missing.stderr.contains("nobody"), "{missing:?}");
    let why = stage.ok(&["explain", "john", "-o", "table"]).await;
    assert!(why.contains("it has 1 connections") && why.contains("desktop"), "{why}");
    assert_eq!(stage.lines(&["explain", "john"]).await[0]["user_id"], "john");
    stage.run(&["explain", "nobody"]).await.fails(3, "user_not_found");
    let daemons = stage.lines(&["daemons"]).await;
    assert_eq!(daemons.len(), 2);
    assert!(daemons.iter().all(|each| each["version"] == "0.1.0" && each["lag_ms"].is_u64()));
    assert_eq!(john.interrupt().await, 130);
}
