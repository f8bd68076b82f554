use std::cell::RefCell;

use super::*;
use crate::liveness::peers::PeerStatus;
use crate::presence::entity::Entity;
use crate::presence::time::Time;
use crate::presence::user::{Connection, ConnectionGen, Periods, Record, Users};

const ME: DaemonId = DaemonId(1);
const OTHER: DaemonId = DaemonId(2);
const LEASE_MS: u64 = 10_000;
const GRACE_MS: u64 = 2000;
/// The time at which the first rank is due.
const DUE_MS: u64 = LEASE_MS + MARGIN_MS;

/// A daemon that has heard one connection, of `john`, when it began.
struct DaemonView {
    index: RefCell<Index>,
    leases: RefCell<Leases>,
    /// The connections on the lease `gw`.
    held: RefCell<Vec<(Id, Vec<ConnectionGen>)>>,
    peers: Peers,
    hearing: RefCell<Hearing>,
}

impl DaemonView {
    fn new() -> Self {
        let periods = Periods { lease_ms: LEASE_MS, grace_ms: GRACE_MS, refresh_ms: 1_000_000 };
        let mut index = Index::new(periods);
        index.agenda.on_replayed();
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
        let view = Self {
            index: RefCell::new(index),
            leases,
            held: RefCell::default(),
            peers: Peers::new(ME),
            hearing: RefCell::new(Hearing::new(LEASE_MS, 0)),
        };
        for second in 0..DUE_MS / 1000 {
            view.probe(second * 1000);
        }
        view
    }

    /// Two users connect on a shared lease.
    fn connect_on_lease(&self) {
        self.held.borrow_mut().extend([on_lease("jack"), on_lease("jill")]);
        let mut leases = self.leases.borrow_mut();
        leases.on_replayed();
        (0..2).for_each(|_| leases.on_joined(&gateway(), false, 0));
    }

    /// The other daemon is alive and deaf.
    fn meet_other(&mut self) {
        self.peers.on_beacon(OTHER, PeerStatus { deaf: true, ..PeerStatus::default() }, 0);
    }

    /// The number of connections on the lease, unless its end has begun.
    fn holds(&self) -> Option<usize> {
        self.leases.borrow().held(&gateway())
    }

    /// A probe goes out and comes back.
    fn probe(&self, now_ms: u64) {
        let mut hearing = self.hearing.borrow_mut();
        let number = hearing.probe(now_ms);
        if hearing.begin_bucket_query(now_ms) {
            hearing.on_bucket_answer(true);
        }
        [0, 1].into_iter().for_each(|lane| hearing.on_probe(lane, number, now_ms));
    }

