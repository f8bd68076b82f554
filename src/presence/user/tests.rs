//! Invariants that hold after every history of commands, whatever the clocks show.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::presence::time::Time;

const DAEMON: DaemonId = DaemonId(7);

/// More connections than any history has, so that none is refused, and one announced field.
fn rules() -> Rules {
    let announced_fields = AnnouncedFields::Listed(["m".to_owned()].into());
    Rules { announced_fields, ..Rules::new(50, false) }
}

/// A command in the making: the end of a grace or of a status is for the one that is running then.
#[derive(Debug, Clone)]
enum Step {
    Connect { patch: Patch, connection: NewConnection },
    Update { connection: Id, idle: Option<bool>, device: Option<Device> },
    Upsert(Patch),
    Disconnect { connection: Id, lease: Option<Id>, grace_ms: Option<u64> },
    DisconnectLease(Id),
    Lapse(Id),
    EndLeaving { first_only: bool },
    ExpireStatus,
    Refresh,
    Delete,
}

impl Step {
    fn command(&self, stored: &Stored<Record>) -> Command {
        match self.clone() {
            Self::Connect { patch, connection } => {
                Command::Connect { patch, defaults: None, connection, custom_in_answer: true }
            }
            Self::Update { connection, idle, device } => {
                Command::UpdateConnection { connection, idle, device }
            }
            Self::Upsert(patch) => Command::Upsert { patch, custom_in_answer: true },
            Self::Disconnect { connection, lease, grace_ms } => {
                Command::Disconnect { connection, lease, grace_ms }
            }
            Self::DisconnectLease(lease) => Command::DisconnectLease { lease, grace_ms: None },
            Self::Lapse(connection) => {
                let connections = stored.record().map_or(&[][..], |record| &record.connections);
                let lapsed = connections.iter().filter(|each| each.id == connection);
                let connection_gen = |each: &Connection| ConnectionGen {
                    connection: each.id.clone(),
                    generation: each.generation,
                };
                Command::Lapse { generations: lapsed.map(connection_gen).collect() }
            }
            Self::EndLeaving { first_only } => {
                let leaving = stored.record().map_or(&[][..], |record| &record.leaving);
                let some = if first_only { 1 } else { leaving.len() };
                let ended = leaving.iter().take(some).map(Leaving::key).collect();
                Command::EndLeaving { ended }
            }
            Self::ExpireStatus => {
                let end = stored.record().and_then(|record| record.status_expires_at);
                Command::ExpireStatus { expires_at: end.unwrap_or(Time(0)) }
            }
            Self::Refresh => {
                Command::Refresh { seen: stored.record().and_then(Record::refreshed_last_active) }
            }
            Self::Delete => Command::Delete { only: None },
        }
    }

    /// The step without what an invisible user does; `None` if nothing of it is left.
    fn without_invisible(&self) -> Option<Self> {
        match self {
            Self::Connect { patch, .. } => Some(Self::Upsert(patch.clone())),
            Self::Upsert(_) | Self::ExpireStatus | Self::Delete => Some(self.clone()),
            Self::Update { .. }
            | Self::Disconnect { .. }
            | Self::DisconnectLease(_)
            | Self::Lapse(_)
            | Self::EndLeaving { .. }
            | Self::Refresh => None,
        }
    }
}

fn id(text: &str) -> Id {
    Id::parse(text, "id").unwrap()
}

fn device(name: &str) -> Device {
    Device::parse(name, "device").unwrap()
}

fn a_device() -> impl Strategy<Value = Option<Device>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(device("desktop"))),
        1 => Just(Some(device("mobile"))),
    ]
}

