//! Logins, and contexts in the layout of the `nats` command.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::servers::Server;
use crate::support::{Done, Stage, bare};

const CONFIG: &str = "authorization { users: [ { user: all, password: all } ] }\n";

async fn stage() -> Stage {
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    Stage::on(Server::start_with(CONFIG).await, &all).await
}

/// A context as `nats context add` writes it.
fn write_context(folder: &Path, name: &str, changes: &Value) {
    let mut context = json!({
        "description": "", "url": "", "socks_proxy": "", "token": "", "user": "", "password": "",
        "creds": "", "nkey": "", "cert": "", "key": "", "ca": "", "nsc": "", "jetstream_domain": "",
        "jetstream_api_prefix": "", "jetstream_event_prefix": "", "inbox_prefix": "",
        "user_jwt": "", "user_seed": "", "color_scheme": "", "tls_first": false,
        "windows_cert_store": "", "windows_cert_match_by": "", "windows_cert_match": "",
        "windows_ca_certs_match": null
    });
    context.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let contexts = folder.join("nats/context");
    fs::create_dir_all(&contexts).unwrap();
    fs::write(contexts.join(format!("{name}.json")), context.to_string()).unwrap();
}

/// Without a server in the environment.
async fn run(stage: &Stage, arguments: &[&str]) -> Done {
    Done::of(bare(&stage.home.path().to_owned(), arguments)).await
}

#[tokio::test]
async fn the_context_that_is_named_or_selected_counts() {
    let stage = stage().await;
    let folder = stage.home.path().join(".config");
    let there = json!({"url": stage.server.url(), "user": "all", "password": "all"});
    write_context(&folder, "there", &there);
    write_context(&folder, "nowhere", &json!({"url": "nats://127.0.0.1:1"}));
    assert_eq!(run(&stage, &["--context", "there", "who"]).await.code, 0);
    let mut command = bare(&stage.home.path().to_owned(), &["who"]);
    assert_eq!(
        Done::of({
            command.env("NATS_CONTEXT", "there");
            command
        })
        .await
        .code,
        0
    );
    fs::write(folder.join("nats/context.txt"), "there\n").unwrap();
    assert_eq!(run(&stage, &["who"]).await.code, 0);
    run(&stage, &["--context", "nowhere", "who"]).await.fails(69, "127.0.0.1:1");
    run(&stage, &["--no-context", "who"]).await.fails(69, "127.0.0.1:4222");
    let file = folder.join("nats/context/there.json");
    assert_eq!(run(&stage, &["--context", file.to_str().unwrap(), "who"]).await.code, 0);
    // A flag overrides what the context says.
    run(&stage, &["--password", "wrong", "--user", "all", "who"]).await.fails(77, "login");
    // `XDG_CONFIG_HOME` takes the place of `~/.config`.
    let elsewhere = stage.home.path().join("elsewhere");
    write_context(&elsewhere, "moved", &there);
    let mut command = bare(&stage.home.path().to_owned(), &["--context", "moved", "who"]);
    command.env("XDG_CONFIG_HOME", &elsewhere);
    assert_eq!(Done::of(command).await.code, 0);
}

#[tokio::test]
async fn a_context_that_cannot_be_used_is_named() {
    let stage = stage().await;
    let folder = stage.home.path().join(".config");
    run(&stage, &["--context", "none", "who"]).await.fails(78, "unknown context \"none\"");
    run(&stage, &["--context", "../none", "who"]).await.fails(78, "no name of a context");
    write_context(&folder, "creds", &json!({"creds": "~/none.creds"}));
    let home = stage.home.path().display().to_string();
    run(&stage, &["--context", "creds", "who"]).await.fails(78, &format!("{home}/none.creds"));
    write_context(&folder, "proxy", &json!({"socks_proxy": "127.0.0.1:9"}));
    run(&stage, &["--context", "proxy", "who"]).await.fails(78, "SOCKS");
    let mut command = stage.command(&["who"]);
    command.env("NATS_SOCKS_PROXY", "127.0.0.1:9");
    Done::of(command).await.fails(78, "SOCKS");
    stage.run(&["--socks-proxy", "127.0.0.1:9", "who"]).await.fails(2, "unexpected argument");
    fs::write(folder.join("nats/context/broken.json"), "{").unwrap();
    run(&stage, &["--context", "broken", "who"]).await.fails(78, "broken.json");
}

