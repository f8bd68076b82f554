//! Availability, devices, leaving connections and statuses with an end, by example.

use serde_json::{Value, json};

use super::*;
use crate::presence::refusal::Code;
use crate::presence::time::Time;

const NOW_MS: i64 = 1_700_000_000_000;

/// A user, and what its commands publish.
struct John {
    stored: Stored<Record>,
    rules: Rules,
    now_ms: i64,
}

impl John {
    fn new() -> Self {
        Self { stored: Stored::default(), rules: Rules::new(50, false), now_ms: NOW_MS }
    }

    fn tries(&mut self, command: &Command) -> Result<(Outcome, Option<Value>), Refusal> {
        self.now_ms += 1;
        let now = Now::local(0, Time(self.now_ms));
        let decision =
            Users::decide(&id("john"), &self.stored, command, &self.rules, DaemonId(7), now)?;
        if let Some(next) = decision.next {
            self.stored = next;
        }
        let event = decision.event.map(|event| serde_json::from_slice(&event.body).unwrap());
        Ok((decision.outcome, event.map(|event: Value| event["user"].clone())))
    }

    /// Applies the command, and returns the event for others, if there is one.
    fn does(&mut self, command: &Command) -> Option<Value> {
        self.tries(command).unwrap().1
    }

    fn upserts(&mut self, fields: Value) -> Result<Option<Value>, Refusal> {
        let command = Command::Upsert { patch: patch(fields), custom_in_answer: true };
        self.tries(&command).map(|(_, event)| event)
    }

    fn record(&self) -> &Record {
        self.stored.record().unwrap()
    }

    fn view(&self, viewer: Viewer<'_>) -> Value {
        let mut view = Vec::new();
        push_seen_by(&mut view, &id("john"), self.record(), viewer);
        serde_json::from_slice(&view).unwrap()
    }

    fn end_leaving(&mut self) -> Option<Value> {
        let ended = self.record().leaving.iter().map(Leaving::key).collect();
        self.does(&Command::EndLeaving { ended })
    }
}

fn id(text: &str) -> Id {
    Id::parse(text, "id").unwrap()
}

fn patch(fields: Value) -> Patch {
    Patch::parse(fields.as_object().unwrap(), "user").unwrap()
}

/// `name` of a connection, then its device, then `idle`.
fn connect(words: &str) -> Command {
    let mut words = words.split(' ');
    let mut connection = NewConnection::plain(id(words.next().unwrap()));
    for word in words {
        match word {
            "idle" => connection.idle = true,
            device => connection.device = Some(Device::parse(device, "device").unwrap()),
        }
    }
    Command::Connect { patch: Patch::default(), defaults: None, connection, custom_in_answer: true }
}

fn disconnect(connection: &str) -> Command {
    Command::Disconnect { connection: id(connection), lease: None, grace_ms: None }
}

fn idle(connection: &str, idle: bool) -> Command {
    Command::UpdateConnection { connection: id(connection), idle: Some(idle), device: None }
}

#[test]
fn the_connections_and_the_choice_make_the_availability() {
    let mut john = John::new();
    let event = john.does(&connect("a desktop")).unwrap();
    assert_eq!(
        (&event["availability"], &event["devices"]),
        (&json!("active"), &json!(["desktop"]))
    );
    let event = john.does(&connect("b mobile idle")).unwrap();
    assert_eq!(event["availability"], "active");
    assert_eq!(event["devices"], json!(["desktop", "mobile"]));
    assert_eq!(john.does(&idle("a", true)).unwrap()["availability"], "away");
    assert_eq!(john.does(&idle("a", true)), None);
    assert_eq!(
        john.upserts(json!({"availability": "busy"})).unwrap().unwrap()["availability"],
        "busy"
    );
    assert_eq!(john.does(&idle("a", false)), None, "the choice counts above the connections");
    let own = john.view(Viewer::User(&id("john")));
    assert_eq!(
        (&own["availability"], &own["availability_choice"]),
        (&json!("busy"), &json!("busy"))
    );
    let event = john.upserts(json!({"availability": "auto"})).unwrap().unwrap();
    assert_eq!(event["availability"], "active");
    let outcome = john.tries(&idle("c", true)).unwrap().0;
    assert_eq!(outcome, Outcome::ConnectionUpdated { known: false, invisible: false });
}

