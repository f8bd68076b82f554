//! Daemons are killed under load: what was acknowledged stays, and the newest state is announced.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use crate::support::events::latest;
use crate::support::load::{Load, Tally};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Event, Events, Server, eventually};

const CLIENTS: usize = 48;

/// How long the survivors may take to find out who died, and to announce what it left unsaid.
const ANNOUNCED: Duration = Duration::from_secs(10);

/// The newest event of each user comes to equal what a query says of it.
async fn settles(client: &Client, events: &mut Events, tallies: &BTreeMap<String, Tally>) {
    let mut heard: BTreeMap<String, Event> = BTreeMap::new();
    for (id, tally) in tallies {
        let user = client.see(id).await.unwrap();
        tally.check(&user);
        eventually(&format!("the newest event of {id} shows {user}"), ANNOUNCED, async || {
            heard = latest(std::mem::take(&mut heard).into_values().chain(events.arrived()));
            heard.get(id).filter(|event| event.user == user).map(|_| ())
        })
        .await;
    }
}

#[tokio::test]
async fn one_of_two_is_killed_and_the_other_announces_what_it_left_unsaid() {
    let server = Server::start().await;
    let mut victim = Daemon::spawn(&server, NO_GRACE).await;
    let _survivor = Daemon::spawn(&server, NO_GRACE).await;
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    // Both have heard each other's beacons by then.
    sleep(Duration::from_millis(1500)).await;
    victim.kill();
    let tallies = load.stop().await;
    settles(&client, &mut events, &tallies).await;
    assert!(tallies.values().all(|tally| tally.acknowledged > 0));
}

#[tokio::test]
async fn all_are_killed_and_the_next_one_announces_the_newest_changes() {
    let server = Server::start().await;
    let mut daemons =
        [Daemon::spawn(&server, NO_GRACE).await, Daemon::spawn(&server, NO_GRACE).await];
    let client = Client::connect(&server).await;
    let mut events = Events::of_all(&client).await;
    let load = Load::start(&client, CLIENTS);
    sleep(Duration::from_millis(500)).await;
    daemons.iter_mut().for_each(Daemon::kill);
    let _next = Daemon::spawn(&server, NO_GRACE).await;
    let tallies = load.stop().await;
    settles(&client, &mut events, &tallies).await;
}
