use super::*;
use crate::presence::time::Time;

const NOTHING: [usize; 0] = [];

fn id(text: &str) -> Id {
    Id::parse(text, "id").unwrap()
}

fn key() -> ChannelKey {
    ChannelKey::from_cid("team:x").unwrap()
}

/// A channel of `ann`, who is online, and of `bob`, who is not; announced at 0.
fn announced() -> Occupancy {
    let mut occupancy = Occupancy::default();
    let is_online = |user: &Id| user.as_str() == "ann";
    occupancy.on_members(&key(), &[id("ann"), id("bob")], 1000, is_online, 0);
    let due = occupancy.due(0, 9, |_| 0);
    assert_eq!(due[0].counts, Counts { online: 1, members: 2 });
    occupancy.on_announced(&key(), 1000, due[0].counts, 7, 0);
    occupancy
}

fn due(occupancy: &mut Occupancy, now_ms: u64) -> Vec<usize> {
    occupancy.due(now_ms, 9, |_| 0).iter().map(|each| each.counts.online).collect()
}

#[test]
fn a_change_is_due_an_interval_after_the_last_announcement() {
    let mut occupancy = announced();
    occupancy.on_user(&id("bob"), true, 300);
    occupancy.on_user(&id("bob"), true, 400);
    occupancy.on_user(&id("eve"), true, 400);
    assert_eq!(due(&mut occupancy, 999), NOTHING);
    assert_eq!(due(&mut occupancy, 1000), [2]);
    let mut second = |now_ms| occupancy.due(now_ms, 9, |_| 1000).len();
    assert_eq!((second(1999), second(2000)), (0, 1), "the turn of another daemon");
}

#[test]
fn what_is_announced_already_is_not_due() {
    let mut occupancy = announced();
    occupancy.on_user(&id("bob"), true, 100);
    occupancy.on_user(&id("bob"), false, 200);
    assert_eq!(due(&mut occupancy, 5000), NOTHING);
    occupancy.on_user(&id("bob"), true, 5000);
    occupancy.on_announced(&key(), 1000, Counts { online: 2, members: 2 }, 8, 5001);
    assert_eq!(due(&mut occupancy, 9000), NOTHING, "another daemon announced it");
    occupancy.on_announced(&key(), 1000, Counts { online: 9, members: 9 }, 6, 5002);
    assert_eq!(due(&mut occupancy, 9000), NOTHING, "an older announcement");
}

#[test]
fn members_who_leave_or_join_are_counted() {
    let mut occupancy = announced();
    occupancy.on_members(
        &key(),
        &[id("bob"), id("eve"), id("jim"), id("jim")],
        1000,
        |_| true,
        100,
    );
    let counts = occupancy.due(2000, 9, |_| 0)[0].counts;
    assert_eq!(counts, Counts { online: 2, members: 3 });
    occupancy.on_user(&id("ann"), false, 100);
    assert_eq!(due(&mut occupancy, 2000), [2], "ann is no member");
    occupancy.on_members(&key(), &[], 1000, |_| true, 200);
    assert_eq!(due(&mut occupancy, 2000), [0], "the end of a channel is announced");
    occupancy.on_announced(&key(), 1000, Counts::default(), 9, 2000);
    assert!(occupancy.members.is_empty());
}

#[test]
fn what_is_only_assumed_is_announced_once_a_daemon_is_gone() {
    let mut occupancy = Occupancy::default();
    occupancy.on_members(&key(), &[id("ann")], 1000, |_| true, 0);
    occupancy.assume_announced();
    assert_eq!(due(&mut occupancy, 9000), NOTHING);
    occupancy.announce_assumed(9000);
    assert_eq!(due(&mut occupancy, 9000), [1]);
    occupancy.on_announced(&key(), 1000, Counts { online: 1, members: 1 }, 1, 9000);
    occupancy.announce_assumed(20_000);
    assert_eq!(due(&mut occupancy, 20_000), NOTHING);
}