#[test]
fn a_reload_is_not_seen_whatever_of_the_user_it_is() {
    for (others, reloaded) in [
        (&[][..], "a"),
        (&["b mobile"][..], "a desktop"),
        (&["b idle"][..], "a"),
        (&["b"][..], "a"),
    ] {
        let mut john = John::new();
        for other in others {
            john.does(&connect(other));
        }
        john.does(&connect(reloaded));
        let before = john.view(Viewer::Other);
        assert_eq!(john.does(&disconnect("a")), None);
        let again = reloaded.replacen('a', "a2", 1);
        assert_eq!(john.does(&connect(&again)), None, "{others:?} {reloaded}");
        assert!(john.record().leaving.is_empty(), "{others:?} {reloaded}");
        let after = john.view(Viewer::Other);
        assert_eq!(before["version"], after["version"]);
    }
}

#[test]
fn an_end_that_changes_nothing_is_immediate() {
    let mut john = John::new();
    for words in ["a desktop", "b desktop", "c desktop idle"] {
        john.does(&connect(words));
    }
    assert_eq!(john.does(&disconnect("a")), None);
    assert_eq!(john.does(&disconnect("c")), None);
    assert!(john.record().leaving.is_empty());
    assert_eq!(john.does(&disconnect("b")), None);
    assert_eq!(john.record().leaving.len(), 1);
    let offline = john.end_leaving().unwrap();
    assert_eq!((&offline["online"], &offline["availability"]), (&json!(false), &json!("offline")));
    assert_eq!(offline["offline_since"], Time(john.now_ms).to_string());
    assert!(offline.get("devices").is_none());
    assert_eq!(john.end_leaving(), None);
}

#[test]
fn a_connect_of_another_device_does_not_cancel_a_leave() {
    let mut john = John::new();
    john.does(&connect("a desktop"));
    john.does(&disconnect("a"));
    let both = john.does(&connect("b mobile")).unwrap();
    assert_eq!(both["devices"], json!(["desktop", "mobile"]));
    assert_eq!(john.end_leaving().unwrap()["devices"], json!(["mobile"]));
}

#[test]
fn a_refresh_of_one_tab_does_not_cut_short_the_reload_of_another() {
    let mut john = John::new();
    for words in ["a desktop", "b desktop idle"] {
        john.does(&connect(words));
    }
    assert_eq!(john.does(&disconnect("a")), None);
    assert_eq!(john.does(&connect("b desktop idle")), None, "sent again by its gateway");
    assert_eq!(john.record().leaving.len(), 1);
    assert_eq!(john.does(&connect("a2 desktop")), None);
    assert!(john.record().leaving.is_empty());
}

#[test]
fn the_end_of_one_leave_is_the_end_of_no_other() {
    let mut john = John::new();
    for words in ["a desktop", "b mobile", "c"] {
        john.does(&connect(words));
    }
    assert_eq!(john.does(&disconnect("a")), None);
    assert_eq!(john.does(&disconnect("b")), None);
    let of_a = Command::EndLeaving { ended: vec![john.record().leaving[0].key()] };
    assert_eq!(john.does(&of_a).unwrap()["devices"], json!(["mobile"]));
    assert_eq!(john.record().leaving.len(), 1, "b is leaving still");
    john.does(&connect("a desktop"));
    john.does(&disconnect("a"));
    assert_eq!(john.does(&of_a), None, "a has left once more since then");
    assert_eq!(john.view(Viewer::Other)["devices"], json!(["desktop", "mobile"]));
}