fn a_patch() -> impl Strategy<Value = Patch> {
    let status = prop_oneof![
        4 => Just(None),
        1 => Just(Some(None)),
        2 => "[a-c\"]".prop_map(|text| Some(Some(text.into_boxed_str()))),
    ];
    let invisible = prop_oneof![4 => Just(None), 2 => Just(Some(true)), 1 => Just(Some(false))];
    let hide = prop_oneof![6 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let choice = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Choice::Auto)),
        1 => Just(Some(Choice::Away)),
        1 => Just(Some(Choice::Busy)),
    ];
    let expires = prop_oneof![3 => Just(None), 1 => Just(Some(()))];
    let value =
        prop_oneof![Just(None), (0..3).prop_map(|n| Some(json!(n))), Just(Some(json!("é")))];
    let custom = vec(("[mn]".prop_map(String::into_boxed_str), value), 0..2);
    let all = (invisible, hide, choice, status, expires, custom);
    all.prop_map(|(invisible, hide_last_active, choice, status, expires, custom)| {
        // An end goes with a status, and lies ahead by every clock of a history.
        let is_set = matches!(status, Some(Some(_)));
        let end = Time(1_700_000_000_000 + 3_600_000);
        let status_expires_at = expires
            .filter(|()| is_set)
            .map(|()| Some(StatusEnd { at: end, field: "status_expires_at".into() }));
        Patch { invisible, hide_last_active, choice, status, status_expires_at, custom }
    })
}

fn a_step() -> impl Strategy<Value = Step> {
    let connection = || prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(id);
    let lease = || Just(id("lease"));
    let grace_ms = prop_oneof![6 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(9000))];
    prop_oneof![
        6 => (a_patch(), connection(), proptest::option::of(lease()), a_device(), any::<bool>())
            .prop_map(|(patch, id, lease, device, idle)| Step::Connect {
                patch,
                connection: NewConnection { id, lease, device, idle },
            }),
        2 => (connection(), proptest::option::of(any::<bool>()), a_device())
            .prop_map(|(connection, idle, device)| Step::Update { connection, idle, device }),
        4 => a_patch().prop_map(Step::Upsert),
        5 => (connection(), proptest::option::weighted(0.2, lease()), grace_ms).prop_map(
            |(connection, lease, grace_ms)| Step::Disconnect { connection, lease, grace_ms }
        ),
        1 => lease().prop_map(Step::DisconnectLease),
        1 => connection().prop_map(Step::Lapse),
        2 => any::<bool>().prop_map(|first_only| Step::EndLeaving { first_only }),
        1 => Just(Step::ExpireStatus),
        1 => Just(Step::Refresh),
        1 => Just(Step::Delete),
    ]
}

/// Steps, and how far the wall clock moves before each: it may jump back.
fn a_history() -> impl Strategy<Value = Vec<(Step, i64)>> {
    let passes = prop_oneof![6 => 0..5000_i64, 1 => -60_000..0_i64];
    vec((a_step(), passes), 1..40)
}

/// Applies a step to the stored value, and returns the result and the event for others.
fn apply(stored: &Stored<Record>, step: &Step, wall: Time) -> (Stored<Record>, Option<Event>) {
    let now = Now::local(0, wall);
    let decision =
        Users::decide(&id("john"), stored, &step.command(stored), &rules(), DAEMON, now).unwrap();
    if decision.next.is_none() {
        assert_eq!(decision.event, None, "what changes nothing is no event");
    }
    (decision.next.unwrap_or_else(|| stored.clone()), decision.event)
}

fn is_invisible(stored: &Stored<Record>) -> bool {
    stored.record().is_some_and(|record| record.invisible)
}

/// The reachability of the user: a user who shows itself is seen with connections of invisible
/// time.
fn reached(stored: &Stored<Record>) -> Option<Reachability<'_>> {
    stored.record().map(Record::reachability)
}

/// All that anyone else can see: the view, or, of a user who is gone, the version.
fn public(stored: &Stored<Record>) -> String {
    let mut view = Vec::new();
    match stored.record() {
        Some(record) => push_seen_by(&mut view, &id("john"), record, Viewer::Other),
        None => view.extend(Users::version(stored).to_string().bytes()),
    }
    String::from_utf8(view).unwrap()
}

