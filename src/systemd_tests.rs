//! What is said, with real loops and a real socket.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};
use tokio_util::task::TaskTracker;

use super::*;
use crate::watchdog::{Watchdog, WatchdogTap};

/// Longer than the watchdog call takes for a round, on a machine that is busy.
const QUIET: Duration = Duration::from_secs(2);

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_status_is_one_line_whatever_it_tells() {
    let health = Health::new();
    health.starting("NATS: \"no\"\nREADY=1");
    let status = line(&health.watch().borrow());
    assert_eq!(status, "waiting for NATS: \"no\" READY=1");
}

/// A loop that serves: whenever there is work, it takes the lock.
async fn serve(mut tap: WatchdogTap, work: Arc<Notify>, lock: Arc<Mutex<()>>) {
    loop {
        tokio::select! {
            ping = tap.next() => ping.answer(),
            () = work.notified() => drop(lock.lock().await),
        }
    }
}

async fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = socket.recv(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

async fn sign_of_life(socket: &UnixDatagram) {
    while heard(socket).await != "WATCHDOG=1\n" {}
}

#[tokio::test]
async fn one_loop_that_hangs_stops_the_watchdog_though_all_others_turn() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let (health, tracker) = (Health::new(), TaskTracker::new());
    let (_words, steps) = mpsc::unbounded_channel();
    let notifier = Notifier {
        socket: Some(ours),
        feed_every: Some(Duration::from_millis(1)),
        condition: health.watch(),
        answers: health.answers(),
        steps,
    };
    tracker.spawn(notifier.beside(std::future::pending::<()>()));

    let (mut watchdog, lock, work) =
        (Watchdog::default(), Arc::<Mutex<()>>::default(), Arc::default());
    tracker.spawn(serve(watchdog.register("one"), Arc::clone(&work), Arc::clone(&lock)));
    tracker.spawn(serve(watchdog.register("other"), Arc::default(), Arc::default()));
    tracker.spawn(watchdog.run(health.clone()));
    let starting = async { while heard(&theirs).await != "WATCHDOG=1\n" {} };
    assert!(timeout(QUIET, starting).await.is_err(), "it is fed before it serves");
    health.serving();
    timeout(PATIENCE, sign_of_life(&theirs)).await.expect("all loops turn");

    let held = lock.lock().await;
    work.notify_one();
    let silence = async { while timeout(QUIET, sign_of_life(&theirs)).await.is_ok() {} };
    timeout(PATIENCE, silence).await.expect("silence while one loop hangs");
    drop(held);
    timeout(PATIENCE, sign_of_life(&theirs)).await.expect("it goes on");
}
