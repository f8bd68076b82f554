use std::cell::RefCell;

use super::*;
use crate::liveness::peers::PeerStatus;
use crate::presence::entity::Entity;
use crate::presence::time::Time;
use crate::presence::user::{Connection, Periods, Record, Users};

const ME: DaemonId = DaemonId(1);
const OTHER: DaemonId = DaemonId(2);
const LEASE_MS: u64 = 10_000;
const GRACE_MS: u64 = 2000;
/// When the first is due.
const DUE_MS: u64 = LEASE_MS + MARGIN_MS;

/// A daemon that has heard one connection, of `john`, when it began.
struct DaemonView {
    index: RefCell<Index>,
    leases: RefCell<Leases>,
    /// What hangs on the lease `gw`.
    held: RefCell<Vec<(Id, Vec<ConnectionGen>)>>,
    peers: Peers,
    hearing: RefCell<Hearing>,
}

impl DaemonView {
    fn new() -> Self {
        let periods = Periods { lease_ms: LEASE_MS, grace_ms: GRACE_MS, refresh_ms: 1_000_000 };
        let mut index = Index::new(periods);
        index.agenda.listen();
        let mut record = Record::new(Time(0), 0);
        record.connections.push(Connection {
            id: c(),
            lease: None,
            device: None,
            idle: false,
            generation: 1,
            unknown: None,
        });
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
        self.peers.on_beacon(OTHER, PeerStatus { deaf: true, starting: false }, 0);
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
        self.index.borrow_mut().agenda.heartbeat(&john(), &c(), at_ms);
    }
}

impl View for DaemonView {
    fn each_index(&self, mut work: impl FnMut(&mut Index)) {
        work(&mut self.index.borrow_mut());
    }

    fn with_index<R>(&self, _: &Id, work: impl FnOnce(&mut Index) -> R) -> R {
        work(&mut self.index.borrow_mut())
    }

    fn leases<R>(&self, work: impl FnOnce(&mut Leases) -> R) -> R {
        work(&mut self.leases.borrow_mut())
    }

