use std::cell::RefCell;

use super::*;
use crate::liveness::peers::Says;
use crate::presence::entity::Entity;
use crate::presence::time::Time;
use crate::presence::user::{Connection, Periods, Record, Users};

const ME: DaemonId = DaemonId(1);
const OTHER: DaemonId = DaemonId(2);
const LEASE_MS: u64 = 10_000;
/// When the first is due.
const DUE_MS: u64 = LEASE_MS + MARGIN_MS;

/// A daemon that has heard one connection, of `john`, when it began.
struct Known {
    index: RefCell<Index>,
    leases: RefCell<Leases>,
    /// What hangs on the lease `gw`.
    held: RefCell<Vec<(Id, Vec<Lifeline>)>>,
    peers: Peers,
    hearing: RefCell<Hearing>,
}

impl Known {
    fn new() -> Self {
        let mut index = Index::default();
        index.vitals.measure(Periods { lease_ms: LEASE_MS, refresh_ms: 1_000_000 });
        index.vitals.listen();
        let mut record = Record::new(Time(0), 0);
        record.connections.push(Connection { id: c(), lease: None, connects: 1, unknown: None });
        Users::observe(&mut index, &john(), None, Some(&record), at(0));
        let leases = RefCell::new(Leases::new(LEASE_MS));
        let known = Self {
            index: RefCell::new(index),
            leases,
            held: RefCell::default(),
            peers: Peers::new(ME),
            hearing: RefCell::new(Hearing::new(LEASE_MS, 0)),
        };
        for second in 0..DUE_MS / 1000 {
            known.probe(second * 1000);
        }
        known
    }

    /// Two users connect on a shared lease.
    fn connect_on_lease(&self) {
        self.held.borrow_mut().extend([on_lease("jack"), on_lease("jill")]);
        let mut leases = self.leases.borrow_mut();
        leases.listen();
        (0..2).for_each(|_| leases.joined(&gateway(), false, 0));
    }

    /// The other is alive, though it hears nothing.
    fn meet_other(&mut self) {
        self.peers.heard(OTHER, Says { deaf: true, starting: false }, 0);
    }

    /// What the lease holds, unless it is being ended.
    fn holds(&self) -> Option<usize> {
        self.leases.borrow().held(&gateway())
    }

    /// A probe goes out and comes back.
    fn probe(&self, now_ms: u64) {
        let mut hearing = self.hearing.borrow_mut();
        let number = hearing.probe(now_ms);
        if hearing.asks_bucket(now_ms) {
            hearing.bucket_answered(true);
        }
        [0, 1].into_iter().for_each(|lane| hearing.probed(lane, number, now_ms));
    }

    fn beat(&self, at_ms: u64) {
        self.index.borrow_mut().vitals.heartbeat(&john(), &c(), at_ms);
    }
}

impl Knowledge for Known {
    fn each_index(&self, mut work: impl FnMut(&mut Index)) {
        work(&mut self.index.borrow_mut());
    }

    fn index_of<R>(&self, _: &Id, work: impl FnOnce(&mut Index) -> R) -> R {
        work(&mut self.index.borrow_mut())
    }

    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R {
        work(&mut self.leases.borrow_mut())
    }

    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<Lifeline>)> {
        if *lease == gateway() { self.held.borrow().clone() } else { Vec::new() }
    }

    fn peers<R>(&self, ask: impl FnOnce(&Peers) -> R) -> R {
        ask(&self.peers)
    }

    fn hearing<R>(&self, ask: impl FnOnce(&Hearing) -> R) -> R {
        ask(&self.hearing.borrow())
    }
}

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall: Time(0) }
}

fn john() -> Id {
    Id::parse("john", "id").unwrap()
}

fn c() -> Id {
    Id::parse("c", "id").unwrap()
}

fn gateway() -> Id {
    Id::parse("gw", "lease").unwrap()
}

fn on_lease(user: &str) -> (Id, Vec<Lifeline>) {
    (Id::parse(user, "id").unwrap(), vec![Lifeline { connection: c(), connects: 1 }])
}

/// Another daemon begins to end the lease, and takes a second at most.
fn begins() -> Ending {
    let named = |user: &str| (user.to_owned(), "c".to_owned(), 1);
    Ending {
        daemon: OTHER.to_string(),
        lease: "gw".to_owned(),
        done: false,
        number: 1,
        within_ms: 1000,
        connections: vec![named("jack"), named("jill")],
        from: 0,
        of: 2,
    }
}

/// A judge that has just been told of that.
fn begun_by_the_other() -> (Known, Judge) {
    let mut known = Known::new();
    known.meet_other();
    known.connect_on_lease();
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    judge.note(&known, &begins(), at(DUE_MS));
    (known, judge)
}

