//! Every command in each situation of the people who type it: NATS is away, no daemon serves, a
//! login lacks permissions, the server is in a context, the terminal is 80 columns wide.

use std::fs;

use futures_util::future::join_all;
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use crate::servers::Server;
use crate::support::{Done, SOON, Stage, bare};

/// The command lines that talk to the service, and the subject that each needs first. `FILE` is a
/// file of users.
const COMMANDS: [(&str, &str); 24] = [
    ("who", "presence.v1.query_users"),
    ("who john", "presence.v1.query_users"),
    ("who --channel team:red", "presence.v1.query_channels"),
    ("get john", "presence.v1.query_users"),
    ("query users online=true", "presence.v1.query_users"),
    ("query users --all", "presence.v1.query_users"),
    ("query channels", "presence.v1.query_channels"),
    ("query users --count", "presence.v1.count_users"),
    ("count", "presence.v1.count_users"),
    ("watch john", "presence.v1.query_users"),
    ("watch --all", "presence.v1.query_users"),
    ("watch --channel team:red", "presence.v1.query_channels"),
    ("watch --where online=false", "presence.v1.query_users"),
    ("wait john --offline --for 20s", "presence.v1.query_users"),
    ("connect jack --for 100ms", "presence.v1.connect"),
    ("set john --status here", "presence.v1.upsert_users"),
    ("delete gone --yes", "presence.v1.delete_users"),
    ("channel create team:blue john", "presence.v1.upsert_channel"),
    ("channel add team:red john", "presence.v1.query_channels"),
    ("channel delete team:gone --yes", "presence.v1.delete_channel"),
    ("explain john", "presence.v1.explain"),
    ("daemons", "$SRV.STATS.presence"),
    ("export", "presence.v1.count_users"),
    ("import FILE", "presence.v1.upsert_users"),
];

const LIMITED: &str = r#"
authorization { users: [
  { user: all, password: all }
  { user: none, password: none, permissions: {
      publish: { deny: [">"] }, subscribe: { allow: ["_INBOX.>"] } } }
] }
"#;

/// The words of a command line, with the file that it names.
fn words<'a>(command: &'a str, file: &'a str) -> Vec<&'a str> {
    let named = |word| if word == "FILE" { file } else { word };
    command.split_whitespace().map(named).collect()
}

fn endless(command: &str) -> bool {
    command.starts_with("watch")
}

/// A file of one user, in the home of a stage.
fn file_of_users(home: &std::path::Path) -> String {
    let file = home.join(format!("users-{:08x}.jsonl", fastrand::u32(..)));
    fs::write(&file, "{\"id\":\"john\"}\n").unwrap();
    file.display().to_string()
}

/// What the commands are about: a user with wide letters and fields, and a channel.
async fn furnish(stage: &Stage, flags: &[&str]) {
    let wide = "会議中 🚀 e\u{301} ".repeat(12);
    let about = "a long text of an own field ".repeat(8);
    for command in [
        &["set", "john", "--status", wide.trim(), "-f", &format!("about={about}")][..],
        &["set", "gone"],
        &["channel", "create", "team:red", "john"],
        &["channel", "create", "team:gone"],
    ] {
        stage.ok(&[flags, command].concat()).await;
    }
}

#[tokio::test]
async fn without_nats_every_command_names_the_server() {
    let home = tempfile::tempdir().unwrap();
    let file = file_of_users(home.path());
    let done = join_all(COMMANDS.map(|(command, _)| {
        let nowhere = [&["--server", "127.0.0.1:1"], &words(command, &file)[..]].concat();
        Done::of(bare(&home.path().to_owned(), &nowhere))
    }));
    for (done, (command, _)) in done.await.iter().zip(COMMANDS) {
        done.fails(69, "cannot reach NATS at 127.0.0.1:1");
        assert!(done.stderr.contains("--context"), "{command}: {done:?}");
    }
}

#[tokio::test]
async fn without_daemons_every_command_names_the_next_step() {
    let stage = Stage {
        server: Server::start().await,
        daemons: Vec::new(),
        home: tempfile::tempdir().unwrap(),
    };
    let file = file_of_users(stage.home.path());
    for part in COMMANDS.chunks(6) {
        let lines: Vec<_> = part.iter().map(|(command, _)| words(command, &file)).collect();
        for done in join_all(lines.iter().map(|line| stage.run(line))).await {
            done.fails(69, "no daemon serves presence.v1");
            assert!(done.stderr.contains("--prefix"), "{done:?}");
        }
    }
}

#[tokio::test]
async fn without_permissions_every_command_names_the_line_that_grants_them() {
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let stage = Stage::on(Server::start_with(LIMITED).await, &all).await;
    furnish(&stage, &["--user", "all", "--password", "all"]).await;
    let file = file_of_users(stage.home.path());
    let login = ["--user", "none", "--password", "none", "--timeout", "8s"];
    for part in COMMANDS.chunks(6) {
        let lines = part.iter().map(|(command, _)| [&login, &words(command, &file)[..]].concat());
        let lines: Vec<_> = lines.collect();
        let done = join_all(lines.iter().map(|line| stage.run(line))).await;
        for (done, (command, subject)) in done.iter().zip(part) {
            assert_eq!(done.code, 77, "{command}: {done:?}");
            let grant = format!("allow: [\"{subject}\"]");
            assert!(done.stderr.contains(&grant), "{command}: {grant} is not in {done:?}");
        }
    }
}

#[tokio::test]
async fn every_command_finds_its_server_in_a_context() {
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let stage = Stage::on(Server::start_with(LIMITED).await, &all).await;
    let context = stage.home.path().join("there.json");
    let login = json!({"url": stage.server.url(), "user": "all", "password": "all"});
    fs::write(&context, login.to_string()).unwrap();
    let flags = ["--context", context.to_str().unwrap()];
    furnish(&stage, &flags).await;
    let file = file_of_users(stage.home.path());
    for (command, _) in COMMANDS {
        let line = [&flags, &words(command, &file)[..]].concat();
        let program = bare(&stage.home.path().to_owned(), &line);
        if endless(command) {
            crate::support::Following::of(program).line().await;
        } else {
            let done = Done::of(program).await;
            assert_eq!(done.code, 0, "{command}: {done:?}");
        }
    }
}

#[tokio::test]
async fn every_table_fits_80_columns_whatever_stands_in_it() {
    let stage = Stage::start().await;
    furnish(&stage, &[]).await;
    let file = file_of_users(stage.home.path());
    for (command, _) in COMMANDS {
        let mut line = words(command, &file);
        if !command.starts_with("export") {
            line.extend(["-o", "table"]);
        }
        let mut program = stage.command(&line);
        program.env("COLUMNS", "80");
        let text = if endless(command) {
            let mut following = crate::support::Following::of(program);
            let mut text = following.line().await;
            while let Ok(more) = tokio::time::timeout(SOON / 40, following.line()).await {
                text = format!("{text}\n{more}");
            }
            text
        } else {
            let done = Done::of(program).await;
            assert_eq!(done.code, 0, "{command}: {done:?}");
            format!("{}\n{}", done.stdout, done.stderr)
        };
        if command.starts_with("export") {
            continue; // JSON lines for a file.
        }
        for line in text.lines() {
            assert!(line.width() <= 80, "{command}: {} columns: {line}", line.width());
        }
    }
}
