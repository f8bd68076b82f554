//! The notifications, with real loops and a real socket.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};
use tokio_util::task::TaskTracker;

use super::*;
use crate::watchdog::{Watchdog, WatchdogTap};

/// Longer than a round of the watchdog takes on a busy machine.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_status_is_one_line_whatever_it_holds() {
    let health = Health::new();
    health.starting("NATS: \"no\"\nREADY=1");
    let status = status_line(&health.watch().borrow());
    assert_eq!(status, "waiting for NATS: \"no\" READY=1");
}

/// A loop that serves: it takes the lock when there is work.
async fn serve(mut tap: WatchdogTap, work: Arc<Notify>, lock: Arc<Mutex<()>>) {
    loop {
        tokio::select! {
            ping = tap.next() => ping.answer(),
            () = work.notified() => drop(lock.lock().await),
        }
    }
}

async fn receive(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = socket.recv(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

async fn watchdog_fed(socket: &UnixDatagram) {
    while receive(socket).await != "WATCHDOG=1\n" {}
}

#[tokio::test]
async fn one_loop_that_hangs_stops_the_watchdog_though_all_others_turn() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let (health, tracker) = (Health::new(), TaskTracker::new());
    let (_reloads, reloads) = mpsc::unbounded_channel();
    let notifier = SdNotifier {
        socket: Some(ours),
        feed_interval: Some(Duration::from_millis(1)),
        condition: health.watch(),
        answers: health.answers(),
        reloads,
    };
    tracker.spawn(notifier.run_beside(std::future::pending::<()>()));

    let (mut watchdog, lock, work) =
        (Watchdog::default(), Arc::<Mutex<()>>::default(), Arc::default());
    tracker.spawn(serve(watchdog.register("one"), Arc::clone(&work), Arc::clone(&lock)));
    tracker.spawn(serve(watchdog.register("other"), Arc::default(), Arc::default()));
    tracker.spawn(watchdog.run(health.clone()));
    let starting = async { while receive(&theirs).await != "WATCHDOG=1\n" {} };
    assert!(timeout(QUIET_PERIOD, starting).await.is_err(), "it is fed before it serves");
    health.serving();
    timeout(TIMEOUT, watchdog_fed(&theirs)).await.expect("all loops turn");

    let held = lock.lock().await;
    work.notify_one();
    let silence = async { while timeout(QUIET_PERIOD, watchdog_fed(&theirs)).await.is_ok() {} };
    timeout(TIMEOUT, silence).await.expect("silence while one loop hangs");
    drop(held);
    timeout(TIMEOUT, watchdog_fed(&theirs)).await.expect("it goes on");
}