/// A judge that has just proposed to end the connection of `john`, and what it proposed.
fn proposed(known: &Known) -> (Judge, Candidates) {
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    assert!(judge.tick(known, at(DUE_MS - 1)).is_empty());
    let mut acts = judge.tick(known, at(DUE_MS));
    let Some(Act::Propose(candidates)) = acts.pop() else { panic!("nothing was proposed") };
    assert_eq!(candidates.connections, [("john".to_owned(), "c".to_owned(), 1)]);
    assert!(acts.is_empty());
    (judge, candidates)
}

#[test]
fn what_is_silent_is_ended_when_nobody_objects_and_the_daemon_is_known_to_hear() {
    let known = Known::new();
    let (mut judge, _) = proposed(&known);
    assert!(judge.tick(&known, at(DUE_MS + OBJECTION_MS)).is_empty(), "no probe has come back");
    known.probe(DUE_MS + OBJECTION_MS);
    let acts = judge.tick(&known, at(DUE_MS + OBJECTION_MS + 1));
    let [Act::Sentence(Sentence { user, command, deadline_ms })] = &acts[..] else {
        panic!("{acts:?}")
    };
    let Command::Lapse { lines } = command else { panic!("{command:?}") };
    assert_eq!((user, &lines[..]), (&john(), &[Lifeline { connection: c(), connects: 1 }][..]));
    assert_eq!(*deadline_ms, DUE_MS + OBJECTION_MS + 1 + LAPSE_MS);
}

#[test]
fn what_was_proposed_before_a_stop_is_not_decided_after_it() {
    let known = Known::new();
    let (mut judge, _) = proposed(&known);
    known.probe(DUE_MS + 200);
    assert!(judge.tick(&known, at(DUE_MS + DECIDED_WITHIN_MS)).is_empty());
}

#[test]
fn who_had_a_heartbeat_objects_and_who_is_told_yields() {
    let (known, other) = (Known::new(), Known::new());
    let (mut judge, candidates) = proposed(&known);
    let mut others_judge = Judge::new(OTHER, LEASE_MS, 0);
    assert!(others_judge.examine(&other, &candidates, at(DUE_MS)).is_none(), "no heartbeat came");
    other.beat(8000);
    let act = others_judge.examine(&other, &candidates, at(DUE_MS)).unwrap();
    let Act::Object { to: ME, objection } = act else { panic!("{act:?}") };
    judge.yield_to(&known, &objection, at(DUE_MS));
    known.probe(DUE_MS + OBJECTION_MS);
    assert!(judge.tick(&known, at(DUE_MS + OBJECTION_MS + 1)).is_empty());
    let due_ms = 8000 + LEASE_MS + MARGIN_MS;
    for second in DUE_MS / 1000 + 1..due_ms / 1000 {
        known.probe(second * 1000);
    }
    assert!(matches!(judge.tick(&known, at(due_ms))[..], [Act::Propose(_)]));
}

#[test]
fn of_several_that_object_the_last_to_have_heard_counts() {
    let known = Known::new();
    let (mut judge, candidates) = proposed(&known);
    for age_ms in [4000, 1000, 3000] {
        let connections = vec![(0, age_ms)];
        let objection = Objection { number: candidates.number, connections, leases: Vec::new() };
        judge.yield_to(&known, &objection, at(DUE_MS));
    }
    let heard = known.index.borrow().vitals.heard(&john(), &c()).unwrap();
    assert_eq!(heard.beat_ms, Some(DUE_MS - 1000));
}

#[test]
fn many_small_leases_are_granted_as_long_as_a_large_one() {
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    let mut small = (0..10_000).flat_map(|_| judge.lapses(vec![on_lease("jack")], 0));
    assert_eq!(small.next().unwrap().deadline_ms, LAPSE_MS);
    assert_eq!(small.last().unwrap().deadline_ms, 1000 + LAPSE_MS);
}

#[test]
fn a_daemon_that_has_become_deaf_ends_nothing() {
    let known = Known::new();
    let (mut judge, _) = proposed(&known);
    known.hearing.borrow_mut().trouble(DUE_MS + 100, "it was cut off");
    known.probe(DUE_MS + OBJECTION_MS);
    for second in 0..LEASE_MS / 1000 {
        known.probe(DUE_MS + OBJECTION_MS + second * 1000);
        assert!(judge.tick(&known, at(DUE_MS + OBJECTION_MS + second * 1000)).is_empty());
    }
}