    fn held_by(&self, lease: &Id) -> Vec<(Id, Vec<ConnectionGen>)> {
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

fn on_lease(user: &str) -> (Id, Vec<ConnectionGen>) {
    (Id::parse(user, "id").unwrap(), vec![ConnectionGen { connection: c(), generation: 1 }])
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
fn begun_by_the_other() -> (DaemonView, Expiry) {
    let mut known = DaemonView::new();
    known.meet_other();
    known.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&known, &begins(), at(DUE_MS));
    (known, expiry)
}

/// A judge that has just proposed to end the connection of `john`, and what it proposed.
fn proposed(known: &DaemonView) -> (Expiry, Proposal) {
    let mut expiry = Expiry::new(ME, LEASE_MS);
    assert!(expiry.on_tick(known, at(DUE_MS - 1)).is_empty());
    let mut effects = expiry.on_tick(known, at(DUE_MS));
    let Some(Effect::Propose(proposal)) = effects.pop() else { panic!("nothing was proposed") };
    assert_eq!(proposal.connections, [("john".to_owned(), "c".to_owned(), 1)]);
    assert!(effects.is_empty());
    (expiry, proposal)
}

#[test]
fn what_is_silent_is_ended_when_nobody_objects_and_the_daemon_is_known_to_hear() {
    let known = DaemonView::new();
    let (mut expiry, _) = proposed(&known);
    assert!(expiry.on_tick(&known, at(DUE_MS + OBJECTION_MS)).is_empty(), "no probe has come back");
    known.probe(DUE_MS + OBJECTION_MS);
    let effects = expiry.on_tick(&known, at(DUE_MS + OBJECTION_MS + 1));
    let [Effect::Write(PendingWrite { user, command, deadline_ms })] = &effects[..] else {
        panic!("{effects:?}")
    };
    let Command::Lapse { generations } = command else { panic!("{command:?}") };
    assert_eq!(
        (user, &generations[..]),
        (&john(), &[ConnectionGen { connection: c(), generation: 1 }][..])
    );
    assert_eq!(*deadline_ms, DUE_MS + OBJECTION_MS + 1 + LAPSE_MS);
}

#[test]
fn what_was_proposed_before_a_stop_is_not_decided_after_it() {
    let known = DaemonView::new();
    let (mut expiry, _) = proposed(&known);
    known.probe(DUE_MS + 200);
    assert!(expiry.on_tick(&known, at(DUE_MS + DECIDED_WITHIN_MS)).is_empty());
}

#[test]
fn who_had_a_heartbeat_objects_and_who_is_told_yields() {
    let (known, other) = (DaemonView::new(), DaemonView::new());
    let (mut expiry, proposal) = proposed(&known);
    let mut others_judge = Expiry::new(OTHER, LEASE_MS);
    assert!(others_judge.on_proposal(&other, &proposal, at(DUE_MS)).is_none(), "no heartbeat came");
    other.beat(8000);
    let effect = others_judge.on_proposal(&other, &proposal, at(DUE_MS)).unwrap();
    let Effect::Object { to: ME, objection } = effect else { panic!("{effect:?}") };
    expiry.on_objection(&known, &objection, at(DUE_MS));
    known.probe(DUE_MS + OBJECTION_MS);
    assert!(expiry.on_tick(&known, at(DUE_MS + OBJECTION_MS + 1)).is_empty());
    let due_ms = 8000 + LEASE_MS + MARGIN_MS;
    for second in DUE_MS / 1000 + 1..due_ms / 1000 {
        known.probe(second * 1000);
    }
    assert!(matches!(expiry.on_tick(&known, at(due_ms))[..], [Effect::Propose(_)]));
}

#[test]
fn of_several_that_object_the_last_to_have_heard_counts() {
    let known = DaemonView::new();
    let (mut expiry, proposal) = proposed(&known);
    for age_ms in [4000, 1000, 3000] {
        let connections = vec![(0, age_ms)];
        let objection = Objection { number: proposal.number, connections, leases: Vec::new() };
        expiry.on_objection(&known, &objection, at(DUE_MS));
    }
    let heard = known.index.borrow().agenda.heard(&john(), &c()).unwrap();
    assert_eq!(heard.beat_ms, Some(DUE_MS - 1000));
}

#[test]
fn many_small_leases_are_granted_as_long_as_a_large_one() {
    let mut expiry = Expiry::new(ME, LEASE_MS);
    let mut small = (0..10_000).flat_map(|_| expiry.lapses(vec![on_lease("jack")], 0));
    assert_eq!(small.next().unwrap().deadline_ms, LAPSE_MS);
    assert_eq!(small.last().unwrap().deadline_ms, 1000 + LAPSE_MS);
}

#[test]
fn a_daemon_that_has_become_deaf_ends_nothing() {
    let known = DaemonView::new();
    let (mut expiry, _) = proposed(&known);
    known.hearing.borrow_mut().trouble(DUE_MS + 100, "it was cut off");
    known.probe(DUE_MS + OBJECTION_MS);
    for second in 0..LEASE_MS / 1000 {
        known.probe(DUE_MS + OBJECTION_MS + second * 1000);
        assert!(expiry.on_tick(&known, at(DUE_MS + OBJECTION_MS + second * 1000)).is_empty());
    }
}

#[test]
fn what_another_does_not_finish_is_carried_on_with_who_has_not_connected_again() {
    let (known, mut expiry) = begun_by_the_other();
    assert_eq!(known.holds(), None, "its heartbeats come back unknown");
    let void_ms = DUE_MS + 1000;
    known.probe(void_ms - 500);
    known.held.borrow_mut()[0].1[0].generation += 1;
    let mut effects = expiry.on_tick(&known, at(void_ms - 1));
    effects.retain(|effect| !matches!(effect, Effect::Propose(_)));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = expiry.on_tick(&known, at(void_ms));
    let [Effect::Broadcast(told), Effect::EndLease { writes, .. }, ..] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((told.done, told.within_ms), (false, LAPSE_MS));
    assert_eq!(told.connections, [("jill".to_owned(), "c".to_owned(), 1)]);
    assert_eq!(writes.len(), 1);
    assert!(expiry.on_writes_done(&known, &gateway()).is_none(), "it is not done");
    known.held.borrow_mut().pop();
    let done = expiry.on_writes_done(&known, &gateway());
    assert!(matches!(done, Some(Effect::Broadcast(Ending { done: true, .. }))), "{done:?}");
    assert_eq!(known.holds(), Some(2));
}

#[test]
fn what_the_dead_began_is_carried_on_without_waiting_for_their_writes() {
    let known = DaemonView::new();
    known.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&known, &Ending { within_ms: 60_000, ..begins() }, at(DUE_MS));
    known.probe(DUE_MS + 50);
    let effects = expiry.on_tick(&known, at(DUE_MS + 50));
    assert!(
        matches!(effects[..], [Effect::Broadcast(_), Effect::EndLease { .. }, ..]),
        "{effects:?}"
    );
}

#[test]
fn an_end_of_which_only_a_part_was_told_is_not_taken_for_begun() {
    let known = DaemonView::new();
    known.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&known, &Ending { of: 3, ..begins() }, at(DUE_MS));
    assert_eq!(known.holds(), Some(2), "it is judged as if nobody had begun");
    let effects = expiry.on_tick(&known, at(DUE_MS));
    let proposed = |effect: &Effect| matches!(effect, Effect::Propose(of) if of.leases == ["gw"]);
    assert!(effects.iter().any(proposed), "{effects:?}");
}

