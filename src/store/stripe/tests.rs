//! For each input exactly these effects, and nothing left over.

mod rig;

use super::*;
use crate::presence::user::{Command, Record, Users};
use rig::{OWN, Rig, connect, disconnect, id, john, other, rig, status};

#[test]
fn a_write_that_is_acknowledged_is_announced_then_answered() {
    let mut rig = rig();
    assert_eq!(rig.command(1, connect("a"), 0), ["write 1 on 0 shows 1000"]);
    assert_eq!(rig.acked(1, 7, 3), ["announce 1000", "answer 1 at 7"]);
    assert!(rig.fed(rig.own(7)).is_empty());
    rig.is_done();
}

#[test]
fn commands_during_a_write_join_the_next_and_keep_an_event_each() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    for (ticket, text) in [(2, "x"), (3, "y"), (4, "z")] {
        assert!(rig.command(ticket, status(text), 1).is_empty());
    }
    assert_eq!(
        rig.acked(1, 7, 2),
        ["announce 1000", "answer 1 at 7", "write 2 on 7 shows 1004"],
        "each of the three changes has a version of its own, and the write shows the last"
    );
    assert_eq!(
        rig.acked(2, 8, 3),
        [
            "announce 1002",
            "answer 2 at 8",
            "announce 1003",
            "answer 3 at 8",
            "announce 1004",
            "answer 4 at 8"
        ]
    );
    rig.is_done();
}

#[test]
fn a_conflict_waits_for_the_feed_to_explain_it() {
    let mut rig = rig();
    rig.command(1, connect("a"), 5);
    assert!(rig.conflicted(1, 6).is_empty());
    let theirs = other(&Stored::default(), &connect("b"), 4);
    assert_eq!(rig.fed(theirs), ["changed by 2", "write 2 on 4 shows nothing"]);
    assert_eq!(rig.acked(2, 5, 8), ["answer 1 at 5"]);
    rig.is_done();
}

#[test]
fn a_conflict_that_the_feed_has_explained_is_decided_again_at_once() {
    let mut rig = rig();
    rig.command(1, connect("a"), 5);
    let theirs = other(&Stored::default(), &connect("b"), 4);
    assert_eq!(rig.fed(theirs), ["changed by 2"]);
    assert_eq!(rig.conflicted(1, 6), ["write 2 on 4 shows nothing"]);
    assert_eq!(rig.acked(2, 5, 8), ["answer 1 at 5"]);
    rig.is_done();
}

#[test]
fn a_conflict_that_the_feed_does_not_explain_is_read() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.conflicted(1, 6);
    assert!(rig.tick(25).is_empty());
    assert_eq!(rig.tick(26), ["read 2"]);
    let theirs = other(&Stored::default(), &connect("b"), 4);
    assert_eq!(rig.found(2, Found::Entry(theirs)), ["changed by 2", "write 3 on 4 shows nothing"]);
    rig.acked(3, 5, 30);
    rig.is_done();
}

#[test]
fn after_too_many_conflicts_the_command_is_contended() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    for (write, rev) in [(1, 4), (2, 5), (3, 6)] {
        rig.fed(other(&Stored::default(), &connect("b"), rev));
        assert_eq!(
            rig.conflicted(write, 1),
            [format!("write {} on {rev} shows nothing", write + 1)]
        );
    }
    assert_eq!(rig.conflicted(4, 1), ["answer 1 contended"]);
    rig.is_done();
}

#[test]
fn a_command_that_changes_nothing_waits_for_the_proof() {
    let mut rig = rig();
    assert_eq!(rig.command(1, disconnect("a"), 0), ["verify 1"]);
    assert_eq!(rig.command(2, disconnect("b"), 0), ["verify 2"]);
    assert_eq!(rig.verified(1), ["answer 1 at 0"]);
    assert_eq!(rig.verified(2), ["answer 2 at 0"]);
    rig.is_done();
}