#[test]
fn what_another_does_not_finish_is_carried_on_with_who_has_not_connected_again() {
    let (known, mut judge) = begun_by_the_other();
    assert_eq!(known.holds(), None, "its heartbeats come back unknown");
    let void_ms = DUE_MS + 1000;
    known.probe(void_ms - 500);
    known.held.borrow_mut()[0].1[0].connects += 1;
    let mut acts = judge.tick(&known, at(void_ms - 1));
    acts.retain(|act| !matches!(act, Act::Propose(_)));
    assert!(acts.is_empty(), "{acts:?}");
    let acts = judge.tick(&known, at(void_ms));
    let [Act::Tell(told), Act::EndLease { sentences, .. }, ..] = &acts[..] else {
        panic!("{acts:?}")
    };
    assert_eq!((told.done, told.within_ms), (false, LAPSE_MS));
    assert_eq!(told.connections, [("jill".to_owned(), "c".to_owned(), 1)]);
    assert_eq!(sentences.len(), 1);
    assert!(judge.close(&known, &gateway()).is_none(), "it is not done");
    known.held.borrow_mut().pop();
    let done = judge.close(&known, &gateway());
    assert!(matches!(done, Some(Act::Tell(Ending { done: true, .. }))), "{done:?}");
    assert_eq!(known.holds(), Some(2));
}

#[test]
fn what_the_dead_began_is_carried_on_without_waiting_for_their_writes() {
    let known = Known::new();
    known.connect_on_lease();
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    judge.note(&known, &Ending { within_ms: 60_000, ..begins() }, at(DUE_MS));
    known.probe(DUE_MS + 50);
    let acts = judge.tick(&known, at(DUE_MS + 50));
    assert!(matches!(acts[..], [Act::Tell(_), Act::EndLease { .. }, ..]), "{acts:?}");
}

#[test]
fn an_end_of_which_only_a_part_was_told_is_not_taken_for_begun() {
    let known = Known::new();
    known.connect_on_lease();
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    judge.note(&known, &Ending { of: 3, ..begins() }, at(DUE_MS));
    assert_eq!(known.holds(), Some(2), "it is judged as if nobody had begun");
    let acts = judge.tick(&known, at(DUE_MS));
    let proposed = |act: &Act| matches!(act, Act::Propose(of) if of.leases == ["gw"]);
    assert!(acts.iter().any(proposed), "{acts:?}");
}

#[test]
fn a_deaf_daemon_carries_nothing_on() {
    let (known, mut judge) = begun_by_the_other();
    known.hearing.borrow_mut().trouble(DUE_MS, "it was cut off");
    known.probe(DUE_MS + 900);
    assert!(judge.tick(&known, at(DUE_MS + 1000)).is_empty());
    assert_eq!(known.holds(), Some(2), "nobody ends it any more");
}

#[test]
fn who_has_heard_a_lease_does_not_take_its_end_for_begun() {
    let known = Known::new();
    known.connect_on_lease();
    let mut judge = Judge::new(ME, LEASE_MS, 0);
    known.leases.borrow_mut().rejoined(&gateway(), false, 7000);
    judge.note(&known, &begins(), at(7000 + LEASE_MS - 1));
    assert_eq!(known.holds(), Some(2), "it has connected");
    known.leases.borrow_mut().heartbeat(&gateway(), 8000);
    judge.note(&known, &begins(), at(7000 + LEASE_MS));
    assert_eq!(known.holds(), Some(2), "it has beaten");
    // But a heartbeat that came after it had agreed comes too late.
    let leases = vec!["gw".to_owned()];
    let agreed_ms = 8000 + LEASE_MS;
    let of = Candidates { daemon: OTHER.to_string(), number: 1, connections: Vec::new(), leases };
    assert!(judge.examine(&known, &of, at(agreed_ms)).is_none());
    known.leases.borrow_mut().heartbeat(&gateway(), agreed_ms + 1);
    judge.note(&known, &begins(), at(agreed_ms + 2));
    assert_eq!(known.holds(), None);
    judge.note(&known, &Ending { done: true, ..begins() }, at(agreed_ms + 3));
    assert_eq!(known.holds(), Some(2));
}

#[test]
fn candidates_are_named_in_as_many_messages_as_it_takes() {
    let known = Known::new();
    let mut leases = known.leases.borrow_mut();
    for n in 0..=PER_MESSAGE {
        leases.joined(&Id::parse(&n.to_string(), "lease").unwrap(), false, 0);
    }
    drop(leases);
    let acts = Judge::new(ME, LEASE_MS, 0).tick(&known, at(DUE_MS));
    let proposed = acts.iter().map(|act| match act {
        Act::Propose(candidates) => candidates.leases.len(),
        act => panic!("{act:?}"),
    });
    let mut proposed: Vec<_> = proposed.filter(|leases| *leases > 0).collect();
    proposed.sort_unstable();
    assert_eq!(proposed, [1, PER_MESSAGE]);
}
