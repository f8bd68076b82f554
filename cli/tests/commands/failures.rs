//! Each exit code, and the next step in its message.

use crate::servers::{Daemon, Server};
use crate::support::{Done, Stage};

#[tokio::test]
async fn a_refusal_names_its_code() {
    let stage = Stage::start().await;
    stage.run(&["set", "john", "--status", &"x".repeat(2000)]).await.fails(1, "too_large");
    stage.run(&["query", "users", r#"{"online":{"$gt":1}}"#]).await.fails(1, "invalid_filter");
    stage.run(&["query", "users", "--sort", "$x"]).await.fails(1, "invalid_sort");
    stage.run(&["explain", ""]).await.fails(1, "invalid_id");
    stage.run(&["connect", ""]).await.fails(1, "invalid_id");
}

#[tokio::test]
async fn a_command_line_that_cannot_be_understood_is_a_usage_error() {
    let stage = Stage::start().await;
    stage.run(&["whom"]).await.fails(2, "unrecognized subcommand");
    stage.run(&["query", "users", "team"]).await.fails(2, "field=value");
    stage.run(&["set", "john", "-f", "team"]).await.fails(2, "name=value");
    stage.run(&["delete", "john"]).await.fails(2, "--yes");
    stage.run(&["--as", "john", "explain", "john"]).await.fails(2, "--as");
    stage.run(&["--as", "john", "set", "jack"]).await.fails(2, "acts as that user only");
    stage.run(&["-o", "xml", "who"]).await.fails(2, "jsonl");
    stage.run(&["--raw", "daemons"]).await.fails(2, "--raw");
    stage.run(&["-o", "csv", "watch", "john"]).await.fails(2, "`watch` has no -o csv");
    for prefix in ["a.*", "a..b", "a b", ">", ""] {
        for flag in ["--prefix", "--events", "--inbox-prefix"] {
            stage.run(&[flag, prefix, "get", "john"]).await.fails(2, "no subject");
        }
    }
    stage.run(&["--as", "", "get", "john"]).await.fails(2, "invalid value");
    // Its server is in NATS_URL.
    let nobody = stage.run(&["delete"]).await;
    nobody.fails(2, "Usage: presencectl delete <USER");
    assert!(!nobody.stderr.contains("--server"), "{nobody:?}");
    let mut command = stage.command(&["who"]);
    command.env("NATS_TIMEOUT", "soon");
    Done::of(command).await.fails(2, "'soon'");
    let far = ["set", "john", "--status", "here", "--status-for", "99999999999years"];
    stage.run(&far).await.fails(2, "--status-for");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_no_refusal_of_the_service() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john"]).await;
    let path = |name: &str| stage.home.path().join(name).display().to_string();
    stage.run(&["import", "/none/users.jsonl"]).await.fails(66, "cannot read /none/users.jsonl");
    stage.run(&["import", "/none/users.jsonl", "--dry-run"]).await.fails(66, "/none/users.jsonl");
    std::fs::write(path("users.jsonl"), "{\"id\":\"john\"}\n").unwrap();
    std::fs::create_dir(path("users.jsonl.progress")).unwrap();
    let import = ["import", &path("users.jsonl")];
    stage.run(&import).await.fails(66, "users.jsonl.progress");
    std::fs::create_dir(path("more.jsonl.progress.new")).unwrap();
    std::fs::write(path("more.jsonl"), "{\"id\":\"john\"}\n").unwrap();
    stage.run(&["import", &path("more.jsonl")]).await.fails(73, "more.jsonl.progress");
    stage.run(&["export", "/none/users.jsonl"]).await.fails(73, "/none/users.jsonl");
    std::fs::write(path("file"), "").unwrap();
    stage.run(&["man", &path("file/man")]).await.fails(73, "cannot write");
    stage.run(&["keys", "--out", "/none/user.nk"]).await.fails(73, "/none/user.nk");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let web = ["web", "--listen", &taken];
    stage.run(&web).await.fails(74, &format!("cannot listen on {taken}"));
    let help = stage.ok(&["--help"]).await;
    assert!(help.contains("   66  a file that cannot be read\n"), "{help}");
}

const LIMITED: &str = r#"
authorization { users: [
  { user: all, password: all }
  { user: some, password: some, permissions: {
      publish: { allow: ["presence.v1.query_users", "presence.v1.count_users"] }
      subscribe: { allow: ["_INBOX.>"] } } }
  { user: tied, password: tied, permissions: {
      publish: { allow: ["presence.v1.connect", "presence.v1.heartbeat"] }
      subscribe: { allow: ["_INBOX.>"] } } }
  { user: deaf, password: deaf, permissions: {
      publish: { allow: [">"] }, subscribe: { allow: ["none"] } } }
] }
"#;

#[tokio::test]
async fn a_missing_permission_is_named_as_the_line_that_grants_it() {
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let stage = Stage::on(Server::start_with(LIMITED).await, &all).await;
    let some = ["--user", "some", "--password", "some", "--timeout", "8s"];
    let run = async |command: &[&str]| stage.run(&[&some, command].concat()).await;
    assert_eq!(run(&["who"]).await.code, 0);
    let grants = |subject: &str| format!("publish: {{ allow: [\"{subject}\"] }}");
    run(&["explain", "john"]).await.fails(77, &grants("presence.v1.explain"));
    run(&["set", "john"]).await.fails(77, &grants("presence.v1.upsert_users"));
    run(&["connect", "john"]).await.fails(77, &grants("presence.v1.connect"));
    run(&["daemons"]).await.fails(77, &grants("$SRV.STATS.presence"));
    let events = "subscribe: { allow: [\"user.presence.changed.john\"] }";
    let watched = run(&["watch", "john"]).await;
    assert_eq!(watched.code, 77, "{watched:?}");
    assert!(watched.stderr.contains(events), "{watched:?}");
    let check = run(&["check"]).await;
    assert_eq!(check.code, 3, "{check:?}");
    assert!(check.stdout.contains(&grants("$SRV.STATS.presence")), "{check:?}");
    let deaf = stage.run(&["--user", "deaf", "--password", "deaf", "--timeout", "1s", "who"]).await;
    deaf.fails(77, "subscribe: { allow: [\"_INBOX.>\"] }");
    stage
        .run(&["--user", "all", "--password", "wrong", "who"])
        .await
        .fails(77, "refuses the login");
}

#[tokio::test]
async fn who_may_connect_and_no_more_learns_that_no_daemon_is_there() {
    let server = Server::start_with(LIMITED).await;
    let stage = Stage { server, daemons: Vec::new(), home: tempfile::tempdir().unwrap() };
    let tied = ["--user", "tied", "--password", "tied", "--timeout", "2s", "connect", "john"];
    stage.run(&tied).await.fails(69, "no daemon serves presence.v1");
}

#[tokio::test]
async fn a_disconnect_that_is_refused_is_no_success() {
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let stage = Stage::on(Server::start_with(LIMITED).await, &all).await;
    let tied = ["--user", "tied", "--password", "tied", "connect", "john", "--for", "200ms"];
    let kept = stage.run(&tied).await;
    assert_eq!((kept.code, kept.stdout.lines().count()), (77, 2), "{kept:?}");
    let grant = "publish: { allow: [\"presence.v1.disconnect\"] }";
    assert!(kept.stderr.contains(grant), "{kept:?}");
    assert!(kept.stderr.contains("john is shown online until its lease is over"), "{kept:?}");
}

#[tokio::test]
async fn another_prefix_is_another_service() {
    let server = Server::start().await;
    let settings = [
        ("SUBJECTS__PREFIX", "cell"),
        ("SUBJECTS__EVENTS", "cell.changed"),
        ("STORE__BUCKET", "cell"),
    ];
    let cell = Daemon::start_with(&server.url(), &settings).await;
    let home = tempfile::tempdir().unwrap();
    let stage = Stage { server, daemons: vec![cell], home };
    let flags = ["--prefix", "cell", "--events", "cell.changed"];
    assert_eq!(stage.lines(&[&flags[..], &["daemons"]].concat()).await.len(), 1);
    stage.ok(&[&flags[..], &["set", "john"]].concat()).await;
    stage.run(&["daemons"]).await.fails(69, "no daemon serves presence.v1");
}
