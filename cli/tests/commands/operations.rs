//! Commands for people who run presence: `check`, `permissions`, `keys`, manuals.

use std::os::unix::fs::PermissionsExt;

use futures_util::{FutureExt, StreamExt};
use presenced_client::{Error, Patch, Service, Signals, User};
use serde_json::{Value, json};

use crate::servers::{Daemon, Server, eventually};
use crate::support::{Done, Following, SOON, Stage, bare};

/// Until both have heard for a lease.
async fn all_hear(stage: &Stage) {
    eventually("both hear", SOON, async || {
        let daemons = stage.lines(&["daemons"]).await;
        (daemons.len() == 2 && daemons.iter().all(|each| each["deaf"] == false)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_has_the_exit_codes_of_nagios_in_each_form() {
    let stage = Stage::start().await;
    all_hear(&stage).await;
    stage.ok(&["set", "john"]).await;
    let patient = ["--query-warn", "20s", "--query-critical", "30s", "--lag-warn", "20s"];
    let check = async |more: &[&str]| stage.run(&[&["check"], &patient[..], more].concat()).await;
    let nagios = check(&[]).await;
    assert_eq!(nagios.code, 0, "{nagios:?}");
    assert!(
        nagios.stdout.starts_with("PRESENCE OK - all is well | daemons=2;2:;1: "),
        "{nagios:?}"
    );
    let few = check(&["--daemons", "3", "--format", "json"]).await;
    let read: Value = serde_json::from_str(&few.stdout).unwrap();
    assert_eq!((few.code, &read["status"]), (1, &json!("warning")));
    assert_eq!(read["problems"][0]["problem"], "2 of 3 daemons serve");
    let slow = stage.run(&["check", "--query-critical", "0s", "--format", "text"]).await;
    assert_eq!(slow.code, 2, "{slow:?}");
    assert!(slow.stdout.starts_with("critical: a query takes"), "{slow:?}");
    let prometheus = check(&["--format", "prometheus"]).await;
    assert_eq!(prometheus.code, 0);
    assert!(prometheus.stdout.contains("\npresence_check_daemons 2\n"), "{prometheus:?}");
    assert!(prometheus.stdout.contains("\npresence_check_query_seconds 0."), "{prometheus:?}");
    let home = stage.home.path().to_owned();
    let nobody = Done::of(bare(&home, &["-s", "127.0.0.1:1", "check"])).await;
    assert_eq!(nobody.code, 2);
    assert!(nobody.stdout.starts_with("PRESENCE CRITICAL - cannot reach NATS"), "{nobody:?}");
    let unknown = Done::of(bare(&home, &["--context", "none", "check"])).await;
    assert_eq!(unknown.code, 3);
    assert!(unknown.stdout.starts_with("PRESENCE UNKNOWN"), "{unknown:?}");
    let typo = ["--server", "x", "check", "--demons", "3"];
    Done::of(bare(&home, &typo)).await.fails(3, "unexpected argument '--demons'");
    assert_eq!(Done::of(bare(&home, &["check", "--help"])).await.code, 0);
}

#[tokio::test]
async fn keys_are_pairs_and_a_seed_in_a_file_is_for_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().to_owned();
    let printed = Done::of(bare(&folder, &["keys", "-j"])).await;
    let pair: Value = serde_json::from_str(&printed.stdout).unwrap();
    let seed = nkeys::KeyPair::from_seed(pair["seed"].as_str().unwrap()).unwrap();
    assert_eq!(pair["public_key"], seed.public_key());
    let file = folder.join("account.nk");
    let arguments = ["keys", "account", "--out", file.to_str().unwrap(), "-o", "table"];
    let printed = Done::of(bare(&folder, &arguments)).await;
    let seed = std::fs::read_to_string(&file).unwrap();
    let seed = nkeys::KeyPair::from_seed(seed.trim()).unwrap();
    assert_eq!(printed.stdout.trim(), seed.public_key());
    assert!(printed.stdout.starts_with('A'));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    Done::of(bare(&folder, &arguments)).await.fails(73, "account.nk");
}

async fn permissions(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let arguments = [&["permissions"], arguments].concat();
    let done = Done::of(bare(&home.path().to_owned(), &arguments)).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.stdout
}

/// A client with the login of `user`.
async fn login(server: &Server, user: &str, inbox: &str) -> (async_nats::Client, Signals) {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), user.into());
    let (options, signals) = Signals::tap(options.custom_inbox_prefix(inbox), |_| async {});
    (options.connect(server.url()).await.unwrap(), signals)
}

fn is_denied<T: std::fmt::Debug>(done: Result<T, Error>) {
    assert!(matches!(done, Err(Error::Permission { .. })), "{done:?}");
}

#[tokio::test]
async fn a_client_with_the_printed_permissions_may_do_all_of_its_own_and_nothing_else() {
    let john = permissions(&["a@b.c", "--sees", "jack", "--counts", "team:red"]).await;
    let all = permissions(&["jill", "--sees-all"]).await;
    let config = format!(
        "authorization {{ users: [ {{ user: all, password: all }}\n\
         {{ user: john, password: john, {john} }}\n{{ user: jill, password: jill, {all} }} ] }}\n"
    );
    let server = Server::start_with(&config).await;
    let settings = [
        ("NATS__USER", "all"),
        ("NATS__PASSWORD", "all"),
        ("CHANNEL_TYPES__TEAM__OCCUPANCY_INTERVAL", "1s"),
    ];
    let _daemon = Daemon::start_with(&server.url(), &settings).await;
    let (nats, _) = login(&server, "all", "_INBOX").await;
    let service = Service::new(nats);
    service.upsert(["jack", "joe"].map(|id| Patch::new().of(id).unwrap())).await.unwrap();
    let members = json!({"add_members": ["a@b.c", "jack"]}).as_object().unwrap().clone();
    service.upsert_channel("team", "red", members).await.unwrap();

    let (nats, signals) = login(&server, "john", "_INBOX_a=40b=2Ec").await;
    let builder = || Service::builder(nats.clone()).signals(signals.clone());
    let me = builder().user("a@b.c").unwrap();
    let mut counts = nats.subscribe("channel.presence.changed.team.red").await.unwrap();
    let mut foreign_counts = nats.subscribe("channel.presence.changed.team.*").await.unwrap();
    let connection = me.connect(Patch::new().status("here")).await.unwrap();
    connection.update(Patch::new().status("there")).await.unwrap();
    let idle = presenced_client::Device { kind: None, idle: true };
    connection.set_device(idle).await.unwrap();
    me.request("heartbeat", &json!({"connection_id": connection.id()})).await.unwrap();
    assert_eq!(me.channels().await.unwrap().len(), 1);
    let watch = me.watch_channel("team", "red", None).await.unwrap().watch;
    watch.live().await.unwrap();
    let mut foreign = nats.subscribe("user.presence.changed.joe").await.unwrap();
    let users = ["joe", "jack"].map(|id| Patch::new().status("x").of(id).unwrap());
    service.upsert(users).await.unwrap();
    eventually("an event is heard", SOON, async || {
        watch.get("jack").filter(|jack| jack.status.as_deref() == Some("x"))
    })
    .await;
    let home = tempfile::tempdir().unwrap();
    let words = "--user john --password john --inbox-prefix _INBOX_a=40b=2Ec --as a@b.c";
    let watching = words.split(' ').chain(["watch", "--channel", "team:red"]).collect::<Vec<_>>();
    let mut command = bare(&home.path().to_owned(), &watching);
    command.env("NATS_URL", server.url());
    assert_eq!(Following::of(command).json().await["kind"], "first", "its channels it may watch");
    is_denied(me.users().await);
    is_denied(me.users().count().await);
    is_denied(builder().build().users().await);
    is_denied(builder().build().explain("a@b.c").await);
    is_denied(builder().user("jack").unwrap().request("upsert_users", &json!({})).await);
    assert!(foreign.next().now_or_never().is_none(), "joe's event was not granted");
    let counted = tokio::time::timeout(SOON, counts.next()).await;
    assert!(counted.is_ok_and(|message| message.is_some()), "the count is heard");
    let foreign = foreign_counts.next().now_or_never();
    assert!(foreign.flatten().is_none(), "other channels' counts were not granted");
    is_denied(builder().user("jack").unwrap().request("heartbeat", &json!({})).await);
    connection.close().await;

    let (nats, signals) = login(&server, "jill", "_INBOX_jill").await;
    let jill: User = Service::builder(nats).signals(signals).user("jill").unwrap();
    let watch = jill.watch(["jack", "joe"]).unwrap();
    watch.live().await.unwrap();
    assert_eq!(jill.users().count().await.unwrap(), 3);
}

#[tokio::test]
async fn permissions_are_the_same_in_each_form() {
    let json: Value = serde_json::from_str(
        &permissions(&["john", "--sees", "jack", "--sees", "jill", "--format", "json"]).await,
    )
    .unwrap();
    let subjects = |door: &str| -> Vec<String> {
        serde_json::from_value(json[door]["allow"].clone()).unwrap()
    };
    let (publish, subscribe) = (subjects("pub"), subjects("sub"));
    assert_eq!((publish.len(), subscribe.len()), (7, 4));
    let conf = permissions(&["john", "--sees", "jack", "--sees", "jill"]).await;
    let nsc = permissions(&["john", "--sees", "jack", "--sees", "jill", "--format", "nsc"]).await;
    for subject in publish.iter().chain(&subscribe) {
        assert!(conf.contains(&format!("\"{subject}\"")), "{subject}: {conf}");
    }
    let (publish, subscribe) = (publish.join(","), subscribe.join(","));
    let command =
        format!("nsc edit user --name 'john' --allow-pub '{publish}' --allow-sub '{subscribe}'\n");
    assert_eq!(nsc, command);
    let whole = permissions(&["john", "--sees", "a,b", "--counts", "team:c,d"]).await;
    for subject in ["user.presence.changed.a=2Cb", "channel.presence.changed.team.c=2Cd"] {
        assert!(whole.contains(&format!("\"{subject}\"")), "{subject}: {whole}");
    }
    let few = permissions(&["john", "--ops", "watch-channel", "--prefix", "cell"]).await;
    assert!(few.contains("\"cell.v1.watch_channel.john\"") && !few.contains("connect"), "{few}");
}

#[tokio::test]
async fn completions_and_manual_pages_are_made_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().to_owned();
    for shell in ["bash", "zsh", "fish"] {
        let script = Done::of(bare(&folder, &["completion", shell])).await;
        assert!(script.stdout.contains("explain") && script.stdout.contains("inbox-prefix"));
        assert!(!script.stdout.contains("socks"), "{shell} offers what is refused");
    }
    let pages = folder.join("man");
    assert_eq!(Done::of(bare(&folder, &["man", pages.to_str().unwrap()])).await.code, 0);
    for page in ["presencectl.1", "presencectl-who.1", "presencectl-channel-add.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}