#[test]
fn a_grace_that_is_asked_for_counts_and_none_is_the_end() {
    let mut john = John::new();
    john.does(&connect("a"));
    let command = |grace_ms| Command::Disconnect {
        connection: id("a"),
        lease: None,
        grace_ms: Some(grace_ms),
    };
    assert_eq!(john.does(&command(9000)), None);
    assert_eq!(john.record().leaving[0].grace_ms, Some(9000));
    assert_eq!(john.does(&connect("a")), None);
    assert_eq!(john.does(&command(0)).unwrap()["online"], false);
    john.rules.no_grace = true;
    john.does(&connect("a"));
    assert_eq!(john.does(&command(9000)), None, "what is asked for counts above the setting");
    john.does(&connect("a"));
    assert_eq!(john.does(&disconnect("a")).unwrap()["online"], false);
}

#[test]
fn a_disconnect_that_names_a_lease_ends_only_what_hangs_on_it() {
    let mut john = John::new();
    john.does(&connect("a"));
    let lease = Some(id("gw"));
    let command = Command::Disconnect { connection: id("a"), lease, grace_ms: Some(0) };
    let (outcome, event) = john.tries(&command).unwrap();
    assert_eq!(outcome, Outcome::Disconnected { count: 0, invisible: false });
    assert_eq!(event, None);
}

#[test]
fn going_invisible_ends_what_is_leaving_and_says_since_when() {
    let mut john = John::new();
    john.does(&connect("a desktop"));
    john.does(&disconnect("a"));
    let event = john.upserts(json!({"invisible": true})).unwrap().unwrap();
    assert_eq!(event["online"], false);
    let since = event["offline_since"].clone();
    assert_eq!(since, Time(john.now_ms).to_string());
    assert!(john.record().leaving.is_empty());
    for command in [connect("b"), idle("b", true), disconnect("b")] {
        assert_eq!(john.does(&command), None);
        assert_eq!(john.view(Viewer::Other)["offline_since"], since);
    }
    assert_eq!(john.upserts(json!({"invisible": false})).unwrap(), None);
    assert_eq!(john.view(Viewer::Other)["offline_since"], since);
    assert_ne!(john.view(Viewer::User(&id("john")))["offline_since"], since);
    assert_eq!(john.does(&connect("b")).unwrap()["offline_since"], Value::Null);
}

#[test]
fn a_status_ends_as_if_it_were_removed() {
    let mut john = John::new();
    let end = Time(NOW_MS + 60_000);
    let fields = json!({"status": "lunch", "status_expires_at": end.to_string()});
    let event = john.upserts(fields.clone()).unwrap().unwrap();
    assert_eq!(event["status_expires_at"], end.to_string());
    assert_eq!(john.upserts(fields).unwrap(), None);
    let version = john.record().version;
    let command = Command::ExpireStatus { expires_at: end };
    let event = john.does(&command).unwrap();
    assert_eq!(event["status"], Value::Null);
    assert!(event.get("status_expires_at").is_none());
    assert_eq!(event["updated_at"], Time(john.now_ms).to_string());
    assert!(john.record().version > version);
    assert_eq!(john.does(&command), None);
}

#[test]
fn the_end_of_a_status_takes_no_newer_one() {
    let mut john = John::new();
    let old = Time(NOW_MS + 60_000);
    let newer = Time(NOW_MS + 90_000).to_string();
    john.upserts(json!({"status": "a", "status_expires_at": old.to_string()})).unwrap();
    for newer in [json!({"status": "b", "status_expires_at": newer}), json!({"status": "c"})] {
        john.upserts(newer.clone()).unwrap();
        assert_eq!(john.does(&Command::ExpireStatus { expires_at: old }), None);
        assert_eq!(john.view(Viewer::Other)["status"], newer["status"]);
    }
}

