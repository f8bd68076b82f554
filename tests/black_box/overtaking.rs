//! A disconnect that overtakes its connect, as requests of one client may be taken by two daemons.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::stage::NO_GRACE;
use crate::support::{Client, Daemon, Pair, Server, Stage, eventually};

const ENDED: Duration = Duration::from_secs(8);

/// For how long a client repeats what a busy machine refuses.
const REPEATED: Duration = Duration::from_secs(20);

/// The time for which a client waits for an answer before it repeats a request.
const ANSWER: Duration = Duration::from_secs(3);

async fn is_online(client: &Client, user: &str) -> bool {
    client.see(user).await.is_some_and(|user| user["online"] == true)
}

async fn count(client: &Client, filter: Value) -> Value {
    let body = json!({"filter": filter, "presence": true});
    for _ in 0..10 {
        if let Some(Ok(answer)) = client.attempt("count_users", body.clone(), ANSWER).await {
            return answer["count"].clone();
        }
    }
    panic!("no count of {filter}");
}

/// A socket that opens and closes at once: neither request waits for the other. Returns whether the
/// connect was carried out for certain: a busy daemon refuses some.
async fn open_and_close(client: &Client, socket: usize) -> bool {
    let (user, connection) = (format!("u{socket}"), format!("c{socket}"));
    let opened = client.attempt(
        "connect",
        json!({"user": {"id": user}, "connection_id": connection, "lease": "gw"}),
        ANSWER,
    );
    let closed = async {
        let disconnect = json!({"user_id": user, "connection_id": connection});
        eventually(&format!("{user} is disconnected"), REPEATED, async || {
            client.attempt("disconnect", disconnect.clone(), ANSWER).await?.ok().map(drop)
        })
        .await;
    };
    let (opened, ()) = tokio::join!(opened, closed);
    matches!(opened, Some(Ok(_)))
}

async fn nobody_is_left(client: &Client) {
    eventually("every connection has ended", ENDED, async || {
        (count(client, json!({"online": true})).await == 0).then_some(())
    })
    .await;
}

/// Opens and closes sockets with that many daemons.
async fn no_ghost_with(daemons: usize) {
    let server = Server::start().await;
    let spawn = |_| Daemon::spawn(&server, NO_GRACE);
    let _daemons = join_all((0..daemons).map(spawn)).await;
    let client = Client::connect(&server).await;
    let opened = join_all((0..500).map(|socket| open_and_close(&client, socket))).await;
    nobody_is_left(&client).await;
    let opened = opened.into_iter().filter(|opened| *opened).count() as u64;
    let made = count(&client, json!({})).await.as_u64().unwrap();
    assert!(opened > 100 && made >= opened, "{opened} sockets opened, {made} users were made");
}

#[tokio::test]
async fn sockets_that_open_and_close_at_once_leave_no_ghost_with_two_daemons() {
    no_ghost_with(2).await;
}

#[tokio::test]
async fn sockets_that_open_and_close_at_once_leave_no_ghost_with_three_daemons() {
    no_ghost_with(3).await;
}

/// One of that many daemons is killed while sockets open and close.
async fn no_ghost_while_one_is_killed_of(daemons: usize) {
    let server = Server::start().await;
    let mut killed = Daemon::spawn(&server, NO_GRACE).await;
    let spawn = |_| Daemon::spawn(&server, NO_GRACE);
    let _others = join_all((1..daemons).map(spawn)).await;
    let client = Client::connect(&server).await;
    let sockets = join_all((0..500).map(|socket| open_and_close(&client, socket)));
    let kill = async {
        eventually("some sockets are done", ENDED, async || {
            (count(&client, json!({})).await.as_u64() > Some(50)).then_some(())
        })
        .await;
        killed.kill();
    };
    tokio::join!(sockets, kill);
    nobody_is_left(&client).await;
}

#[tokio::test]
async fn sockets_leave_no_ghost_while_one_of_two_daemons_is_killed() {
    no_ghost_while_one_is_killed_of(2).await;
}

#[tokio::test]
async fn sockets_leave_no_ghost_while_one_of_three_daemons_is_killed() {
    no_ghost_while_one_is_killed_of(3).await;
}

#[tokio::test]
async fn a_connect_behind_its_disconnect_is_ended_by_the_daemon_that_carries_it_out() {
    let mut pair = Pair::start(NO_GRACE).await;
    let answer = pair.two.disconnect("ann", "c").await;
    assert_eq!(answer["disconnected"], 0);
    pair.daemons[1].kill();
    pair.one.connect_user("ann", "c").await;
    nobody_is_left(&pair.one).await;
    pair.one.connect_user("ann", "d").await;
    assert!(is_online(&pair.one, "ann").await, "another connection is another");
    pair.one.connect_user("bob", "c").await;
    assert!(is_online(&pair.one, "bob").await, "and so is one of another user");
}