#[test]
fn a_command_that_changes_nothing_is_decided_again_after_news_from_the_feed() {
    let mut rig = rig();
    assert_eq!(rig.command(1, disconnect("b"), 5), ["verify 1"]);
    let theirs = other(&Stored::default(), &connect("b"), 4);
    assert_eq!(rig.fed(theirs), ["changed by 2", "write 2 on 4 shows 1001"]);
    assert!(rig.verified(1).is_empty());
    assert_eq!(rig.acked(2, 5, 8), ["announce 1001", "answer 1 at 5"]);
    rig.is_done();
}

#[test]
fn a_command_that_changes_nothing_is_proven_by_the_write_that_it_joins() {
    let mut rig = rig();
    assert_eq!(rig.command(1, disconnect("a"), 0), ["verify 1"]);
    assert_eq!(rig.command(2, connect("a"), 0), ["write 2 on 0 shows 1000"]);
    assert_eq!(rig.acked(2, 3, 1), ["answer 1 at 3", "announce 1000", "answer 2 at 3"]);
    assert!(rig.verified(1).is_empty());
    rig.is_done();
}

#[test]
fn without_an_acknowledgement_a_read_finds_the_write() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert!(rig.tick(499).is_empty());
    assert_eq!(rig.tick(500), ["read 2"]);
    let own = rig.own(4);
    assert_eq!(rig.found(2, Found::Entry(own)), ["announce 1000", "answer 1 at 4"]);
    assert!(rig.acked(1, 4, 600).is_empty());
    rig.is_done();
}

#[test]
fn a_read_that_gets_no_answer_is_repeated() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert_eq!(rig.tick(500), ["read 2"]);
    assert!(rig.found(2, Found::Failed).is_empty());
    assert!(rig.tick(1499).is_empty());
    assert_eq!(rig.tick(1500), ["read 3"]);
    assert!(rig.found(2, Found::Nothing).is_empty(), "an answer to the first read is too late");
    assert_eq!(rig.acked(1, 4, 1600), ["announce 1000", "answer 1 at 4"]);
    rig.is_done();
}

#[test]
fn a_write_that_was_lost_is_decided_again() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.tick(500);
    assert_eq!(rig.found(2, Found::Nothing), ["write 3 on 0 shows 1000"]);
    assert_eq!(rig.acked(3, 4, 600), ["announce 1000", "answer 1 at 4"]);
    rig.is_done();
}

#[test]
fn without_a_leader_a_write_is_tried_again_until_its_deadline() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert!(rig.failed(1, 10).is_empty());
    assert!(rig.tick(84).is_empty());
    assert_eq!(rig.tick(85), ["write 2 on 0 shows 1085"]);
    assert!(rig.failed(2, 1990).is_empty());
    assert_eq!(rig.tick(2000), ["answer 1 unavailable"]);
    assert!(rig.tick(2100).is_empty());
    rig.is_done();
}

#[test]
fn a_stalled_daemon_refuses_a_command_past_its_deadline() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.command(2, connect("b"), 0);
    assert_eq!(
        rig.acked(1, 7, 3000),
        ["announce 1000", "answer 1 at 7", "answer 2 unavailable"],
        "the first is stored, and the second must not be written any more"
    );
    rig.is_done();
}

#[test]
fn the_feed_may_show_a_write_before_its_acknowledgement() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert_eq!(rig.fed(rig.own(4)), ["announce 1000", "answer 1 at 4"]);
    assert!(rig.acked(1, 4, 1).is_empty());
    rig.is_done();
}

/// A machine that has abandoned a write which is still in flight.
fn stored(entry: &Entry) -> Stored<Record> {
    entry.content.decode::<Users>().unwrap()
}

fn with_abandoned_write() -> Rig {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert_eq!(rig.tick(2000), ["answer 1 unavailable", "read 2"]);
    assert!(rig.found(2, Found::Nothing).is_empty());
    rig.is_done();
    rig
}

#[test]
fn an_abandoned_write_is_announced_when_it_is_stored_after_all() {
    let mut rig = with_abandoned_write();
    assert_eq!(rig.fed(rig.own(4)), ["announce 1000"]);
    rig.is_done();
}