#[test]
fn a_status_that_comes_without_an_end_has_none() {
    let mut john = John::new();
    let end = Time(NOW_MS + 60_000);
    for (fields, expected) in [
        (json!({"status": "a", "status_expires_at": end.to_string()}), Some(end)),
        (json!({"name": "x"}), Some(end)),
        (json!({"status": "a"}), None),
        (json!({"status_expires_at": end.to_string()}), Some(end)),
        (json!({"status_expires_at": null}), None),
    ] {
        john.upserts(fields.clone()).unwrap();
        assert_eq!(john.record().status_expires_at, expected, "{fields}");
    }
}

#[test]
fn an_end_must_lie_ahead_and_have_a_status() {
    let mut john = John::new();
    let year = 366 * 24 * 3_600_000;
    for (fields, accepted) in [
        (json!({"status_expires_at": Time(NOW_MS + 60_000).to_string()}), false),
        (json!({"status": null, "status_expires_at": Time(NOW_MS + 60_000).to_string()}), false),
        (json!({"status": "a", "status_expires_at": Time(NOW_MS).to_string()}), false),
        (json!({"status": "a", "status_expires_at": Time(NOW_MS + year).to_string()}), true),
        (json!({"status": "a", "status_expires_at": Time(NOW_MS + year + 99).to_string()}), false),
    ] {
        let result = john.upserts(fields.clone());
        assert_eq!(result.is_ok(), accepted, "{fields}");
        if let Err(refusal) = result {
            assert_eq!(refusal.code, Code::InvalidRequest);
            assert_eq!(refusal.details["field"], "user.status_expires_at");
        }
    }
}

#[test]
fn defaults_count_only_for_who_is_made() {
    let mut john = John::new();
    let command = |connection: &str| Command::Connect {
        patch: patch(json!({"name": "John"})),
        defaults: Some(Box::new(patch(json!({"name": "nobody", "team": "red"})))),
        connection: NewConnection::plain(id(connection)),
        custom_in_answer: true,
    };
    let (outcome, event) = john.tries(&command("a")).unwrap();
    assert!(matches!(outcome, Outcome::Connected { created: true, .. }));
    let event = event.unwrap();
    assert_eq!((&event["name"], &event["team"]), (&json!("John"), &json!("red")));
    john.upserts(json!({"team": null})).unwrap();
    let (outcome, _) = john.tries(&command("b")).unwrap();
    assert!(matches!(outcome, Outcome::Connected { created: false, .. }));
    assert!(john.view(Viewer::Other).get("team").is_none());
}

#[test]
fn who_hides_when_it_was_active_shows_no_times() {
    let mut john = John::new();
    john.does(&connect("a"));
    assert_eq!(john.upserts(json!({"hide_last_active": true})).unwrap(), None);
    let command = Command::Disconnect { connection: id("a"), lease: None, grace_ms: Some(0) };
    let event = john.does(&command).unwrap();
    assert_eq!((&event["last_active"], &event["offline_since"]), (&Value::Null, &Value::Null));
    let own = john.view(Viewer::User(&id("john")));
    assert!(own["last_active"].is_string() && own["offline_since"].is_string());
    assert_eq!(own["hide_last_active"], true);
}

#[test]
fn announced_fields_have_events_and_others_have_none() {
    let mut john = John::new();
    john.does(&connect("a"));
    assert_eq!(john.upserts(json!({"name": "J"})).unwrap(), None);
    john.rules.announced_fields = AnnouncedFields::Listed(["name".to_owned()].into());
    assert_eq!(john.upserts(json!({"mood": 1})).unwrap(), None);
    assert_eq!(john.upserts(json!({"name": "K"})).unwrap().unwrap()["name"], "K");
    john.rules.announced_fields = AnnouncedFields::All;
    assert_eq!(john.upserts(json!({"mood": 2})).unwrap().unwrap()["mood"], 2);
}

