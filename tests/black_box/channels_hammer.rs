//! Many edits of a few channels at once, on two daemons. In the end all agree, also one that was
//! not there, and a query by member finds the channels that list it.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::channels::{members, of};
use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Pair, Server, eventually};

const CHANNELS: usize = 4;
const USERS: usize = 12;
const WORKERS: usize = 8;
const ROUNDS: usize = 60;

/// Numbers without a pattern, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn users(&mut self) -> Vec<String> {
        (0..self.below(4)).map(|_| format!("u{}", self.below(USERS))).collect()
    }
}

async fn work(client: Client, seed: u64) {
    let mut numbers = Numbers(seed);
    for _ in 0..ROUNDS {
        let id = format!("c{}", numbers.below(CHANNELS));
        let (operation, body) = match numbers.below(10) {
            0 => ("delete_channel", json!({})),
            1 => ("watch_channel", json!({"data": {"members": numbers.users()}})),
            2 => ("upsert_channel", json!({"members": numbers.users()})),
            3 | 4 => ("upsert_channel", json!({"remove_members": numbers.users()})),
            5 => ("upsert_channel", json!({"data": {"n": numbers.below(3)}})),
            _ => ("upsert_channel", json!({"add_members": numbers.users()})),
        };
        let answer = client.get(operation, of(&id, body)).await;
        if let Some(channel) = answer.get("channel") {
            let shown = members(channel);
            let each: BTreeSet<_> = shown.iter().collect();
            assert_eq!((each.len(), &json!(shown.len())), (shown.len(), &channel["member_count"]));
        }
    }
}

/// All channels by id, and the channels of each user, found by member.
async fn all(client: &Client) -> (BTreeMap<String, Value>, BTreeMap<String, BTreeSet<String>>) {
    let body = json!({"presence": true, "limit": 30});
    let found = client.get("query_channels", body).await["channels"].take();
    let by_id = |channel: &Value| (channel["id"].as_str().unwrap().to_owned(), channel.clone());
    let channels = found.as_array().unwrap().iter().map(by_id).collect();
    let mut of_users = BTreeMap::new();
    for n in 0..USERS {
        let user = format!("u{n}");
        let filter = json!({"filter": {"members": {"$contains": user}}, "limit": 30});
        let found: BTreeSet<_> = client.find(filter).await.into_iter().collect();
        let own: BTreeSet<_> =
            client.of(&user).find(json!({"limit": 30})).await.into_iter().collect();
        assert_eq!(found, own);
        of_users.insert(user, found);
    }
    (channels, of_users)
}

#[tokio::test]
async fn after_many_edits_at_once_all_daemons_agree_on_who_is_in_which_channel() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let clients = ["one", "two", "three"].map(|prefix| Client::trusted(nats.clone(), prefix));
    let _one = Daemon::spawn(&server, &[("SUBJECTS__PREFIX", "one")]).await;
    let _two = Daemon::spawn(&server, &[("SUBJECTS__PREFIX", "two")]).await;
    join_all((0..WORKERS).map(|n| work(clients[n % 2].clone(), n as u64))).await;
    let _three = Daemon::spawn(&server, &[("SUBJECTS__PREFIX", "three")]).await;

    let (channels, of_users) = all(&clients[0]).await;
    for (user, found) in &of_users {
        let listed = channels.iter().filter(|(_, channel)| members(channel).contains(&&**user));
        assert_eq!(listed.map(|(id, _)| id.clone()).collect::<BTreeSet<_>>(), *found, "{user}");
    }
    for client in &clients[1..] {
        assert_eq!(all(client).await, (channels.clone(), of_users.clone()));
    }
}

#[tokio::test]
async fn a_bucket_that_was_replaced_leaves_no_channel_behind() {
    let pair = Pair::start(NO_GRACE).await;
    for n in 0..20 {
        pair.one.channel(&format!("c{n}"), json!({"members": ["john"]})).await;
    }
    let js = jetstream::new(pair.one.nats.clone());
    let config = js.get_stream("KV_presence").await.unwrap().cached_info().config.clone();
    js.delete_stream("KV_presence").await.unwrap();
    js.create_stream(config).await.unwrap();
    let bound = std::time::Duration::from_secs(15);
    for client in pair.clients() {
        eventually("the channels are gone", bound, async || {
            let filter = json!({"filter": {"members": {"$contains": "john"}}});
            let found = client.attempt("query_channels", filter, bound).await?.ok()?;
            (found["channels"] == json!([])).then_some(())
        })
        .await;
        assert_eq!(client.find(json!({})).await.len(), 0);
        assert_eq!(client.of("john").find(json!({})).await.len(), 0);
    }
    pair.one.channel("c1", json!({"members": ["john"]})).await;
    assert_eq!(pair.two.of("john").find(json!({})).await, ["c1"]);
}