#[test]
fn an_announcement_has_a_version_that_grows() {
    let announcement = Announcement { key: key(), counts: Counts::default(), after: 41 };
    let at = |wall| announcement.version(Time(wall));
    assert_eq!((at(7), at(42), at(50)), (42, 42, 50));
    let body = announcement.body(42, Time(0));
    assert_eq!(
        String::from_utf8(body).unwrap(),
        "{\"type\":\"channel.presence.changed\",\"created_at\":\"1970-01-01T00:00:00.000Z\",\
         \"channel\":{\"type\":\"team\",\"id\":\"x\",\"cid\":\"team:x\",\"online_count\":0,\
         \"member_count\":0,\"version\":42}}"
    );
}

#[test]
fn a_channel_that_changes_all_the_time_keeps_no_other_waiting() {
    let mut occupancy = Occupancy::default();
    let keys = ["team:a", "team:b"].map(|cid| ChannelKey::from_cid(cid).unwrap());
    for key in &keys {
        occupancy.on_members(key, &[id("ann")], 100, |_| true, 0);
    }
    let mut first = |now_ms| {
        let due = occupancy.due(now_ms, 1, |_| 0).remove(0);
        let nobody = Counts { online: 0, members: 1 };
        occupancy.on_announced(&due.key, 100, nobody, now_ms + 1, now_ms);
        due.key
    };
    // The announced counts differ at once.
    assert_eq!([first(200), first(400), first(600)].each_ref(), [&keys[0], &keys[1], &keys[0]]);
}

#[test]
fn a_change_is_looked_at_only_in_its_turn() {
    let mut occupancy = announced();
    occupancy.on_user(&id("bob"), true, 300);
    let looks = std::cell::Cell::new(0);
    let wait_ms = |_: &ChannelKey| {
        looks.set(looks.get() + 1);
        1000
    };
    let due: usize = (0..2000).map(|now_ms| occupancy.due(now_ms, 9, wait_ms).len()).sum();
    assert_eq!((due, looks.get()), (0, 1));
    assert_eq!(occupancy.due(2000, 9, wait_ms).len(), 1);
}

const NOBODY: Counts = Counts { online: 0, members: 0 };

#[test]
fn an_emptied_channel_keeps_its_interval_and_its_version() {
    let mut occupancy = announced();
    occupancy.on_members(&key(), &[], 1000, |_| true, 1500);
    assert_eq!(due(&mut occupancy, 1500), [0]);
    occupancy.on_announced(&key(), 1000, NOBODY, 900, 1500);
    occupancy.forget(1600, Time(500));
    occupancy.on_members(&key(), &[id("ann")], 1000, |_| true, 1700);
    assert_eq!(due(&mut occupancy, 2499), NOTHING, "a second event within the interval");
    let next = occupancy.due(2500, 9, |_| 0).remove(0);
    assert_eq!(next.version(Time(500)), 901, "by a clock that is behind");
}

#[test]
fn an_emptied_channel_is_forgotten_once_the_clock_has_passed_its_version() {
    let mut occupancy = announced();
    occupancy.on_members(&key(), &[], 1000, |_| true, 1000);
    occupancy.on_announced(&key(), 1000, NOBODY, 900, 2000);
    let mut known = |now_ms, stream| {
        occupancy.forget(now_ms, Time(stream));
        occupancy.channels()
    };
    assert_eq!([known(12_999, 2000), known(13_000, 900), known(23_000, 901)], [1, 1, 0]);
}

#[test]
fn a_channel_that_was_filled_and_emptied_again_is_remembered_from_then_on() {
    let mut occupancy = announced();
    occupancy.on_members(&key(), &[], 1000, |_| true, 1000);
    occupancy.on_announced(&key(), 1000, NOBODY, 8, 1000);
    occupancy.on_members(&key(), &[id("ann")], 1000, |_| true, 9000);
    occupancy.on_members(&key(), &[], 1000, |_| true, 10_000);
    occupancy.forget(19_000, Time(100));
    assert_eq!(occupancy.channels(), 1);
    occupancy.forget(21_000, Time(100));
    assert_eq!(occupancy.channels(), 0);
}

