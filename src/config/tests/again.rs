//! Settings that are read a second time.

use super::super::Loaded;
use super::Given;

fn loaded(file: &str) -> Loaded {
    let given = Given::file(file);
    let reader = given.read().unwrap();
    Loaded { settings: given.load().unwrap(), reader }
}

#[test]
fn changes_are_named_and_told_apart_by_whether_they_need_a_restart() {
    let before = loaded("");
    let after = loaded(
        "[nats]\nuser = \"u\"\npassword = \"p\"\n[limits]\npending_scans = 1\n\
         [log]\nlevel = \"warn\"\nformat = \"json\"\n[channel_types.team]\npresence = false\n",
    );
    assert_eq!(after.live_changes(&before), ["limits.pending_scans", "log.level"]);
    let fixed = ["nats.user", "nats.password", "log.format", "channel_types"];
    assert_eq!(after.fixed_changes(&before), fixed);
    assert_eq!(before.live_changes(&after), ["limits.pending_scans", "log.level"]);
    assert!(after.fixed_changes(&after).is_empty());
}

#[test]
fn a_default_that_is_written_down_is_no_change() {
    let after = loaded("[store]\nreplicas = 1\n[limits]\npending_requests = 8192\n");
    assert!(
        after.live_changes(&loaded("")).is_empty() && after.fixed_changes(&loaded("")).is_empty()
    );
}
