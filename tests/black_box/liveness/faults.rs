//! Daemons, gateways and NATS die, stop and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{AFTER_A_FAULT, LATEST, LEASE, SHORT, all_offline, connect_on, hear, only_the};
use crate::support::heart::Heart;
use crate::support::{Client, Daemon, Events, Server, Settings, eventually};

/// The interval at which a gateway sends heartbeats.
const BEAT: Duration = Duration::from_millis(200);

/// Some users with connections of their own, kept alive together.
async fn keep(client: &Client, prefix: &str, users: usize) -> Heart {
    let mut named = Vec::new();
    for n in 0..users {
        let id = format!("{prefix}-{n}");
        client.connect_user(&id, "c").await;
        named.push(json!({"user_id": id, "connection_id": "c"}));
    }
    Heart::beat(client, json!({"connections": named}))
}

#[tokio::test]
async fn one_of_two_daemons_dies_and_only_who_died_goes_offline() {
    let server = Server::start().await;
    let mut daemons = [Daemon::spawn(&server, SHORT).await, Daemon::spawn(&server, SHORT).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let _alive = keep(&client, "alive", 20).await;
    let dying = keep(&client, "dying", 20).await;
    let gateway = Heart::of_lease(&client, "gw");
    connect_on(&client, "gw", 20).await;
    hear(&mut daemons).await;
    assert_eq!(events.arrived().len(), 60);
    let last = dying.stop(&client).await.min(gateway.stop(&client).await);
    daemons[0].kill();
    let gone = all_offline(&mut events, 40, last + LEASE + LATEST + AFTER_A_FAULT).await;
    let (own, shared): (Vec<_>, Vec<_>) =
        gone.into_iter().partition(|(event, _)| event.id.starts_with("dying"));
    only_the("dying", &own, last + LEASE);
    only_the("user", &shared, last + LEASE);
    events.silent_for(2 * LEASE).await;
}

#[tokio::test]
async fn all_daemons_are_replaced_and_nobody_goes_offline_before_a_lease_after_the_first() {
    let server = Server::start().await;
    let old = [Daemon::spawn(&server, SHORT).await, Daemon::spawn(&server, SHORT).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let _alive = keep(&client, "alive", 10).await;
    let dying = keep(&client, "dying", 10).await;
    assert_eq!(events.arrived().len(), 20);
    dying.stop(&client).await;
    for daemon in old {
        daemon.stop().await;
    }
    sleep(2 * LEASE).await;
    let started = Instant::now();
    let _new = [Daemon::spawn(&server, SHORT).await, Daemon::spawn(&server, SHORT).await];
    let gone = all_offline(&mut events, 10, Instant::now() + LEASE + AFTER_A_FAULT).await;
    only_the("dying", &gone, started + LEASE);
    events.silent_for(2 * LEASE).await;
}

#[tokio::test]
async fn one_of_two_daemons_stops_for_a_while_and_nobody_goes_offline_by_it() {
    let server = Server::start().await;
    let mut daemons = [Daemon::spawn(&server, SHORT).await, Daemon::spawn(&server, SHORT).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let heart = keep(&client, "user", 30).await;
    hear(&mut daemons).await;
    assert_eq!(events.arrived().len(), 30);
    let [stopped, _other] = daemons;
    for _ in 0..2 {
        stopped.pause();
        events.silent_for(2 * LEASE).await;
        stopped.resume();
        events.silent_for(LEASE).await;
    }
    let last = heart.stop(&client).await;
    all_offline(&mut events, 30, last + LEASE + LATEST + AFTER_A_FAULT).await;
}

#[tokio::test]
async fn nats_restarts_and_nobody_who_is_there_goes_offline() {
    let mut server = Server::start().await;
    let mut daemons = [Daemon::spawn(&server, SHORT).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await.newer_only();
    let _alive = keep(&client, "alive", 20).await;
    let dying = keep(&client, "dying", 10).await;
    let _gateway = Heart::of_lease(&client, "gw");
    connect_on(&client, "gw", 20).await;
    hear(&mut daemons).await;
    assert_eq!(events.arrived().len(), 50);
    dying.stop(&client).await;
    server.vanish();
    sleep(LEASE + LEASE / 2).await;
    server.appear().await;
    let back = Instant::now();
    // All have found the server again some time after it is back.
    let gone = all_offline(&mut events, 10, back + 2 * LEASE + 2 * AFTER_A_FAULT).await;
    only_the("dying", &gone, back + LEASE);
    events.silent_for(2 * LEASE).await;
    let answer = client.get("heartbeat", json!({"lease": "gw"})).await;
    assert_eq!((&answer["unknown"], &answer["held"]), (&json!([]), &json!(20)));
}

/// A gateway as it should be written. It asks in every heartbeat. It connects all of its users
/// again when it is unknown, or when two answers running count other connections than it has.
struct Gateway {
    client: Client,
    users: usize,
    differs: bool,
}

impl Gateway {
    /// Returns whether all was as it should be.
    async fn beat(&mut self) -> bool {
        let bound = Duration::from_secs(1);
        let asked = self.client.attempt("heartbeat", json!({"lease": "gw"}), bound).await;
        let Some(Ok(answer)) = asked else { return false };
        let differs = answer["held"] != json!(self.users);
        let unknown = answer["unknown"] == json!(["gw"]);
        if unknown || (differs && self.differs) {
            connect_on(&self.client, "gw", self.users).await;
            self.differs = false;
            return false;
        }
        self.differs = differs;
        !differs
    }

    /// Beats until all has been well for two leases.
    async fn recover(&mut self) {
        let mut well_since = Instant::now();
        eventually("all is well for two leases", Duration::from_secs(30), async || {
            if !self.beat().await {
                well_since = Instant::now();
            }
            sleep(BEAT).await;
            (well_since.elapsed() >= 2 * LEASE).then_some(())
        })
        .await;
    }
}

/// The number of times that each user went offline, after a gateway paused and came back. It paused
/// until `noticed` of its users were shown offline, and at least for `pause`.
async fn paused(
    settings: Settings<'_>,
    users: usize,
    pause: Duration,
    noticed: usize,
) -> Vec<usize> {
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, settings).await, Daemon::spawn(&server, settings).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    // From before the first connect: many of them may take longer than a lease.
    let heart = Heart::of_lease(&client, "gw");
    connect_on(&client, "gw", users).await;
    hear(&mut daemons).await;
    assert_eq!(events.arrived().len(), users);
    heart.stop(&client).await;
    let mut seen = Vec::new();
    let pausing = Instant::now();
    eventually("its users are shown offline", pause + LEASE + LATEST + AFTER_A_FAULT, async || {
        seen.extend(events.arrived());
        (pausing.elapsed() >= pause && seen.len() >= noticed).then_some(())
    })
    .await;
    Gateway { client: client.clone(), users, differs: false }.recover().await;
    seen.extend(events.arrived());
    // In the order of versions: the daemon that ended a connection and the one that made the next
    // may be heard in either order.
    let mut history: BTreeMap<String, BTreeMap<u64, bool>> = BTreeMap::new();
    for event in seen {
        history.entry(event.id).or_default().insert(event.version, event.online);
    }
    for (id, states) in &history {
        let states: Vec<_> = states.values().copied().collect();
        let expected: Vec<_> = (0..states.len()).map(|n| n % 2 == 1).collect();
        assert_eq!((&states, states.len() % 2), (&expected, 0), "{id}");
    }
    let online: Vec<Value> =
        client.query(json!({"filter": {"online": false}, "presence": true})).await;
    assert_eq!(online, Vec::<Value>::new(), "left behind");
    (0..users).map(|n| history.get(&format!("user-{n}")).map_or(0, |s| s.len() / 2)).collect()
}

#[tokio::test]
async fn a_gateway_that_paused_for_longer_loses_all_its_users_once_and_has_them_all_back() {
    let pause = LEASE + LATEST;
    let times = paused(SHORT, 300, pause, 300).await;
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn a_gateway_that_comes_back_while_its_lease_is_being_ended_leaves_nobody_behind() {
    let times = paused(SHORT, 1500, LEASE, 1).await;
    assert!(times.iter().all(|times| *times <= 1), "{times:?}");
}