fn told(event: &Option<Event>) -> Option<String> {
    event.as_ref().map(|event| String::from_utf8(event.body.clone()).unwrap())
}

fn is_distinguished(before: &Stored<Record>, after: &Stored<Record>) -> bool {
    is_announced(before.record(), after.record(), &rules().announced_fields)
}

/// A step of a history: before, after, the event and the wall clock.
type Moment = (Stored<Record>, Stored<Record>, Option<Event>, Time);

fn moments(history: &[(Step, i64)]) -> Vec<Moment> {
    let (mut stored, mut wall) = (Stored::default(), Time(1_700_000_000_000));
    let mut moments = Vec::new();
    for (step, passes) in history {
        wall.0 += passes;
        let (after, event) = apply(&stored, step, wall);
        moments.push((stored, after.clone(), event, wall));
        stored = after;
    }
    moments
}

fn connect_plainly(connection: &str) -> Step {
    Step::Connect { patch: Patch::default(), connection: NewConnection::plain(id(connection)) }
}

fn disconnect(connection: &str) -> Step {
    Step::Disconnect { connection: id(connection), lease: None, grace_ms: None }
}

/// An old command, which a daemon carries out late, names the former connection.
#[test]
fn a_connection_that_ended_and_came_again_does_not_lapse_for_what_it_was() {
    let connect = connect_plainly("a");
    let (stored, _) = apply(&Stored::default(), &connect, Time(1));
    let generation = |stored: &Stored<Record>| stored.record().unwrap().connections[0].generation;
    let old = ConnectionGen { connection: id("a"), generation: generation(&stored) };
    let (stored, _) = apply(&stored, &disconnect("a"), Time(2));
    let stored = Users::decode(&Users::encode(stored.record().unwrap())).unwrap();
    let (stored, _) = apply(&Stored::Present(Arc::new(stored)), &connect, Time(3));
    let now = Now::local(0, Time(4));
    let lapse = |connection_gen: &ConnectionGen, stored: &Stored<Record>| {
        let command = Command::Lapse { generations: vec![connection_gen.clone()] };
        Users::decide(&id("john"), stored, &command, &rules(), DAEMON, now).unwrap().next
    };
    assert_eq!(lapse(&old, &stored), None);
    let (gone, _) = apply(&stored, &Step::Delete, Time(4));
    let (stored, _) = apply(&gone, &connect, Time(5));
    for generation in 1..=2 {
        assert_eq!(
            lapse(&ConnectionGen { generation, ..old.clone() }, &stored),
            None,
            "made again"
        );
    }
    assert!(lapse(&ConnectionGen { generation: generation(&stored), ..old }, &stored).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// `docs/protocol.md`, *Being invisible*. Whenever the user is visible its twin is made again.
    /// In invisible time the twin does not connect, disconnect or lapse, and nobody can tell the two
    /// apart.
    #[test]
    fn nobody_sees_what_an_invisible_user_does(history in a_history()) {
        let (mut stored, mut wall) = (Stored::default(), Time(1_700_000_000_000));
        let mut twin = stored.clone();
        for (step, passes) in &history {
            wall.0 += passes;
            let was_invisible = is_invisible(&stored);
            let (after, event) = apply(&stored, step, wall);
            if is_invisible(&after) {
                let twins_step = if was_invisible || matches!(step, Step::Connect { .. }) {
                    step.without_invisible()
                } else {
                    Some(step.clone())
                };
                let mut twins_event = None;
                if let Some(step) = twins_step {
                    (twin, twins_event) = apply(&twin, &step, wall);
                }
                prop_assert_eq!(told(&event), told(&twins_event));
                prop_assert_eq!(public(&after), public(&twin));
            } else {
                if was_invisible {
                    let (twin_after, twins_event) = apply(&twin, step, wall);
                    if reached(&after) == reached(&twin_after) {
                        prop_assert_eq!(told(&event), told(&twins_event));
                        prop_assert_eq!(public(&after), public(&twin_after));
                    }
                }
                twin = after.clone();
            }
            stored = after;
        }
    }

    /// `docs/protocol.md`, *Event*, and *User* on `version`.
    #[test]
    fn there_is_an_event_and_a_version_for_each_change_that_others_can_see_and_for_no_other(
        history in a_history(),
    ) {
        for (before, after, event, wall) in moments(&history) {
            let (old, new) = (Users::version(&before), Users::version(&after));
            prop_assert_eq!(event.is_some(), is_distinguished(&before, &after));
            let Some(event) = event else {
                prop_assert_eq!(old, new);
                continue;
            };
            prop_assert_eq!(new, (old + 1).max(u64::try_from(wall.0).unwrap()));
            prop_assert_eq!(event.version, new);
            let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
            prop_assert_eq!(&body["created_at"], &json!(wall.to_string()));
            if let Some(record) = after.record() {
                let view: serde_json::Value = serde_json::from_str(&public(&after)).unwrap();
                prop_assert_eq!(&body["user"], &view);
                prop_assert_eq!(record.changed_by, Some(DAEMON));
            } else {
                let gone = json!({"id": "john", "online": false, "status": null,
                    "last_active": null, "offline_since": null, "availability": "offline",
                    "version": new});
                prop_assert_eq!(&body["user"], &gone);
            }
        }
    }

    /// `docs/protocol.md`, *User*, `updated_at`, and *Basics*: no time moves backwards.
    #[test]
    fn times_move_when_they_must_and_never_backwards(history in a_history()) {
        for (before, after, _, wall) in moments(&history) {
            let (Some(old), Some(new)) = (before.record(), after.record()) else { continue };
            prop_assert_eq!(old.created_at, new.created_at);
            if old.status == new.status && old.custom == new.custom {
                prop_assert_eq!(old.updated_at, new.updated_at);
            } else {
                prop_assert_eq!(new.updated_at, old.updated_at.max(wall));
            }
            prop_assert!(new.offline_since >= old.offline_since);
            prop_assert!(new.shown_offline_since >= old.shown_offline_since);
            prop_assert!(new.last_active >= old.last_active);
            prop_assert!(new.shown_last_active >= old.shown_last_active);
            prop_assert!(new.shown_last_active <= new.last_active);
        }
    }

    /// `docs/protocol.md`, *disconnect*.
    #[test]
    fn only_what_would_be_seen_leaves_and_nothing_leaves_unseen(history in a_history()) {
        for (before, after, event, _) in moments(&history) {
            let Some(record) = after.record() else { continue };
            prop_assert!(!record.invisible || record.leaving.is_empty());
            let had = before.record().map_or(0, |before| before.leaving.len());
            if record.leaving.len() > had {
                prop_assert!(event.is_none(), "a connection that leaves counts as before");
            }
            if record.invisible || !record.is_online() {
                let view: serde_json::Value = serde_json::from_str(&public(&after)).unwrap();
                prop_assert_eq!(&view["availability"], "offline");
                prop_assert!(view.get("devices").is_none());
            }
        }
    }

    #[test]
    fn a_record_is_kept_whole_and_its_size_is_bounded(history in a_history()) {
        for (_, after, ..) in moments(&history) {
            if let Stored::Present(record) = &after {
                let kept = Users::keep(Arc::clone(record));
                prop_assert_eq!(Users::kept_change(&kept), (record.version, record.changed_by));
                prop_assert_eq!(&Users::restore(&kept), record);
                let bound = view::view_bound(&id("john"), record);
                prop_assert!(view::largest_view(&id("john"), record) <= bound);
            }
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written(history in a_history()) {
        for (_, after, ..) in moments(&history) {
            if let Some(record) = after.record() {
                let again = Users::decode(&Users::encode(record));
                prop_assert_eq!(again.as_ref().ok(), Some(record));
            }
        }
    }
}