#[test]
fn who_is_too_large_already_may_hide_choose_and_shrink_but_not_grow() {
    let mut john = John::new();
    john.does(&connect("a desktop"));
    let large = patch(json!({"name": "x".repeat(5000), "bio": "y".repeat(500)}));
    let mut record = john.record().clone();
    record.custom = record.custom.changed(&large.custom).unwrap();
    john.stored = Stored::Present(record.into());
    for fields in [
        json!({"availability": "busy"}),
        json!({"availability": "auto"}),
        json!({"hide_last_active": true}),
        json!({"hide_last_active": false}),
        json!({"invisible": true}),
        json!({"bio": "z".repeat(400)}),
        json!({"status": null}),
    ] {
        assert!(john.upserts(fields.clone()).is_ok(), "{fields}");
    }
    for fields in [json!({"bio": "z".repeat(401)}), json!({"status": "lunch"})] {
        assert_eq!(john.upserts(fields).unwrap_err().code, Code::TooLarge);
    }
    assert!(john.upserts(json!({"bio": null, "status": "s"})).is_ok());
}

/// A daemon of the previous build writes and reads these records.
#[test]
fn a_record_goes_back_and_forth_between_builds() {
    let read = |text: &str| Record::decode(text.as_bytes()).unwrap();
    let grace = read(r#"{"v":1,"created_at":5,"connects":3,"grace_since":9}"#);
    assert_eq!(grace.leaving, [Leaving::of_user(Time(9), 3)]);
    assert!(grace.is_online());

    let mut john = John::new();
    john.does(&connect("a desktop"));
    john.does(&disconnect("a"));
    let text = String::from_utf8(john.record().encode()).unwrap();
    let since = john.record().leaving[0].since.0;
    assert!(text.contains(&format!(r#""grace_since":{since}"#)), "{text}");
    let ended = text.replace(&format!(r#","grace_since":{since}"#), "");
    assert!(!read(&ended).is_online(), "an older daemon ended the grace");
    let left_again = text.replace(&format!(r#""grace_since":{since}"#), r#""grace_since":99"#);
    assert_eq!(read(&left_again).leaving.len(), 2, "an older daemon began another grace");

    let end = Time(NOW_MS + 60_000);
    john.upserts(json!({"status": "x", "status_expires_at": end.to_string()})).unwrap();
    let text = String::from_utf8(john.record().encode()).unwrap();
    assert_eq!(read(&text).status_expires_at, Some(end));
    let changed = text.replacen(r#""status":"x""#, r#""status":"y""#, 1);
    assert_eq!(read(&changed).status_expires_at, None, "the end was that of another status");
}

#[test]
fn leaving_connections_leave_room_for_live_ones_and_for_each_other() {
    let mut john = John { rules: Rules::new(2, false), ..John::new() };
    john.does(&connect("a desktop"));
    john.does(&connect("b mobile"));
    let told = [disconnect("a"), connect("c desktop"), disconnect("b"), connect("d mobile")];
    assert_eq!(told.map(|command| john.does(&command)), [const { None }; 4], "reloads");
    assert_eq!(john.tries(&connect("e")).unwrap_err().code, Code::LimitExceeded);
    let mut last = "d";
    for device in ["tablet", "watch", "car"] {
        assert_eq!(john.does(&disconnect(last)), None, "the grace of another is cut short");
        assert!(john.does(&connect(&format!("{device} {device}"))).is_some());
        last = device;
    }
    assert_eq!(john.does(&disconnect(last)), None, "the grace of another is cut short");
    assert_eq!(john.record().leaving.len(), 4);
}

#[test]
fn leaving_connections_are_bounded() {
    let mut john = John { rules: Rules::new(1, false), ..John::new() };
    for n in 0..300 {
        john.does(&connect(&format!("c{n} d{n}")));
        john.does(&disconnect(&format!("c{n}")));
    }
    let leaving: Vec<_> = john.record().leaving.iter().map(|each| each.device.clone()).collect();
    let newest = (200..300).map(|n| Device::parse(&format!("d{n}"), "device").ok());
    assert_eq!(leaving, newest.collect::<Vec<_>>());
}