#[tokio::test]
async fn a_second_disconnect_with_a_condition_does_not_undo_the_first() {
    let pair = Pair::start(NO_GRACE).await;
    let plain = json!({"user_id": "ann", "connection_id": "c"});
    let on_lease = json!({"user_id": "ann", "connection_id": "c", "lease": "old"});
    pair.two.get("disconnect", plain).await;
    pair.two.get("disconnect", on_lease).await;
    let connect = json!({"user": {"id": "ann"}, "connection_id": "c", "lease": "new"});
    pair.one.get("connect", connect).await;
    nobody_is_left(&pair.one).await;
}

#[tokio::test]
async fn a_connect_that_comes_too_late_for_its_disconnect_stands_at_every_daemon() {
    let mut settings = NO_GRACE.to_vec();
    settings.push(("LIMITS__REQUEST_TIMEOUT", "1s"));
    let pair = Pair::start(&settings).await;
    pair.two.disconnect("ann", "c").await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    pair.one.connect_user("ann", "c").await;
    // The second daemon remembers the disconnect for longer, and would end the connection.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(is_online(&pair.two, "ann").await);
}

#[tokio::test]
async fn a_connect_behind_its_disconnect_goes_through_its_grace() {
    let pair = Pair::start(&[("LIVENESS__OFFLINE_GRACE", "60s")]).await;
    let early = json!({"user_id": "ann", "connection_id": "c", "grace_ms": 3000});
    pair.two.get("disconnect", early).await;
    pair.one.connect_user("ann", "c").await;
    eventually("the connection has ended", ENDED, async || {
        let told = pair.one.get("explain", json!({"user_id": "ann"})).await;
        (told["connections"] == json!([]) && told["leaving"][0]["connection_id"] == "c")
            .then_some(())
    })
    .await;
    assert!(is_online(&pair.one, "ann").await, "the connection is leaving");
    eventually("the grace that was named ends", ENDED, async || {
        (!is_online(&pair.one, "ann").await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_early_disconnect_for_another_lease_ends_nothing() {
    let pair = Pair::start(NO_GRACE).await;
    let early = json!({"user_id": "ann", "connection_id": "c", "lease": "old"});
    pair.two.get("disconnect", early).await;
    let connect = json!({"user": {"id": "ann"}, "connection_id": "c", "lease": "new"});
    pair.one.get("connect", connect).await;
    let explained = pair.two.get("explain", json!({"user_id": "ann"})).await;
    assert!(explained["record"]["connections"][0]["id"] == "c", "{explained}");
    assert!(is_online(&pair.one, "ann").await);
}

#[tokio::test]
async fn a_late_disconnect_writes_nothing() {
    let stage = Stage::start(NO_GRACE).await;
    stage.client.connect_user("ann", "c").await;
    stage.client.disconnect("ann", "c").await;
    let before = stage.client.upsert(json!({"id": "bob"})).await["rev"].as_u64().unwrap();
    for _ in 0..10 {
        assert_eq!(stage.client.disconnect("ann", "c").await["disconnected"], 0);
        assert_eq!(stage.client.disconnect("nobody", "c").await["disconnected"], 0);
    }
    let after = stage.client.upsert(json!({"id": "jim"})).await["rev"].as_u64().unwrap();
    assert_eq!(after, before + 1);
}

#[tokio::test]
async fn in_one_batch_a_connect_behind_its_disconnect_stands() {
    let pair = Pair::start(NO_GRACE).await;
    let disconnect = json!({"op": "disconnect", "user_id": "ann", "connection_id": "c"});
    let connect = json!({"op": "connect", "user": {"id": "ann"}, "connection_id": "c"});
    let ops = json!({"ops": [disconnect, connect], "me": false});
    let results = pair.one.get("batch", ops).await["results"].take();
    assert_eq!(results[0]["disconnected"], 0, "{results}");
    assert_eq!(results[1]["created"], true, "{results}");
    // An overtaken connect would be ended by the second daemon after a second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(is_online(&pair.two, "ann").await);
}

#[tokio::test]
async fn a_lease_is_used_again_at_once_after_its_disconnect() {
    let pair = Pair::start(NO_GRACE).await;
    assert_eq!(pair.two.get("disconnect", json!({"lease": "gw"})).await["disconnected"], 0);
    let connect = json!({"user": {"id": "ann"}, "connection_id": "c", "lease": "gw"});
    pair.one.get("connect", connect).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(is_online(&pair.two, "ann").await);
}