#[tokio::test]
async fn a_secret_may_be_held_by_a_reference() {
    let stage = stage().await;
    let folder = stage.home.path().join(".config");
    // "all" in base64.
    let login = json!({"url": stage.server.url(), "user": "all", "password": "data:;base64,YWxs"});
    write_context(&folder, "held", &login);
    assert_eq!(run(&stage, &["--context", "held", "who"]).await.code, 0);
    write_context(&folder, "seed", &json!({"nkey": "data:;base64,U1VBTlNFQ1JFVA=="}));
    let done = run(&stage, &["--context", "seed", "who"]).await;
    done.fails(78, "no seed of an nkey");
    assert!(!done.stderr.contains("U1VB") && !done.stderr.contains("SUANSECRET"), "{done:?}");
}

#[tokio::test]
async fn a_file_of_tls_means_that_no_login_goes_out_in_clear_text() {
    let stage = stage().await;
    let ca = stage.home.path().join("ca.pem");
    let login = ["--server", &stage.server.url(), "--user", "all", "--password", "all"];
    let with = |file: &str| [&login[..], &["--tlsca", file, "who"]].concat().join(" ");
    let run_with = async |file: &str| {
        let line = with(file);
        run(&stage, &line.split(' ').collect::<Vec<_>>()).await
    };
    run_with("/none/ca.pem").await.fails(78, "/none/ca.pem");
    fs::write(&ca, "no certificate").unwrap();
    run_with(ca.to_str().unwrap()).await.fails(78, "no PEM file");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&ca, pem).unwrap();
    // The server offers no TLS.
    assert_eq!(run_with(ca.to_str().unwrap()).await.code, 69);
}

#[tokio::test]
async fn a_context_may_refer_to_nsc() {
    let stage = stage().await;
    let bin = stage.home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let profile = json!({"operator": {"service": [stage.server.url()]}}).to_string();
    let nsc =
        format!("#!/bin/sh\n[ \"$*\" = \"generate profile nsc://o/a/u\" ] && echo '{profile}'\n");
    fs::write(bin.join("nsc"), nsc).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("nsc"), executable).unwrap();
    let context = json!({"nsc": "nsc://o/a/u", "user": "all", "password": "all"});
    write_context(&stage.home.path().join(".config"), "nsc", &context);
    let mut command = bare(&stage.home.path().to_owned(), &["--context", "nsc", "who"]);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", bin.display()));
    assert_eq!(Done::of(command).await.code, 0);
}

#[tokio::test]
async fn logins_come_from_flags_and_from_the_environment() {
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let config = format!(
        "authorization {{ users: [ {{ user: all, password: all }}, {{ nkey: {public} }} ] }}\n"
    );
    let all = [("NATS__USER", "all"), ("NATS__PASSWORD", "all")];
    let stage = Stage::on(Server::start_with(&config).await, &all).await;
    let file = stage.home.path().join("user.nk");
    fs::write(&file, format!("{seed}\n")).unwrap();
    stage.run(&["who"]).await.fails(77, "refuses the login");
    stage.ok(&["--nkey", file.to_str().unwrap(), "who"]).await;
    let mut command = stage.command(&["who"]);
    command.env("NATS_USER", "all").env("NATS_PASSWORD", "all");
    assert_eq!(Done::of(command).await.code, 0);
    let url = stage.server.url().replace("nats://", "nats://all:all@");
    assert_eq!(run(&stage, &["-s", &url, "who"]).await.code, 0);
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let stage = stage().await;
    let server = stage.server.url();
    let login = ["--server", &server, "--user", "all", "--password", "all", "who"];
    let mut command = bare(&stage.home.path().to_owned(), &login);
    for name in ["COLOR", "TIMEOUT", "URL", "USER", "PASSWORD", "TOKEN", "CREDS", "CONTEXT", "CA"] {
        command.env(format!("NATS_{name}"), "");
    }
    let done = Done::of(command).await;
    assert_eq!(done.code, 0, "{done:?}");
}