#[test]
fn a_deleted_record_is_known_until_its_last_marker_has_expired() {
    const DAY_MS: u64 = 86_400_000;
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.acked(1, 1, 0);
    rig.fed(rig.own(1));
    rig.command(2, Command::Delete { only: None }, 0);
    rig.acked(2, 2, 0);
    rig.fed(rig.own(2));
    // The marker stands for as long as records below it are written once more.
    rig.tick(3 * DAY_MS);
    let last = Entry { rev: 9, expires: true, ..rig.own(2) };
    assert_eq!(rig.fed_after(last, 3 * DAY_MS), 2);
    rig.tick(4 * DAY_MS);
    assert!(rig.machine.known(&john()).is_some());
    rig.tick(5 * DAY_MS);
    assert_eq!(rig.machine.known(&john()), None);
}

#[test]
fn an_abandoned_write_is_announced_under_an_invisible_change_by_another_daemon() {
    let mut rig = with_abandoned_write();
    let covered = other(&stored(&rig.own(4)), &connect("b"), 5);
    assert_eq!(rig.fed(covered), ["announce 1000"]);
    rig.is_done();
}

#[test]
fn an_event_announced_before_the_acknowledgement_is_not_announced_again() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    let covered = other(&stored(&rig.own(4)), &connect("b"), 5);
    assert_eq!(rig.fed(covered), ["announce 1000"]);
    assert_eq!(rig.acked(1, 4, 1), ["answer 1 at 4"]);
    rig.is_done();
}

#[test]
fn a_command_that_may_have_been_stored_is_not_refused_as_if_nothing_had_changed() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert_eq!(rig.tick(500), ["read 2"]);
    let one = other(&Stored::default(), &connect("b"), 8);
    let both = other(&stored(&one), &connect("c"), 9);
    assert_eq!(rig.found(2, Found::Entry(both)), ["changed by 2", "answer 1 unavailable"]);
    assert_eq!(rig.command(2, connect("a"), 0), ["verify 3"]);
    assert_eq!(rig.verified(3), ["answer 2 limit_exceeded"], "this command was never written");
    rig.is_done();
}

/// The entry with which another daemon ends the connection that our write made.
fn undone(rig: &Rig) -> Entry {
    Entry { base: Some(4), ..other(&stored(&rig.own(4)), &disconnect("a"), 5) }
}

#[test]
fn a_write_that_may_have_been_undone_is_not_carried_out_again() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert_eq!(rig.tick(500), ["read 2"]);
    let undone = undone(&rig);
    assert_eq!(rig.found(2, Found::Entry(undone)), ["changed by 2", "answer 1 unavailable"]);
    rig.is_done();
}

#[test]
fn a_write_that_was_lost_and_then_stored_is_not_carried_out_again() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.tick(500);
    assert_eq!(rig.found(2, Found::Nothing), ["write 3 on 0 shows 1000"]);
    let undone = undone(&rig);
    assert_eq!(rig.fed(undone), ["changed by 2"]);
    assert_eq!(rig.conflicted(3, 600), ["answer 1 unavailable"]);
    rig.is_done();
}

#[test]
fn a_write_in_whose_place_another_is_stored_is_decided_again() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.tick(500);
    let theirs = Entry { base: Some(0), ..other(&Stored::default(), &connect("b"), 4) };
    assert_eq!(rig.found(2, Found::Entry(theirs)), ["changed by 2", "write 3 on 4 shows nothing"]);
    assert_eq!(rig.acked(3, 5, 600), ["answer 1 at 5"]);
    rig.is_done();
}