#[test]
fn what_is_sent_counts_as_announced_once_it_is_heard() {
    let mut occupancy = announced();
    occupancy.on_user(&id("bob"), true, 1000);
    let first = occupancy.due(1000, 9, |_| 0).remove(0);
    occupancy.on_sent(&key(), first.version(Time(50)), 1000);
    assert_eq!(due(&mut occupancy, 2999), NOTHING, "it may be under way");
    let second = occupancy.due(3000, 9, |_| 0).remove(0);
    assert_eq!((second.counts.online, second.version(Time(40))), (2, 51), "it was lost");
    occupancy.on_sent(&key(), 51, 3000);
    occupancy.on_announced(&key(), 1000, second.counts, 51, 3001);
    assert_eq!(due(&mut occupancy, 99_000), NOTHING);
}

#[test]
fn the_announcement_of_a_channel_that_the_replica_does_not_have_yet_counts() {
    let mut occupancy = Occupancy::default();
    let counts = Counts { online: 1, members: 1 };
    occupancy.on_announced(&key(), 1000, counts, 7, 0);
    occupancy.on_members(&key(), &[id("ann")], 1000, |_| true, 100);
    assert_eq!(due(&mut occupancy, 99_000), NOTHING);
    occupancy.on_members(&key(), &[], 1000, |_| true, 100_000);
    assert_eq!(occupancy.due(100_000, 9, |_| 0)[0].after, 7);
}

#[test]
fn a_channel_that_is_not_there_is_corrected_an_interval_later() {
    let mut occupancy = Occupancy::default();
    occupancy.on_announced(&key(), 1000, Counts { online: 1, members: 1 }, 7, 0);
    assert_eq!((due(&mut occupancy, 999), due(&mut occupancy, 1000)), (NOTHING.into(), vec![0]));
}

#[test]
fn two_announcements_of_one_version_are_followed_by_a_third() {
    let mut occupancy = announced();
    let same = Counts { online: 1, members: 2 };
    occupancy.on_announced(&key(), 1000, same, 7, 10);
    assert_eq!(due(&mut occupancy, 99_000), NOTHING);
    occupancy.on_announced(&key(), 1000, Counts { online: 2, members: 2 }, 7, 10);
    assert_eq!(due(&mut occupancy, 1000), [1]);
}

#[test]
fn what_may_have_been_missed_is_announced_once_a_daemon_is_gone() {
    let mut occupancy = announced();
    occupancy.announce_assumed(5000);
    assert_eq!(due(&mut occupancy, 5000), NOTHING);
    occupancy.on_missed();
    assert_eq!(due(&mut occupancy, 5000), NOTHING);
    occupancy.announce_assumed(5000);
    assert_eq!(due(&mut occupancy, 5000), [1]);
}

#[test]
fn a_change_does_not_wait_for_channels_that_may_have_been_announced() {
    let mut occupancy = Occupancy::default();
    let keys = ["team:a", "team:b", "team:c"].map(|cid| ChannelKey::from_cid(cid).unwrap());
    for (key, user) in keys.iter().zip(["ann", "bob", "eve"]) {
        occupancy.on_members(key, &[id(user)], 1000, |_| false, 0);
    }
    occupancy.assume_announced();
    occupancy.announce_assumed(0);
    let next = |occupancy: &mut Occupancy| {
        let next = occupancy.due(10, 1, |_| 0).remove(0);
        occupancy.on_announced(&next.key, 1000, next.counts, 7, 10);
        (next.key, next.counts.online)
    };
    occupancy.on_user(&id("eve"), true, 5);
    assert_eq!(next(&mut occupancy), (keys[2].clone(), 1));
    assert_eq!(next(&mut occupancy), (keys[0].clone(), 0));
    assert_eq!(next(&mut occupancy), (keys[1].clone(), 0));
    assert!(occupancy.due(10, 9, |_| 0).is_empty());
    occupancy.on_user(&id("bob"), true, 20);
    assert_eq!(due(&mut occupancy, 1010), [1]);
}