    fn beat(&self, at_ms: u64) {
        self.index.borrow_mut().agenda.on_heartbeat(&john(), &c(), at_ms);
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
    Now::local(mono_ms, Time(0))
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

/// Another daemon begins to end the lease, within a second.
fn other_begins() -> Ending {
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

/// A machine that has just received that message.
fn begun_by_other() -> (DaemonView, Expiry) {
    let mut view = DaemonView::new();
    view.meet_other();
    view.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&view, &other_begins(), at(DUE_MS));
    (view, expiry)
}

/// A machine that has just proposed to end the connection of `john`, and its proposal.
fn proposed(view: &DaemonView) -> (Expiry, Proposal) {
    let mut expiry = Expiry::new(ME, LEASE_MS);
    assert!(expiry.on_tick(view, at(DUE_MS - 1)).is_empty());
    let mut effects = expiry.on_tick(view, at(DUE_MS));
    let Some(Effect::Propose(proposal)) = effects.pop() else { panic!("nothing was proposed") };
    assert_eq!(proposal.connections, [("john".to_owned(), "c".to_owned(), 1)]);
    assert!(effects.is_empty());
    (expiry, proposal)
}

#[test]
fn a_silent_connection_is_ended_without_objection_once_the_daemon_is_proven_to_hear() {
    let view = DaemonView::new();
    let (mut expiry, _) = proposed(&view);
    assert!(expiry.on_tick(&view, at(DUE_MS + OBJECTION_MS)).is_empty(), "no probe has come back");
    view.probe(DUE_MS + OBJECTION_MS);
    let effects = expiry.on_tick(&view, at(DUE_MS + OBJECTION_MS + 1));
    let [Effect::Write(PendingWrite { user, command, deadline_ms })] = &effects[..] else {
        panic!("{effects:?}")
    };
    let Command::Lapse { generations } = command else { panic!("{command:?}") };
    assert_eq!(
        (user, &generations[..]),
        (&john(), &[ConnectionGen { connection: c(), generation: 1 }][..])
    );
    assert_eq!(*deadline_ms, DUE_MS + OBJECTION_MS + 1 + LAPSE_WRITE_MS);
}

#[test]
fn a_proposal_from_before_a_stop_is_not_decided_after_it() {
    let view = DaemonView::new();
    let (mut expiry, _) = proposed(&view);
    view.probe(DUE_MS + 200);
    assert!(expiry.on_tick(&view, at(DUE_MS + DECIDED_WITHIN_MS)).is_empty());
}

#[test]
fn a_daemon_with_a_heartbeat_objects_and_the_other_yields() {
    let (view, other) = (DaemonView::new(), DaemonView::new());
    let (mut expiry, proposal) = proposed(&view);
    let mut other_machine = Expiry::new(OTHER, LEASE_MS);
    assert!(
        other_machine.on_proposal(&other, &proposal, at(DUE_MS)).is_none(),
        "no heartbeat came"
    );
    other.beat(8000);
    let effect = other_machine.on_proposal(&other, &proposal, at(DUE_MS)).unwrap();
    let Effect::Object { to: ME, objection } = effect else { panic!("{effect:?}") };
    expiry.on_objection(&view, &objection, at(DUE_MS));
    view.probe(DUE_MS + OBJECTION_MS);
    assert!(expiry.on_tick(&view, at(DUE_MS + OBJECTION_MS + 1)).is_empty());
    let due_ms = 8000 + LEASE_MS + MARGIN_MS;
    for second in DUE_MS / 1000 + 1..due_ms / 1000 {
        view.probe(second * 1000);
    }
    assert!(matches!(expiry.on_tick(&view, at(due_ms))[..], [Effect::Propose(_)]));
}

#[test]
fn of_several_objections_the_newest_heartbeat_counts() {
    let view = DaemonView::new();
    let (mut expiry, proposal) = proposed(&view);
    for age_ms in [4000, 1000, 3000] {
        let connections = vec![(0, age_ms)];
        let objection = Objection { number: proposal.number, connections, leases: Vec::new() };
        expiry.on_objection(&view, &objection, at(DUE_MS));
    }
    let heard = view.index.borrow().agenda.heard(&john(), &c()).unwrap();
    assert_eq!(heard.beat_ms, Some(DUE_MS - 1000));
}

#[test]
fn many_small_leases_are_granted_as_much_time_as_a_large_one() {
    let mut expiry = Expiry::new(ME, LEASE_MS);
    let mut small = (0..10_000).flat_map(|_| expiry.lapses(vec![on_lease("jack")], 0));
    assert_eq!(small.next().unwrap().deadline_ms, LAPSE_WRITE_MS);
    assert_eq!(small.last().unwrap().deadline_ms, 1000 + LAPSE_WRITE_MS);
}

#[test]
fn a_daemon_that_has_become_deaf_ends_nothing() {
    let view = DaemonView::new();
    let (mut expiry, _) = proposed(&view);
    view.hearing.borrow_mut().on_trouble(DUE_MS + 100, "it was cut off");
    view.probe(DUE_MS + OBJECTION_MS);
    for second in 0..LEASE_MS / 1000 {
        view.probe(DUE_MS + OBJECTION_MS + second * 1000);
        assert!(expiry.on_tick(&view, at(DUE_MS + OBJECTION_MS + second * 1000)).is_empty());
    }
}

#[test]
fn an_unfinished_end_is_taken_over_with_the_connections_that_have_not_connected_again() {
    let (view, mut expiry) = begun_by_other();
    assert_eq!(view.holds(), None, "its heartbeats come back unknown");
    let void_ms = DUE_MS + 1000;
    view.probe(void_ms - 500);
    view.held.borrow_mut()[0].1[0].generation += 1;
    let mut effects = expiry.on_tick(&view, at(void_ms - 1));
    effects.retain(|effect| !matches!(effect, Effect::Propose(_)));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = expiry.on_tick(&view, at(void_ms));
    let [Effect::Broadcast(ending), Effect::EndLease { writes, .. }, ..] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((ending.done, ending.within_ms), (false, LAPSE_WRITE_MS));
    assert_eq!(ending.connections, [("jill".to_owned(), "c".to_owned(), 1)]);
    assert_eq!(writes.len(), 1);
    assert!(expiry.on_writes_done(&view, &gateway()).is_none(), "it is not done");
    view.held.borrow_mut().pop();
    let done = expiry.on_writes_done(&view, &gateway());
    assert!(matches!(done, Some(Effect::Broadcast(Ending { done: true, .. }))), "{done:?}");
    assert_eq!(view.holds(), Some(2));
}

#[test]
fn an_end_of_a_failed_daemon_is_taken_over_without_waiting_for_its_writes() {
    let view = DaemonView::new();
    view.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&view, &Ending { within_ms: 60_000, ..other_begins() }, at(DUE_MS));
    view.probe(DUE_MS + 50);
    let effects = expiry.on_tick(&view, at(DUE_MS + 50));
    assert!(
        matches!(effects[..], [Effect::Broadcast(_), Effect::EndLease { .. }, ..]),
        "{effects:?}"
    );
}

#[test]
fn an_end_with_an_incomplete_list_has_not_begun() {
    let view = DaemonView::new();
    view.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_ending(&view, &Ending { of: 3, ..other_begins() }, at(DUE_MS));
    assert_eq!(view.holds(), Some(2), "no end has begun");
    let effects = expiry.on_tick(&view, at(DUE_MS));
    let proposes = |effect: &Effect| matches!(effect, Effect::Propose(it) if it.leases == ["gw"]);
    assert!(effects.iter().any(proposes), "{effects:?}");
}

#[test]
fn a_deaf_daemon_takes_over_no_end() {
    let (view, mut expiry) = begun_by_other();
    view.hearing.borrow_mut().on_trouble(DUE_MS, "it was cut off");
    view.probe(DUE_MS + 900);
    assert!(expiry.on_tick(&view, at(DUE_MS + 1000)).is_empty());
    assert_eq!(view.holds(), Some(2), "the end is dropped");
}

#[test]
fn a_daemon_that_has_heard_a_lease_ignores_the_beginning_of_its_end() {
    let view = DaemonView::new();
    view.connect_on_lease();
    let mut expiry = Expiry::new(ME, LEASE_MS);
    view.leases.borrow_mut().on_rejoined(&gateway(), false, 7000);
    expiry.on_ending(&view, &other_begins(), at(7000 + LEASE_MS - 1));
    assert_eq!(view.holds(), Some(2), "it has connected");
    view.leases.borrow_mut().on_heartbeat(&gateway(), 8000);
    expiry.on_ending(&view, &other_begins(), at(7000 + LEASE_MS));
    assert_eq!(view.holds(), Some(2), "it has had a heartbeat");
    // But a heartbeat after its agreement comes too late.
    let leases = vec!["gw".to_owned()];
    let agreed_ms = 8000 + LEASE_MS;
    let proposal =
        Proposal { daemon: OTHER.to_string(), number: 1, connections: Vec::new(), leases };
    assert!(expiry.on_proposal(&view, &proposal, at(agreed_ms)).is_none());
    view.leases.borrow_mut().on_heartbeat(&gateway(), agreed_ms + 1);
    expiry.on_ending(&view, &other_begins(), at(agreed_ms + 2));
    assert_eq!(view.holds(), None);
    expiry.on_ending(&view, &Ending { done: true, ..other_begins() }, at(agreed_ms + 3));
    assert_eq!(view.holds(), Some(2));
}

#[test]
fn a_long_proposal_is_split_into_several_messages() {
    let view = DaemonView::new();
    let mut leases = view.leases.borrow_mut();
    for n in 0..=MAX_NAMED_PER_MESSAGE {
        leases.on_joined(&Id::parse(&n.to_string(), "lease").unwrap(), false, 0);
    }
    drop(leases);
    let effects = Expiry::new(ME, LEASE_MS).on_tick(&view, at(DUE_MS));
    let proposed = effects.iter().map(|effect| match effect {
        Effect::Propose(proposal) => proposal.leases.len(),
        effect => panic!("{effect:?}"),
    });
    let mut proposed: Vec<_> = proposed.filter(|leases| *leases > 0).collect();
    proposed.sort_unstable();
    assert_eq!(proposed, [1, MAX_NAMED_PER_MESSAGE]);
}

#[test]
fn a_proposal_fits_into_the_smallest_message_of_the_server() {
    const MAX_BYTES: usize = 3072;
    let view = DaemonView::new();
    let mut leases = view.leases.borrow_mut();
    // Each character of these ids is escaped.
    for n in 0..10 {
        let name = format!("{}{n}", "\"".repeat(254));
        leases.on_joined(&Id::parse(&name, "lease").unwrap(), false, 0);
    }
    drop(leases);
    let mut expiry = Expiry::new(ME, LEASE_MS);
    expiry.on_payload_limit(MAX_BYTES);
    let mut proposed = 0;
    for effect in expiry.on_tick(&view, at(DUE_MS)) {
        let Effect::Propose(proposal) = effect else { panic!("{effect:?}") };
        proposed += proposal.leases.len();
        assert!(serde_json::to_vec(&proposal).unwrap().len() <= MAX_BYTES, "{proposal:?}");
    }
    assert_eq!(proposed, 10);
}