#[test]
fn in_a_new_bucket_no_user_is_known() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.acked(1, 70, 1);
    let heard = |rig: &Rig| rig.machine.index().agenda.heard(&john(), &id("a")).is_some();
    assert!(heard(&rig));
    assert!(rig.stream_lost().is_empty());
    assert_eq!(rig.replayed(1), ["lost 1000"]);
    assert!(rig.machine.record(&john()).is_none());
    assert!(!heard(&rig));
    assert_eq!(rig.command(2, disconnect("a"), 2), ["verify 2"]);
    assert_eq!(rig.verified(2), ["answer 2 at 0"]);
    assert_eq!(rig.command(3, connect("a"), 2), ["write 3 on 0 shows 1002"]);
    assert_eq!(
        rig.acked(3, 1, 3),
        ["announce 1002", "answer 3 at 1"],
        "revisions start from 1 again"
    );
    rig.is_done();
}

#[test]
fn an_acknowledgement_from_before_the_new_bucket_proves_nothing() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    assert!(rig.stream_lost().is_empty());
    assert_eq!(rig.acked(1, 70, 1), ["read 2"]);
    assert!(rig.found(2, Found::Nothing).is_empty(), "nothing is decided during the replay");
    assert_eq!(rig.replayed(2), ["write 3 on 0 shows 1002"]);
    assert_eq!(rig.acked(3, 1, 3), ["announce 1002", "answer 1 at 1"]);
    rig.is_done();
}

#[test]
fn a_replay_leaves_what_it_finds_as_it_was_and_takes_older_records() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.acked(1, 7, 1);
    let first = rig.own(7);
    let heard = |rig: &Rig| rig.machine.index().agenda.heard(&john(), &id("a"));
    let heard_before = heard(&rig);
    rig.stream_lost();
    assert!(rig.fed(rig.own(7)).is_empty());
    assert!(rig.replayed(2).is_empty());
    assert_eq!(heard(&rig), heard_before);

    rig.command(2, status("x"), 3);
    rig.acked(2, 8, 4);
    rig.stream_lost();
    assert_eq!(rig.fed(first), ["lost 1003"]);
    assert!(rig.command(3, status("y"), 5).is_empty());
    assert_eq!(rig.replayed(6), ["write 3 on 7 shows 1006"]);
    rig.acked(3, 8, 7);
    rig.is_done();
}

#[test]
fn a_leader_that_holds_less_than_was_known_is_suspect() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.acked(1, 7, 1);
    rig.command(2, status("x"), 2);
    rig.conflicted(2, 3);
    assert_eq!(rig.tick(23), ["read 3"]);
    let older = other(&Stored::default(), &connect("b"), 4);
    assert_eq!(rig.found(3, Found::Entry(older)), ["suspect", "write 4 on 7 shows 1001"]);
}

#[test]
fn a_deletion_leaves_its_version_until_its_marker_has_expired_and_after() {
    let mut rig = rig();
    rig.command(1, connect("a"), 50);
    rig.acked(1, 1, 50);
    assert_eq!(rig.command(2, Command::Delete { only: None }, 0), ["write 2 on 1 shows 1051"]);
    assert_eq!(rig.acked(2, 2, 0), ["announce 1051", "answer 2 at 2"]);
    assert_eq!(rig.known(), Stored::Absent { version: 1051, changed_by: Some(OWN) });
    assert_eq!(rig.command(3, connect("a"), 0), ["write 3 on 2 shows 1052"]);
    rig.conflicted(3, 0);
    assert_eq!(rig.tick(20), ["read 4"]);
    assert_eq!(rig.found(4, Found::Nothing), ["write 5 on 0 shows 1052"]);
    assert_eq!(rig.acked(5, 9, 30), ["announce 1052", "answer 3 at 9"]);
    rig.is_done();
}

#[test]
fn an_abandoned_write_is_announced_under_an_invisible_deletion_by_another_daemon() {
    let mut rig = rig();
    rig.command(1, connect("a"), 0);
    rig.acked(1, 1, 0);
    assert_eq!(rig.command(2, disconnect("a"), 0), ["write 2 on 1 shows 1001"]);
    assert_eq!(rig.tick(2000), ["answer 2 unavailable", "read 3"]);
    let offline = stored(&rig.own(2));
    assert_eq!(rig.fed(other(&offline, &Command::Delete { only: None }, 3)), ["announce 1001"]);
    rig.is_done();
}
