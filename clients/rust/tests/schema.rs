//! The schemas in `docs/schema` are those of the wire types, and real traffic is valid by them.
//!
//! `UPDATE=1` writes the files instead of comparing them.

#![expect(clippy::disallowed_methods, reason = "a status ends at a time of day")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use jsonschema::Validator;
use presenced_client::{Device, Patch, Service, User, wire};
use serde_json::{Value, json};
use support::{Daemon, Server};

const SOON: Duration = Duration::from_secs(15);

/// A subject on which a message says that all is said.
const END: &str = "end";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn the_files_are_those_of_the_types() {
    let folder = docs().join("schema");
    let update = std::env::var_os("UPDATE").is_some();
    let mut names = BTreeSet::new();
    for (name, schema) in wire::schemas() {
        let file = format!("{name}.json");
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if update {
            fs::write(folder.join(&file), &text).unwrap();
        }
        let stored = fs::read_to_string(folder.join(&file)).unwrap();
        assert!(stored == text, "{file} is not that of the type: run with UPDATE=1");
        names.insert(file);
    }
    let files = fs::read_dir(&folder).unwrap();
    let files: BTreeSet<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names);
}

#[test]
fn the_description_names_each_schema() {
    let text = fs::read_to_string(docs().join("asyncapi.yaml")).unwrap();
    for name in wire::schemas().keys() {
        assert!(text.contains(&format!("schema/{name}.json")), "{name}");
    }
    let named = text.split("schema/").skip(1).filter_map(|rest| rest.split(".json").next());
    for name in named {
        assert!(wire::schemas().contains_key(name), "{name}");
    }
}

/// The messages heard on the wire: the subject, the reply subject and the body of each.
type Heard = Vec<(String, Option<String>, Value)>;

/// The name of the operation in a subject of either door.
fn operation(subject: &str) -> Option<&str> {
    subject.strip_prefix("presence.v1.")?.split('.').next()
}

fn validators() -> HashMap<&'static str, Validator> {
    let compile = |schema: &schemars::Schema| jsonschema::validator_for(schema.as_value()).unwrap();
    wire::schemas().iter().map(|(name, schema)| (*name, compile(schema))).collect()
}

/// Returns the number of messages that each schema found to be valid.
fn validate(heard: &Heard) -> HashMap<String, usize> {
    let validators = validators();
    let mut asked: HashMap<&str, &str> = HashMap::new();
    let mut counts = HashMap::new();
    for (subject, reply, body) in heard {
        let name = if let Some(operation) = operation(subject) {
            if let Some(reply) = reply {
                asked.insert(reply, operation);
            }
            format!("{operation}.request")
        } else if let Some(operation) = asked.get(subject.as_str()) {
            let is_error = body.get("error").is_some();
            if is_error { "error".to_owned() } else { format!("{operation}.answer") }
        } else if subject.starts_with("user.presence.changed.") {
            "user.presence.changed".to_owned()
        } else if subject.starts_with("channel.presence.changed.") {
            "channel.presence.changed".to_owned()
        } else {
            continue;
        };
        let errors: Vec<_> =
            validators[name.as_str()].iter_errors(body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {body}");
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn real_traffic_is_valid() {
    let server = Server::start().await;
    let counted = [("CHANNEL_TYPES__ROOM__OCCUPANCY_INTERVAL", "1s")];
    let _daemon = Daemon::start_with(&server.url(), &counted).await;
    let spy = server.connect().await;
    let mut all = spy.subscribe(">").await.unwrap();
    spy.flush().await.unwrap();
    play(&server).await;

    let mut heard = Heard::new();
    spy.publish(END, "".into()).await.unwrap();
    while let Some(message) = all.next().await.filter(|message| message.subject.as_str() != END) {
        if let Ok(body) = serde_json::from_slice(&message.payload) {
            let reply = message.reply.map(|reply| reply.to_string());
            heard.push((message.subject.to_string(), reply, body));
        }
    }
    let counts = validate(&heard);
    let unheard: Vec<_> =
        wire::schemas().into_keys().filter(|name| !counts.contains_key(*name)).collect();
    assert!(unheard.is_empty(), "no message of {unheard:?} was heard");
}

/// Each operation at least once, by the library.
async fn play(server: &Server) {
    let nats = server.connect().await;
    let service = Service::new(nats.clone());
    let me = User::new(nats.clone(), "john").unwrap();
    let in_an_hour = DateTime::<Utc>::from(SystemTime::now() + Duration::from_secs(3600));
    let patch = Patch::new().status_until("lunch", &in_an_hour.to_rfc3339());
    let defaults = Patch::new().set("name", "John").unwrap();
    let connect = me.connect(patch).device(Device::of("mobile").idle(true)).defaults(defaults);
    let connection = connect.await.unwrap();
    connection.set_device(Device::of("mobile")).await.unwrap();
    connection.update(Patch::new().status(None).invisible(false)).await.unwrap();
    // A connection with defaults carries its changes in connects.
    service.upsert([Patch::new().status("away").of("jane").unwrap()]).await.unwrap();
    let lease = service.lease("gw").unwrap();
    let seat = lease.connect("jack", Patch::new()).device(Device::of("web")).await.unwrap();
    seat.update(Patch::new().status("hi")).await.unwrap();

    let john = json!({"data": {"color": "green"}, "members": ["john", "jack", "nobody"]});
    let change = john.as_object().unwrap().clone();
    let mut counts = nats.subscribe("channel.presence.changed.>").await.unwrap();
    nats.flush().await.unwrap();
    service.upsert_channel("room", "1", change).await.unwrap();
    let counted = tokio::time::timeout(SOON, counts.next()).await;
    assert!(counted.unwrap().is_some());
    let channel = me.watch_channel("room", "1", None).await.unwrap();
    channel.watch.live().await.unwrap();
    service.channels().member_limit(10).await.unwrap();
    let count = service.users().filter(presenced_client::filter::online()).count();
    assert_eq!(count.await.unwrap(), 2);
    service.explain("john").await.unwrap();
    let late = service.users().seen_by("jack").unwrap().sort(presenced_client::filter::id().desc());
    late.fresh().limit(2).await.unwrap();
    assert!(service.explain("nobody").await.is_err());

    let sent = lease.state().heartbeats;
    let beats = |state: &presenced_client::LeaseState| state.heartbeats > sent + 1;
    lease.states().wait_for(beats).await.unwrap();
    seat.close().await;
    connection.close().await;
    lease.hand_over().await.unwrap();
    service.delete(["jack"]).await.unwrap();
    service.delete_channel("room", "1").await.unwrap();
}
