//! Real loops, one of which is made to hang.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};
use tokio::time::{advance, timeout};
use tokio_util::task::TaskTracker;

use super::*;

/// A loop that answers pings; its work takes the lock.
async fn turn(mut tap: WatchdogTap, work: Arc<Notify>, lock: Arc<Mutex<()>>) {
    loop {
        tokio::select! {
            ping = tap.next() => ping.answer(),
            () = work.notified() => drop(lock.lock().await),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_ends_the_answers_until_it_goes_on() {
    let (health, tracker) = (Health::new(), TaskTracker::new());
    health.serving();
    let (mut watchdog, lock, work) =
        (Watchdog::default(), Arc::<Mutex<()>>::default(), Arc::default());
    tracker.spawn(turn(watchdog.register("one"), Arc::clone(&work), Arc::clone(&lock)));
    tracker.spawn(turn(watchdog.register("other"), Arc::default(), Arc::default()));
    let (mut answers, condition) = (health.answers(), health.watch());
    tracker.spawn(watchdog.run(health.clone()));
    for _ in 0..3 {
        timeout(2 * PING_INTERVAL, answers.changed()).await.expect("all answer").unwrap();
    }
    let held = lock.lock().await;
    work.notify_one();
    // The round that is under way may have been answered already.
    let _ = timeout(2 * PING_INTERVAL, answers.changed()).await;
    let silence = PING_INTERVAL * MAX_SILENT_TICKS * 3;
    assert!(timeout(silence, answers.changed()).await.is_err(), "answered while one loop hung");
    assert_eq!(condition.borrow().to_string(), "loops: one does not answer");
    assert!(!condition.borrow().is_ready());
    drop(held);
    timeout(2 * PING_INTERVAL, answers.changed()).await.expect("all answer again").unwrap();
    assert!(condition.borrow().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_has_ended_does_not_answer() {
    let (health, tracker) = (Health::new(), TaskTracker::new());
    let mut watchdog = Watchdog::default();
    drop(watchdog.register("gone"));
    tracker.spawn(turn(watchdog.register("there"), Arc::default(), Arc::default()));
    let mut answers = health.answers();
    tracker.spawn(watchdog.run(health.clone()));
    assert!(timeout(4 * PING_INTERVAL, answers.changed()).await.is_err());
    assert_eq!(health.watch().borrow().to_string(), "loops: gone does not answer");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_does_not_take_its_loops_for_hung() {
    let (health, tracker) = (Health::new(), TaskTracker::new());
    health.serving();
    let (mut watchdog, lock, work) =
        (Watchdog::default(), Arc::<Mutex<()>>::default(), Arc::default());
    tracker.spawn(turn(watchdog.register("one"), Arc::clone(&work), Arc::clone(&lock)));
    let held = lock.lock().await;
    work.notify_one();
    let mut answers = health.answers();
    tracker.spawn(watchdog.run(health.clone()));
    assert!(timeout(2 * PING_INTERVAL, answers.changed()).await.is_err());
    advance(PING_INTERVAL * MAX_SILENT_TICKS * 10).await;
    drop(held);
    timeout(2 * PING_INTERVAL, answers.changed()).await.expect("all answer").unwrap();
    assert!(health.watch().borrow_and_update().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_waits_for_nats_answers_while_it_is_exempt() {
    let mut watchdog = Watchdog::default();
    let mut tap = watchdog.register("one");
    let work = Notify::new();
    let connected = std::cell::Cell::new(false);
    let waits = async {
        tap.during(|| !connected.get(), work.notified()).await;
    };
    let caller = async {
        let called = |mut answers: FuturesUnordered<_>| async move {
            timeout(10 * EXEMPT_POLL_INTERVAL, answers.next()).await.is_ok()
        };
        assert!(called(watchdog.ping_all()).await, "not connected: it may take its time");
        connected.set(true);
        assert!(!called(watchdog.ping_all()).await, "connected, and still not done");
        work.notify_one();
    };
    tokio::join!(waits, caller);
}