#[test]
fn a_deaf_daemon_carries_nothing_on() {
    let (known, mut expiry) = begun_by_the_other();
    known.hearing.borrow_mut().trouble(DUE_MS, "it was cut off");
    known.probe(DUE_MS + 900);
    assert!(expiry.on_tick(&known, at(DUE_MS + 1000)).is_empty());
    assert_eq!(known.holds(), Some(2), "nobody ends it any more");
}

#[test]
fn who_has_heard_a_lease_does_not_take_its_end_for_begun() {
    let known = DaemonView::new();
    known.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    known.leases.borrow_mut().rejoined(&gateway(), false, 7000);
    expiry.on_ending(&known, &begins(), at(7000 + LEASE_MS - 1));
    assert_eq!(known.holds(), Some(2), "it has connected");
    known.leases.borrow_mut().heartbeat(&gateway(), 8000);
    expiry.on_ending(&known, &begins(), at(7000 + LEASE_MS));
    assert_eq!(known.holds(), Some(2), "it has beaten");
    // But a heartbeat that came after it had agreed comes too late.
    let leases = vec!["gw".to_owned()];
    let agreed_ms = 8000 + LEASE_MS;
    let of = Proposal { daemon: OTHER.to_string(), number: 1, connections: Vec::new(), leases };
    assert!(expiry.on_proposal(&known, &of, at(agreed_ms)).is_none());
    known.leases.borrow_mut().heartbeat(&gateway(), agreed_ms + 1);
    expiry.on_ending(&known, &begins(), at(agreed_ms + 2));
    assert_eq!(known.holds(), None);
    expiry.on_ending(&known, &Ending { done: true, ..begins() }, at(agreed_ms + 3));
    assert_eq!(known.holds(), Some(2));
}

#[test]
fn candidates_are_named_in_as_many_messages_as_it_takes() {
    let known = DaemonView::new();
    let mut leases = known.leases.borrow_mut();
    for n in 0..=PER_MESSAGE {
        leases.joined(&Id::parse(&n.to_string(), "lease").unwrap(), false, 0);
    }
    drop(leases);
    let effects = Expiry::new(ME, LEASE_MS).on_tick(&known, at(DUE_MS));
    let proposed = effects.iter().map(|effect| match effect {
        Effect::Propose(proposal) => proposal.leases.len(),
        effect => panic!("{effect:?}"),
    });
    let mut proposed: Vec<_> = proposed.filter(|leases| *leases > 0).collect();
    proposed.sort_unstable();
    assert_eq!(proposed, [1, PER_MESSAGE]);
}
