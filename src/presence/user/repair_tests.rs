//! Tests of others' view after the store lost the newest record of a user.

use std::sync::Arc;

use super::*;
use crate::presence::refusal::Refusal;
use crate::presence::time::Time;

const DAEMON: DaemonId = DaemonId(7);
const NOW: i64 = 2000;

/// A user that is online, with a version and a status.
fn online(version: u64, status: &str) -> Record {
    let connection = Connection {
        id: Id::parse("c", "id").unwrap(),
        lease: None,
        device: None,
        idle: false,
        generation: 1,
        unknown: None,
    };
    Record {
        status: (!status.is_empty()).then(|| status.into()),
        connections: vec![connection],
        ..Record::new(Time(1000), version)
    }
}

fn invisible(version: u64) -> Record {
    Record { invisible: true, ..online(version, "") }
}

fn present(record: Record) -> Stored<Record> {
    Stored::Present(Arc::new(record))
}

fn absent(version: u64) -> Stored<Record> {
    Stored::Absent { version, changed_by: None }
}

/// The version that is stored, whether it is shown online, and the version that is announced.
fn repaired(lost: Stored<Record>, found: Stored<Record>) -> Option<(u64, bool, Option<u64>)> {
    let command = Users::repair(&lost, &found)?;
    let (rules, now) = (Rules::new(50, true), Now::local(0, Time(NOW)));
    let decided: Result<_, Refusal> =
        Users::decide(&Id::parse("u", "id").unwrap(), &found, &command, &rules, DAEMON, now);
    let decision = decided.unwrap();
    let next = decision.next?;
    let is_online = shown(next.record()).online;
    Some((Users::version(&next), is_online, decision.event.map(|event| event.version)))
}

#[test]
fn a_version_never_goes_back_and_a_difference_is_announced() {
    let lost = || present(online(5000, "new"));
    assert_eq!(repaired(lost(), present(online(10, "old"))), Some((5001, true, Some(5001))));
    assert_eq!(repaired(lost(), present(online(10, "new"))), Some((5000, true, None)));
    assert_eq!(repaired(lost(), absent(0)), Some((5001, false, Some(5001))));
    assert_eq!(repaired(lost(), present(online(5002, "x"))), None, "others know it already");
    assert_eq!(repaired(lost(), lost()), None);
}

#[test]
fn a_user_whom_nobody_saw_online_needs_a_marker_only_if_its_version_is_ahead_of_the_clock() {
    assert_eq!(repaired(present(invisible(10)), absent(0)), None);
    assert_eq!(repaired(present(invisible(5000)), absent(0)), Some((5000, false, None)));
    assert_eq!(repaired(present(invisible(0)), absent(0)), None);
}

#[test]
fn a_user_who_was_invisible_or_deleted_does_not_come_back_into_view() {
    assert_eq!(
        repaired(present(invisible(500)), present(online(10, ""))),
        Some((500, false, None))
    );
    assert_eq!(repaired(absent(500), present(online(10, ""))), Some((500, false, None)));
    assert_eq!(
        repaired(present(online(500, "")), present(invisible(10))),
        Some((2000, false, Some(2000)))
    );
}

#[test]
fn a_change_on_top_of_what_came_back_is_taken_back_by_a_newer_version() {
    // The deletion had version 500, as had the change that was decided before the repair.
    let (lost, found) = (absent(500), present(online(500, "changed")));
    let command = Command::Repair { lost: Box::new(lost) };
    let (rules, now) = (Rules::new(50, true), Now::local(0, Time(NOW)));
    let id = Id::parse("u", "id").unwrap();
    let decision = Users::decide(&id, &found, &command, &rules, DAEMON, now).unwrap();
    let next = decision.next.unwrap();
    assert_eq!((next.record(), Users::version(&next)), (None, 2000));
    assert_eq!(decision.event.map(|event| event.version), Some(2000));
}
